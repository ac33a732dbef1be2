"""What the user wrote: rows, read from JSONL, CSV or Parquet, and told apart into accepted and rejected.

A bad row is rejected with its line, the field and the cure; the others go on. Only a file that cannot be read at all
raises ManifestError.

A manifest is read a row at a time, and what is kept of a row is its text, compressed: memory grows by less than the
file, and by some 200 bytes per row.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import to_jsonable_python

from inpaint_ops import parquet
from inpaint_ops.errors import ConfigError, ForbiddenLocationError, ManifestError, one_line
from inpaint_ops.locations import Location, has_scheme, parse
from inpaint_ops.manifest_text import CsvError, NotUtf8Error, csv_records, json_lines
from inpaint_ops.naming import Names
from inpaint_ops.packed import PackedLines, PackedRows
from inpaint_ops.records import ErrorInfo

Quality = Literal["good", "high", "best"]
STEPS: dict[str, int] = {"good": 20, "high": 30, "best": 50}
"""Denoising steps by quality, from the optimisation notes."""

MAX_SEED = 2**63 - 1
_PROMPT_KEPT = 4000
"""Characters of a rejected row's prompt that its record shows."""
_NAME_SHOWN = 80
"""Characters of an unknown field's name that an error shows."""
_ID = re.compile(r"\w[\w.+@=() -]{0,119}")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|(com|lpt)[\d¹²³])( *\..*)?")
_ID_BYTES = 200
MAX_EXTRA_DEPTH = 32
"""Objects and lists inside each other in `extra`, at most: pydantic writes no more than 255, and JSON readers vary."""


class Row(BaseModel):
    """One row of a manifest, as its author wrote it.

    `image` and `mask` are keys relative to the manifest, or URIs under an allowed prefix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: str = Field(min_length=1, max_length=1024)
    mask: str = Field(min_length=1, max_length=1024)
    prompt: str
    id: str | None = Field(default=None, description="Names the output; default: the image's stem, made unique.")
    negative_prompt: str | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    quality: Quality | None = None
    steps: int | None = Field(default=None, ge=1, le=500)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    strength: float | None = Field(default=None, gt=0, le=1)
    mask_channel: Literal["auto", "luma", "alpha", "red", "green", "blue"] = "auto"
    mask_threshold: int | None = Field(
        default=None, ge=0, le=255, description="Levels from here on are painted wholly; 0: levels are weights."
    )
    mask_invert: bool = False
    mask_dilate: int = Field(default=0, ge=0, le=512, description="Pixels of the source.")
    mask_blur: float = Field(default=0, ge=0, le=256, description="Gaussian sigma, in pixels of the source.")
    crop: Literal["none", "auto"] | int = "none"
    format: Literal["png", "webp", "tiff", "jpeg"] = "png"
    extra: dict[str, Any] = Field(default_factory=dict, description="Passed through to the record.")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _no_control_characters(cls, value: str | None) -> str | None:
        if value and _CONTROL.search(value):
            raise ValueError("holds control characters: remove them")
        return value

    @field_validator("id")
    @classmethod
    def _id_is_a_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = unicodedata.normalize("NFC", value)
        if not is_valid_id(value):
            raise ValueError(
                "must be 1 to 120 letters, digits, spaces or '._+@=()-', begin with a letter or digit, "
                "and be no reserved name"
            )
        return value

    @field_validator("extra")
    @classmethod
    def _extra_is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        """What a Parquet file holds beyond JSON (times, decimals) becomes text; what JSON cannot say is refused."""
        if _is_plain(value):
            return value  # as it is: a copy of a large one would be as large again
        try:
            plain: dict[str, Any] = to_jsonable_python(value, inf_nan_mode="constants")
            json.dumps(plain, allow_nan=False)
        except ValueError:
            raise ValueError("holds NaN, infinity or bytes, which JSON cannot say") from None
        return plain

    @field_validator("crop")
    @classmethod
    def _margin_is_sane(cls, value: str | int) -> str | int:
        if isinstance(value, int) and not 0 <= value <= 4096:
            raise ValueError("a margin is 0 to 4096 pixels")
        return value

    @model_validator(mode="after")
    def _quality_or_steps(self) -> Row:
        if self.quality is not None and self.steps is not None:
            raise ValueError("give quality or steps, not both")
        return self


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value` as it stands. Raises ValueError if it is nested too deep."""
    plain, open_parts = True, [iter((value,))]
    while open_parts:
        for part in open_parts[-1]:
            if len(open_parts) > MAX_EXTRA_DEPTH:
                raise ValueError(f"is nested more than {MAX_EXTRA_DEPTH} deep")
            if isinstance(part, dict):
                plain = plain and all(type(key) is str for key in part)
                open_parts.append(iter(part.values()))
                break
            if isinstance(part, list):
                open_parts.append(iter(part))
                break
            plain = plain and (type(part) in _PLAIN or (type(part) is float and math.isfinite(part)))
        else:
            open_parts.pop()
    return plain


_PLAIN = {str, int, bool, type(None)}


def is_valid_id(text: str) -> bool:
    """Whether `text` can name an output object on every store: no slash, no markup, no reserved name, 200 bytes."""
    if not _ID.fullmatch(text) or ".." in text or text != text.strip(" .") or _RESERVED.fullmatch(text):
        return False
    return len(text.encode()) <= _ID_BYTES


class AcceptedRow(Row):
    """A row with its line, its unique id and its full URIs: what a shard file holds."""

    row: int = Field(ge=1, le=2**31 - 1)
    id: str
    image: str
    mask: str

    def as_manifest_row(self) -> dict[str, Any]:
        """The row as a manifest would say it, with defaults left out: reading it back gives the same work."""
        return self.model_dump(mode="json", exclude={"row"}, exclude_defaults=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be worked on, and why."""

    row: int
    id: str
    error: ErrorInfo
    prompt: str = ""
    """The beginning of it: what is bad may be large, and is not kept."""


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """Every row of a manifest, told apart. Ids are unique over both lists."""

    accepted: Sequence[AcceptedRow]
    rejected: Sequence[RejectedRow]

    @classmethod
    def packed(cls, accepted: Iterable[AcceptedRow], rejected: Iterable[RejectedRow]) -> ParsedManifest:
        """The manifest of these rows, kept as compressed text."""
        lines, ids = PackedLines(), PackedLines()
        for row in accepted:
            lines.append(_pack(row, row.row))
            ids.append(row.id.encode())
        bad_lines, bad_ids = PackedLines(), PackedLines()
        for bad in rejected:
            bad_lines.append(_pack_rejected(bad))
            bad_ids.append(bad.id.encode())
        return cls(PackedRows(_unpack, lines, ids), PackedRows(_unpack_rejected, bad_lines, bad_ids))

    @property
    def rows(self) -> int:
        """How many rows the manifest has."""
        return len(self.accepted) + len(self.rejected)


def _pack(row: Row, number: int) -> bytes:
    """The row without its id, which may not be known yet."""
    fields = {name: value for name, value in row if name not in ("id", "row") and value != _DEFAULTS[name]}
    return _json_bytes(fields | {"row": number})


def _unpack(line: bytes, name: str) -> AcceptedRow:
    return AcceptedRow.model_construct(**json.loads(line), id=name)


def _pack_rejected(row: RejectedRow) -> bytes:
    return _json_bytes({"row": row.row, "error": row.error.model_dump(), "prompt": row.prompt})


def _unpack_rejected(line: bytes, name: str) -> RejectedRow:
    said = json.loads(line)
    return RejectedRow(said["row"], name, ErrorInfo.model_validate(said["error"]), said["prompt"])


def _json_bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


_DEFAULTS = {name: field.get_default(call_default_factory=True) for name, field in Row.model_fields.items()}


@dataclass(frozen=True, slots=True)
class ManifestLimits:
    """What is too much; see Settings for the defaults."""

    max_rows: int = 200_000
    max_bytes: int = 256 * 2**20
    max_prompt_chars: int = 4000
    max_row_bytes: int = 2**20


class _BadRowError(Exception):
    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


_Raw = tuple[int, dict[str, Any] | _BadRowError]


def read_manifest(
    data: bytes,
    *,
    location: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits | None = None,
    row_limit: int | None = None,
) -> ParsedManifest:
    """Read a manifest's bytes; the format is told by the name's ending (`.jsonl`, `.ndjson`, `.csv`, `.parquet`).

    `location` is where the manifest lies: relative keys are below its folder. `is_allowed` says of a location whether
    rows may read it. `row_limit` keeps the first rows only. Raises ManifestError when the file as a whole is unusable.
    """
    limits = limits or ManifestLimits()
    if len(data) > limits.max_bytes:
        raise ManifestError(
            f"{location.name}: {len(data)} bytes, the limit is {limits.max_bytes} (INPAINT_MAX_MANIFEST_BYTES)"
        )
    strict = True
    match PurePosixPath(location.name).suffix.lower():
        case ".jsonl" | ".ndjson":
            rows = _read_jsonl(data, limits)
        case ".csv":
            rows, strict = _read_csv(data, location.name, limits), False
        case ".parquet":
            rows = _read_parquet(data, location.name, limits, limits.max_rows if row_limit is None else None)
        case suffix:
            raise ManifestError(
                f"{location.name}: {suffix or 'no ending'} is not a manifest format; use .jsonl, .csv or .parquet"
            )
    read = _Reading()
    for number, raw in rows:
        if row_limit is not None and read.rows >= row_limit:
            break
        if read.rows >= limits.max_rows:
            raise _too_many_rows(location.name, limits.max_rows)
        read.add(number, _validate(number, raw, location, is_allowed, limits, strict=strict))
        del raw  # 30 times its text, so not while the next one is read
    if not read.rows:
        raise ManifestError(f"{location.name} has no rows: write one JSON object a line with image, mask and prompt")
    return read.parsed()


class _Reading:
    """The rows of a manifest that were read so far, packed. Ids come last: what an author wrote goes before a stem."""

    def __init__(self) -> None:
        self.rows = 0
        self._names = Names()
        self._accepted, self._rejected = PackedLines(), PackedLines()
        self._wanted = PackedLines()
        """Of each row, a mark and a name: the author's own, a stem to be made unique, a rejected row's."""

    def add(self, number: int, row: Row | RejectedRow) -> None:
        """Keep a row. An id that an author wrote is the first row's that has it; further rows are rejected."""
        self.rows += 1
        if isinstance(row, Row) and row.id is not None:
            owner = self._names.claim(row.id, number)
            if owner is not None:
                message = f"id: {row.id!r} is already that of row {owner}: give each row its own"
                row = _reject(number, {"prompt": row.prompt}, message, "id")
        if isinstance(row, RejectedRow):
            self._rejected.append(_pack_rejected(row))
            self._wanted.append(b"!row-%d" % number)
        else:
            self._accepted.append(_pack(row, number))
            self._wanted.append(f"~{_stem(row.image)}".encode() if row.id is None else f"={row.id}".encode())

    def parsed(self) -> ParsedManifest:
        """The rows, each with an id that no other has."""
        ids, bad_ids = PackedLines(), PackedLines()
        for wanted in self._wanted.lines():
            mark, name = wanted[:1], wanted[1:]
            unique = name if mark == b"=" else self._names.give(name.decode()).encode()
            (bad_ids if mark == b"!" else ids).append(unique)
        return ParsedManifest(
            PackedRows(_unpack, self._accepted, ids), PackedRows(_unpack_rejected, self._rejected, bad_ids)
        )


def _too_many_rows(name: str, limit: int) -> ManifestError:
    return ManifestError(f"{name}: {parquet.too_many_rows(limit)}")


def _validate(
    number: int,
    raw: dict[str, Any] | _BadRowError,
    manifest: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits,
    *,
    strict: bool,
) -> Row | RejectedRow:
    if isinstance(raw, _BadRowError):
        return _reject(number, {}, str(raw), raw.field)
    unknown = [key for key, value in raw.items() if key not in Row.model_fields and value is not None]
    unseen = frozenset(unknown[_EXPLAINED:])  # pydantic would describe each, in 500 bytes
    present = {key: value for key, value in raw.items() if value is not None and key not in unseen}
    try:
        row = Row.model_validate(present, strict=strict)
        for field in ("prompt", "negative_prompt"):
            if len(getattr(row, field) or "") > limits.max_prompt_chars:
                raise _BadRowError(
                    f"longer than {limits.max_prompt_chars} characters (INPAINT_MAX_PROMPT_CHARS)", field
                )
        places = {field: _resolve(getattr(row, field), field, manifest, is_allowed) for field in ("image", "mask")}
    except pydantic.ValidationError as error:
        return _reject(number, raw, *_explain(error, more=len(unseen)))
    except _BadRowError as error:
        return _reject(number, raw, str(error), error.field)
    return row.model_copy(update=places)


def _resolve(text: str, field: str, manifest: Location, is_allowed: Callable[[Location], bool]) -> str:
    try:
        location = parse(text) if has_scheme(text) else manifest.parent.join(text)
    except (ConfigError, ForbiddenLocationError) as error:
        raise _BadRowError(str(error), field) from None
    if not location.key or location.key.endswith("/"):
        raise _BadRowError(f"{text!r} names a folder, not an object", field)
    if not is_allowed(location):
        raise _BadRowError(
            f"{location} is outside the prefixes that may be read; add its prefix to INPAINT_ALLOWED_PREFIXES", field
        )
    return location.uri


_EXPLAINED = 3
"""Of the things that are wrong with a row; of the others their number is said."""


def _explain(error: pydantic.ValidationError, *, more: int) -> tuple[str, str | None]:
    """One line for all that is wrong with a row, unknown fields first: a typo often explains a missing field."""
    found = sorted(error.errors(include_url=False, include_context=False), key=lambda e: e["type"] != "extra_forbidden")
    shown = [
        _explain_one(str(item["loc"][0]) if item["loc"] else "", item["type"], item["msg"])
        for item in found[:_EXPLAINED]
    ]
    more += max(0, len(found) - _EXPLAINED)
    return "; ".join(shown) + (f"; and {more} more" if more else ""), str(found[0]["loc"][0]) if found[0][
        "loc"
    ] else None


def _explain_one(field: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        short = len(field) <= _NAME_SHOWN  # what is compared is indexed by its letters first
        near = difflib.get_close_matches(field, list(Row.model_fields), n=1) if short else []
        hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(Row.model_fields)}"
        return f"unknown field {_shortened(field)!r}, {hint}"
    if kind == "missing":
        return f"{field}: the field is missing"
    return f"{field}: {message}".removeprefix(": ").replace("Value error, ", "")


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "…"


def _reject(number: int, raw: dict[str, Any], message: str, field: str | None) -> RejectedRow:
    text = one_line(f"row {number}: {message}")
    named = None if field is None else one_line(_shortened(field))
    error = ErrorInfo(type="RowError", stage="validate", message=text, permanent=True, field=named)
    prompt = raw.get("prompt")
    return RejectedRow(number, "", error, prompt[:_PROMPT_KEPT] if isinstance(prompt, str) else "")


def _stem(key: str) -> str:
    stem = unicodedata.normalize("NFC", PurePosixPath(key).stem)
    name = re.sub(r"[^\w.+@=() -]+|\.{2,}", "_", stem).strip(" .")[:60].rstrip(" .")
    room = _ID_BYTES - len("-2000000")
    if is_valid_id(name) and len(name.encode()) <= room and name == unicodedata.normalize("NFC", name):
        return name
    return "row-" + unicodedata.normalize("NFC", re.sub(r"\W+", "", name))[:40]


def _read_jsonl(data: bytes, limits: ManifestLimits) -> Iterator[_Raw]:
    for number, line in json_lines(data, limits.max_row_bytes):
        yield number, _too_long(limits) if line is None else _read_json_line(line)


def _read_json_line(line: bytes) -> dict[str, Any] | _BadRowError:
    try:
        value = _loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _BadRowError(f"not UTF-8 (byte {error.start}): save the manifest as UTF-8")
    except _BadRowError as error:
        return error
    return (
        value
        if isinstance(value, dict)
        else _BadRowError('not a JSON object: write {"image": ..., "mask": ..., "prompt": ...}')
    )


def _too_long(limits: ManifestLimits) -> _BadRowError:
    return _BadRowError(f"longer than {limits.max_row_bytes} bytes (INPAINT_MAX_ROW_BYTES)")


def _loads(text: str) -> Any:
    """Read JSON more strictly than `json`: no key twice, no NaN, no half of a surrogate pair. Raises _BadRowError."""
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except RecursionError:
        raise _BadRowError("nested too deeply") from None
    except ValueError as error:
        raise _BadRowError(f"not JSON: {error}") from None
    if "\\u" in text and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _BadRowError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character: remove it")
    return value


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _BadRowError("the field is given twice", _shortened(key))
            seen.add(key)
    return keys


def _no_constants(text: str) -> Any:
    raise _BadRowError(f"{text} is not a number that JSON knows")


def _read_csv(data: bytes, name: str, limits: ManifestLimits) -> Iterator[_Raw]:
    records = csv_records(data, limits.max_row_bytes)
    try:
        number, first = next(records, (1, []))
        if first is None:
            raise ManifestError(f"{name}: line {number}: the columns' names are {_too_long(limits)}")
        header = [cell.strip() for cell in first] if number == 1 else []
        if "image" not in header:
            raise ManifestError(
                f"{name}: the first line must name the columns (image, mask, prompt, ...); it is "
                f"{[_shortened(cell) for cell in header[:8]]!r}"
            )
        _check_columns(header, name)
        for line, cells in records:
            if cells is None:
                yield line, _too_long(limits)
            elif any(cell.strip() for cell in cells):
                yield line, _csv_row(header, cells)
            del cells  # of a line of commas they are eight times its text, so not while the next one is read
    except CsvError as error:
        raise ManifestError(f"{name}: line {error.line}: {error}; the rest cannot be told apart") from None
    except NotUtf8Error as error:
        raise ManifestError(f"{name}: not UTF-8 (byte {error.position}); save it as 'CSV UTF-8'") from None


def _csv_row(header: list[str], cells: list[str]) -> dict[str, Any] | _BadRowError:
    if len(cells) > len(header):
        return _BadRowError(f"{len(cells)} cells under {len(header)} columns: quote a cell that holds a comma")
    row: dict[str, Any] = {key: cell for key, cell in zip(header, cells, strict=False) if cell.strip() != ""}
    if _MARGIN.fullmatch(row.get("crop", "")):
        row["crop"] = int(row["crop"])
    if "extra" in row:
        try:
            row["extra"] = _loads(row["extra"])
        except _BadRowError as error:
            return _BadRowError(f"not a JSON object ({error})", "extra")
    return row


_MARGIN = re.compile(r"\s*[0-9]{1,9}\s*")


def _check_columns(names: list[str], name: str) -> None:
    twice = [column for column, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"{name}: two columns have one name: {sorted(map(_shortened, twice[:8]))}")


_PARQUET = b"PAR1"


def _read_parquet(data: bytes, name: str, limits: ManifestLimits, max_rows: int | None) -> Iterator[_Raw]:
    if not data.startswith(_PARQUET) or not data.endswith(_PARQUET):
        raise ManifestError(f"{name}: not a readable Parquet file: it is damaged, cut off or of another format")
    lines = parquet.read_lines(data, max_bytes=limits.max_bytes, max_row_bytes=limits.max_row_bytes, max_rows=max_rows)
    with contextlib.closing(lines):
        for number, line in enumerate(lines, 1):
            if "error" in line:
                raise ManifestError(f"{name}: {line['error']}")
            if "bad" in line:
                yield number, _BadRowError(line["bad"], line["field"] and _shortened(line["field"]))
            elif "row" in line:
                yield number, line.pop("row")


def to_jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as JSONL, one object a line, UTF-8."""
    out = io.BytesIO()
    write_jsonl(rows, out)
    return out.getvalue()


def write_jsonl(rows: Iterable[dict[str, Any]], out: IO[bytes]) -> None:
    """What `to_jsonl` gives, row by row into an open file."""
    for row in rows:
        out.write(json.dumps(row, ensure_ascii=False, sort_keys=False).encode() + b"\n")
