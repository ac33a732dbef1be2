"""JSONL, CSV and Parquet to raw rows: numbered dictionaries, or why a row cannot be read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import parquet
from inpaint_ops.manifest.text import CsvError, NotUtf8Error, TooLong, csv_records, json_lines

MANIFEST_ENDINGS = frozenset({".jsonl", ".ndjson", ".csv", ".parquet"})
"""Of a file's name, in lower case: each is read as its format."""

_NAME_SHOWN = 80
"""Characters of an unknown field's name that an error shows."""


@dataclass(frozen=True, slots=True)
class ManifestLimits:
    """What is too much; see Settings for the defaults."""

    max_rows: int = 200_000
    max_bytes: int = 256 * 2**20
    max_prompt_chars: int = 4000
    max_row_bytes: int = 2**20


class BadRowError(Exception):
    """A row cannot be read, and why; `field` is the one at fault, where there is one.

    `written` is the row as far as it was taken apart; else `text` is its text, or the beginning of `size` bytes.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.written: dict[str, Any] = {}
        self.text = ""
        self.size: int | None = None

    def of(self, written: dict[str, Any] | None = None, text: str | bytes = "", size: int | None = None) -> BadRowError:
        """This error, with the row that it is of."""
        self.written, self.size = written or {}, size
        self.text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return self


RawRow = tuple[int, dict[str, Any] | BadRowError]


def shortened(name: str) -> str:
    """A name as an error shows it: its beginning, where it is long."""
    return name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "…"


def read_jsonl(data: bytes, limits: ManifestLimits) -> Iterator[RawRow]:
    """The objects of a JSONL file, by line."""
    for number, line in json_lines(data, limits.max_row_bytes):
        yield number, too_long(limits, line) if isinstance(line, TooLong) else _read_json_line(line)


def _read_json_line(line: bytes) -> dict[str, Any] | BadRowError:
    try:
        value = _loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRowError(f"not UTF-8 (byte {error.start}): save the manifest as UTF-8").of(text=line)
    except BadRowError as error:
        return error.of(text=line)
    return (
        value
        if isinstance(value, dict)
        else BadRowError('not a JSON object: write {"image": ..., "mask": ..., "prompt": ...}').of(text=line)
    )


def too_long(limits: ManifestLimits, row: TooLong) -> BadRowError:
    """Why a row of too many bytes is not read, and the cure."""
    error = BadRowError(f"longer than {limits.max_row_bytes} bytes (INPAINT_MAX_ROW_BYTES)")
    return error.of(text=row.beginning, size=row.size)


def _loads(text: str) -> Any:
    """Read JSON more strictly than `json`: no key twice, no NaN, no half of a surrogate pair. Raises BadRowError."""
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except RecursionError:
        raise BadRowError("nested too deeply") from None
    except ValueError as error:
        raise BadRowError(f"not JSON: {error}") from None
    if "\\u" in text and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise BadRowError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character: remove it")
    return value


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadRowError("the field is given twice", shortened(key))
            seen.add(key)
    return keys


def _no_constants(text: str) -> Any:
    raise BadRowError(f"{text} is not a number that JSON knows")


def read_csv(data: bytes, name: str, limits: ManifestLimits) -> Iterator[RawRow]:
    """The records of a CSV file with a header, by line. Raises ManifestError where there is no usable header."""
    records = csv_records(data, limits.max_row_bytes)
    try:
        number, first = next(records, (1, []))
        if isinstance(first, TooLong):
            raise ManifestError(f"{name}: line {number}: the columns' names are {too_long(limits, first)}")
        header = [cell.strip() for cell in first] if number == 1 else []
        if "image" not in header:
            raise ManifestError(
                f"{name}: the first line must name the columns (image, mask, prompt, ...); it is "
                f"{[shortened(cell) for cell in header[:8]]!r}"
            )
        _check_columns(header, name)
        for line, cells in records:
            if isinstance(cells, TooLong):
                yield line, too_long(limits, cells)
            elif any(cell.strip() for cell in cells):
                yield line, _csv_row(header, cells)
            del cells  # of a line of commas they are eight times its text, so not while the next one is read
    except CsvError as error:
        raise ManifestError(f"{name}: line {error.line}: {error}; the rest cannot be told apart") from None
    except NotUtf8Error as error:
        raise ManifestError(f"{name}: not UTF-8 (byte {error.position}); save it as 'CSV UTF-8'") from None


def _csv_row(header: list[str], cells: list[str]) -> dict[str, Any] | BadRowError:
    if len(cells) > len(header):
        error = BadRowError(f"{len(cells)} cells under {len(header)} columns: quote a cell that holds a comma")
        return error.of(text=_csv_line(cells))
    row: dict[str, Any] = {key: cell for key, cell in zip(header, cells, strict=False) if cell.strip() != ""}
    if _MARGIN.fullmatch(row.get("crop", "")):
        row["crop"] = int(row["crop"])
    if "extra" in row:
        try:
            row["extra"] = _loads(row["extra"])
        except BadRowError as error:
            return BadRowError(f"not a JSON object ({error})", "extra").of(row)
    return row


def _csv_line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


_MARGIN = re.compile(r"\s*[0-9]{1,9}\s*")


def _check_columns(names: list[str], name: str) -> None:
    twice = [column for column, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"{name}: two columns have one name: {sorted(map(shortened, twice[:8]))}")


_PARQUET = b"PAR1"


def read_parquet(data: bytes, name: str, limits: ManifestLimits, max_rows: int | None) -> Iterator[RawRow]:
    """The rows of a Parquet file, read in a process of its own. Raises ManifestError where it cannot be read."""
    if not data.startswith(_PARQUET) or not data.endswith(_PARQUET):
        raise ManifestError(f"{name}: not a readable Parquet file: it is damaged, cut off or of another format")
    lines = parquet.read_lines(data, max_bytes=limits.max_bytes, max_row_bytes=limits.max_row_bytes, max_rows=max_rows)
    with contextlib.closing(lines):
        for number, line in enumerate(lines, 1):
            if "error" in line:
                raise ManifestError(f"{name}: {line['error']}")
            if "bad" in line:
                error = BadRowError(line["bad"], line["field"] and shortened(line["field"]))
                yield number, error.of(line.get("row"), line.get("text", ""), line.get("size"))
            elif "row" in line:
                yield number, line.pop("row")
