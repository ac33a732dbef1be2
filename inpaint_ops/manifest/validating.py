"""One row as it is written to an accepted or a rejected one, whatever other rows there are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pydantic

from inpaint_ops.errors import ConfigError, ForbiddenLocationError
from inpaint_ops.locations import Location, check_slashes, has_scheme, is_on_a_drive, parse
from inpaint_ops.manifest.explaining import EXPLAINED, explain
from inpaint_ops.manifest.formats import ManifestLimits, load_json
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.problems import BadRowError, shortened
from inpaint_ops.manifest.rejecting import cut, reject
from inpaint_ops.manifest.rows import (
    _ID_BYTES,
    IGNORED_FIELDS,
    TEXT_FIELD,
    TEXTS,
    RejectedRow,
    Row,
    constructed,
    is_valid_id,
)
from inpaint_ops.manifest.templates import RowDefaults
from inpaint_ops.manifest.values import as_far_as_meant, by_value, is_index_column


def validate(
    number: int,
    raw: dict[str, Any] | BadRowError,
    folder: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits,
    defaults: RowDefaults,
    notes: Notes,
) -> Row | RejectedRow:
    """The row with whole URIs, or rejected: what is wrong with it, whatever other rows there are.

    `raw` is the row as a file of any format has it, or why it cannot be taken apart. Relative keys are below `folder`,
    and `is_allowed` says of a location whether rows may read it. What is changed or left out is noted in `notes`.
    """
    whole = partial(_whole, folder=folder)
    if isinstance(raw, BadRowError):
        written = as_far_as_meant(raw.written, load_json)
        if raw.text:
            written = {TEXT_FIELD: raw.text if raw.size is None else cut(raw.text, raw.size)}
        return reject(number, written, str(raw), raw.field, whole)
    try:
        values = defaults.fill(by_value(raw, load_json))
        unknown = []
        for key in [key for key in values if key not in _FIELDS]:
            if key in IGNORED_FIELDS:
                del values[key]
            elif is_index_column(key):
                del values[key]
                notes.left_out(key)
            else:
                unknown.append(key)
        for key in unknown[EXPLAINED:]:  # pydantic would describe each, in 500 bytes
            del values[key]
        if isinstance(raw.get("id"), str) and values.get("id") != raw["id"]:
            notes.count_row("an id that is a whole number with decimals (7.0) is read as its digits (7)")
        row = Row.model_validate(values, strict=True)
        for field in TEXTS:
            if len(getattr(row, field) or "") > limits.max_prompt_chars:
                raise BadRowError(f"longer than {limits.max_prompt_chars} characters (INPAINT_MAX_PROMPT_CHARS)", field)
        places = {field: _resolve(getattr(row, field), field, folder, is_allowed, notes) for field in ("image", "mask")}
    except pydantic.ValidationError as error:
        explained = explain(error, more=len(unknown[EXPLAINED:]))
        return reject(number, as_far_as_meant(raw, load_json), *explained, whole)
    except BadRowError as error:
        return reject(number, as_far_as_meant(raw, load_json), str(error), error.field, whole)
    return constructed(Row, vars(row) | places, row.model_fields_set)


_FIELDS = frozenset(Row.model_fields)


def _resolve(text: str, field: str, folder: Location, is_allowed: Callable[[Location], bool], notes: Notes) -> str:
    try:
        location = parse(text) if has_scheme(text) else folder.join(_plain_key(text, field, notes))
    except (ConfigError, ForbiddenLocationError) as error:
        raise BadRowError(str(error), field) from None
    if not location.key or location.key.endswith("/"):
        raise BadRowError(f"{text!r} names a folder, not an object", field)
    if not is_allowed(location):
        raise BadRowError(
            f"{location} is outside the prefixes that may be read; add its prefix to INPAINT_ALLOWED_PREFIXES "
            "or, in a shell, with --allow",
            field,
        )
    return location.uri


def _plain_key(text: str, field: str, notes: Notes) -> str:
    r"""A key as the store names it, of a path as Windows (`photos\a.png`) or `find .` (`./a.png`) writes it."""
    if is_on_a_drive(text):
        raise BadRowError(
            f"{shortened(text)!r} is a path of a Windows drive: write a path relative to the manifest, with '/'", field
        )
    check_slashes(text)
    plain = _with_slashes(text)
    if plain != text:
        notes.count_row("a path with '\\' or './' is read as a plain key with '/'")
    return plain


def _with_slashes(text: str) -> str:
    if "\\" not in text and "./" not in text and not text.endswith("."):  # most, and they are very many
        return text
    return "/".join(part for part in text.replace("\\", "/").split("/") if part != ".")


def _whole(text: str, folder: Location) -> str:
    """A relative key as a URI; as it is, where it is none or may not be read."""
    try:
        return text if has_scheme(text) or is_on_a_drive(text) else folder.join(_with_slashes(text)).full_uri
    except (ConfigError, ForbiddenLocationError):
        return text


def id_or_stem(row: Row) -> bytes:
    """The row's own id behind `=`; or, behind `~`, what it is named after: its image's name without the ending."""
    return f"~{_stem(row.image)}".encode() if row.id is None else f"={row.id}".encode()


def _stem(key: str) -> str:
    stem = unicodedata.normalize("NFC", PurePosixPath(key).stem)
    name = re.sub(r"[^\w.+@=() -]+|\.{2,}", "_", stem).strip(" .")[:60].rstrip(" .")
    room = _ID_BYTES - len("-2000000")
    if is_valid_id(name) and len(name.encode()) <= room and name == unicodedata.normalize("NFC", name):
        return name
    return "row-" + unicodedata.normalize("NFC", re.sub(r"\W+", "", name))[:40]
