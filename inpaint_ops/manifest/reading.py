"""Raw rows to accepted and rejected ones, each with a unique id."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pydantic

from inpaint_ops.errors import ConfigError, ForbiddenLocationError, ManifestError
from inpaint_ops.locations import Location, has_scheme, parse
from inpaint_ops.manifest import parquet
from inpaint_ops.manifest.explaining import EXPLAINED, explain
from inpaint_ops.manifest.formats import (
    MANIFEST_ENDINGS,
    ManifestLimits,
    RawRow,
    load_json,
    manifest_ending,
    read_csv,
    read_excel,
    read_jsonl,
    read_parquet,
)
from inpaint_ops.manifest.naming import Names
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.packed import PackedLines, PackedRows
from inpaint_ops.manifest.problems import BadRowError, shortened
from inpaint_ops.manifest.rejecting import cut, reject
from inpaint_ops.manifest.rows import (
    _ID_BYTES,
    IGNORED_FIELDS,
    TEXT_FIELD,
    TEXTS,
    ParsedManifest,
    RejectedRow,
    Row,
    constructed,
    is_valid_id,
    pack_rejected,
    pack_row,
    unpack_rejected,
    unpack_row,
)
from inpaint_ops.manifest.templates import RowDefaults
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped
from inpaint_ops.manifest.values import as_far_as_meant, by_value, is_index_column


def read_manifest(
    data: bytes,
    *,
    location: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits | None = None,
    row_limit: int | None = None,
    defaults: RowDefaults | None = None,
) -> ParsedManifest:
    """Read a manifest's bytes; the name's ending decides the format, one of `MANIFEST_ENDINGS`.

    `location` is where the manifest lies: relative keys are below its folder. `is_allowed` says of a location whether
    rows may read it. `row_limit` keeps the first rows only. `defaults` is for rows that do not say it themselves.
    Raises ManifestError when the file as a whole is unusable.
    """
    limits = limits or ManifestLimits()
    return read_parts(
        [(location.name, data)],
        folder=location.parent,
        is_allowed=is_allowed,
        limits=limits,
        row_limit=row_limit,
        defaults=defaults,
    )


def read_parts(
    parts: Iterable[tuple[str, bytes]],
    *,
    folder: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits,
    row_limit: int | None = None,
    defaults: RowDefaults | None = None,
) -> ParsedManifest:
    """Read a manifest of one or several files, each a name and its bytes, whose rows follow each other.

    Relative keys are below `folder`. The limits hold for all parts together. Raises as `read_manifest` does.
    """
    read, name, left = _Reading(), folder.name, limits.max_bytes
    defaults = defaults or RowDefaults()
    for name, data in parts:
        left -= len(data)
        if left < 0:
            raise ManifestError(
                f"{name}: {limits.max_bytes - left} bytes, the limit is {limits.max_bytes} (INPAINT_MAX_MANIFEST_BYTES)"
            )
        before = read.last
        for number, raw in _rows(data, name, limits, limits.max_rows if row_limit is None else None, read.notes):
            if row_limit is not None and read.rows >= row_limit:
                break
            if read.rows >= limits.max_rows:
                raise _too_many_rows(name, limits.max_rows)
            read.add(before + number, _validate(before + number, raw, folder, is_allowed, limits, defaults, read.notes))
            del raw  # 30 times its text, so not while the next one is read
        if row_limit is not None and read.rows >= row_limit:
            break
    if not read.rows:
        a_row = "JSON object to a line" if manifest_ending(name) in (".jsonl", ".ndjson") else "row per image"
        raise ManifestError(f"{name} has no rows: write one {a_row}, with image, mask and prompt")
    return read.parsed()


def _rows(data: bytes, name: str, limits: ManifestLimits, max_rows: int | None, notes: Notes) -> Iterator[RawRow]:
    ending = manifest_ending(name)
    if ending not in MANIFEST_ENDINGS:
        cure = {
            ".json": "write one object per line (jq -c '.[]') and name it .jsonl",
            ".xls": "save it as .xlsx or .csv",
            ".ods": "save it as .xlsx or .csv",
        }.get(ending, f"use {', '.join(sorted(MANIFEST_ENDINGS))}")
        raise ManifestError(f"{name}: {ending or 'no ending'} is not a manifest format; {cure}")
    plain = gunzipped(data, name, limits.max_bytes)
    if plain is not data:
        notes.add("unpacked with gzip")
    if ending == ".parquet":
        return read_parquet(plain, name, limits, max_rows, notes)
    if ending == ".xlsx":
        return read_excel(plain, name, limits, max_rows, notes)
    text, encoding = as_utf8(plain, name, limits.max_bytes)
    if encoding:
        notes.add(f"read as {encoding}")
    if ending in (".csv", ".tsv"):
        return read_csv(text, name, limits, notes, delimiter="\t" if ending == ".tsv" else None)
    return read_jsonl(text, limits)


class _Reading:
    """The rows of a manifest that were read so far, packed. Ids come last: what an author wrote goes before a stem."""

    def __init__(self) -> None:
        self.rows = 0
        self.last = 0
        """The number of the row that was read last."""
        self.notes = Notes()
        self._names = Names()
        self._accepted, self._rejected = PackedLines(), PackedLines()
        self._wanted = PackedLines()
        """Of each row, a mark and a name: the author's own or a stem to be made unique; of a rejected one, its line."""

    def add(self, number: int, row: Row | RejectedRow) -> None:
        """Keep a row. An id that an author wrote is the first row's that has it; further rows are rejected."""
        self.rows += 1
        self.last = number
        if isinstance(row, Row) and row.id is not None:
            owner = self._names.claim(row.id, number)
            if owner is not None:
                message = f"id: {row.id!r} is already that of row {owner}: give each row its own"
                row = reject(number, row.model_dump(mode="json", exclude_defaults=True), message, "id")
        if isinstance(row, RejectedRow):
            self._rejected.append(pack_rejected(row))
            self._wanted.append(f"!{number}={row.id}".encode())
        else:
            self._accepted.append(pack_row(row, number))
            self._wanted.append(f"~{_stem(row.image)}".encode() if row.id is None else f"={row.id}".encode())

    def parsed(self) -> ParsedManifest:
        """The rows, each with an id that no other has. Rejected ones come last: they name no image."""
        ids, bad_ids = PackedLines(), PackedLines()
        for wanted in self._wanted.lines():
            mark, name = wanted[:1], wanted[1:]
            if mark != b"!":
                ids.append(name if mark == b"=" else self._names.give(name.decode()).encode())
        # the author's first, as one byte per row: what is generated later may look like one
        is_own = bytes(bool(own) and self._names.claim(own, number) is None for number, own in self._rejected_ids())
        for (number, own), keeps_it in zip(self._rejected_ids(), is_own, strict=True):
            bad_ids.append((own if keeps_it else self._names.give(f"row-{number}")).encode())
        return ParsedManifest(
            PackedRows(unpack_row, self._accepted, ids),
            PackedRows(unpack_rejected, self._rejected, bad_ids),
            self.notes.lines(),
        )

    def _rejected_ids(self) -> Iterator[tuple[int, str]]:
        """Of each rejected row, its line and the id that its author wrote; empty where that is none."""
        for wanted in self._wanted.lines():
            if wanted.startswith(b"!"):
                number, _, own = wanted[1:].decode().partition("=")
                yield int(number), own


def _too_many_rows(name: str, limit: int) -> ManifestError:
    return ManifestError(f"{name}: {parquet.too_many_rows(limit)}")


def _validate(
    number: int,
    raw: dict[str, Any] | BadRowError,
    folder: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits,
    defaults: RowDefaults,
    notes: Notes,
) -> Row | RejectedRow:
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
    if _WINDOWS_DRIVE.match(text):
        raise BadRowError(
            f"{shortened(text)!r} is a path of a Windows drive: write a path relative to the manifest, with '/'", field
        )
    plain = _with_slashes(text)
    if plain != text:
        notes.count_row("a path with '\\' or './' is read as a plain key with '/'")
    return plain


def _with_slashes(text: str) -> str:
    if "\\" not in text and "./" not in text and not text.endswith("."):  # most, and they are very many
        return text
    return "/".join(part for part in text.replace("\\", "/").split("/") if part != ".")


_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def _whole(text: str, folder: Location) -> str:
    """A relative key as a URI; as it is, where it is none or may not be read."""
    try:
        return text if has_scheme(text) or _WINDOWS_DRIVE.match(text) else folder.join(_with_slashes(text)).full_uri
    except (ConfigError, ForbiddenLocationError):
        return text


def _stem(key: str) -> str:
    stem = unicodedata.normalize("NFC", PurePosixPath(key).stem)
    name = re.sub(r"[^\w.+@=() -]+|\.{2,}", "_", stem).strip(" .")[:60].rstrip(" .")
    room = _ID_BYTES - len("-2000000")
    if is_valid_id(name) and len(name.encode()) <= room and name == unicodedata.normalize("NFC", name):
        return name
    return "row-" + unicodedata.normalize("NFC", re.sub(r"\W+", "", name))[:40]
