"""JSONL, CSV, Parquet and Excel workbooks to raw rows: numbered dictionaries, or why a row cannot be read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import excel, parquet
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.problems import BadRowError, shortened
from inpaint_ops.manifest.text import (
    DELIMITERS,
    CsvError,
    NotUtf8Error,
    TooLong,
    csv_records,
    delimiter_of,
    json_lines,
)
from inpaint_ops.wording import counted

MANIFEST_ENDINGS = frozenset({".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx"})
"""Of a manifest's name, in lower case: each is read as its format. `.gz` may follow."""


def manifest_ending(name: str) -> str:
    """The ending of a file's name in lower case, without a `.gz` behind it."""
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


@dataclass(frozen=True, slots=True)
class ManifestLimits:
    """What is too much; see Settings for the defaults."""

    max_rows: int = 200_000
    max_bytes: int = 256 * 2**20
    max_prompt_chars: int = 4000
    max_row_bytes: int = 2**20


RawRow = tuple[int, dict[str, Any] | BadRowError]


@dataclass(frozen=True, slots=True)
class JsonLines:
    """The objects of a JSONL file, by line."""

    text: bytes
    limits: ManifestLimits

    def __iter__(self) -> Iterator[RawRow]:
        return ((number, self.raw(line)) for number, line in json_lines(self.text, self.limits.max_row_bytes))

    def raw(self, line: bytes | TooLong) -> dict[str, Any] | BadRowError:
        """A line as a raw row."""
        return too_long(self.limits, line) if isinstance(line, TooLong) else read_json_line(line)


def read_jsonl(text: bytes, name: str, limits: ManifestLimits) -> JsonLines:
    """The objects of a JSONL file, by line. Raises ManifestError for JSON of another layout: each of its lines would
    be a bad row.
    """
    lines = [line.strip() for _, line in islice(json_lines(text, limits.max_row_bytes), 2) if isinstance(line, bytes)]
    first, second = lines if len(lines) == 2 else (b"", b"")
    is_array = first in (b"[", b"[{") or (first.startswith(b"[{") and first.endswith(b","))
    if is_array and text[-100:].rstrip().endswith(b"]"):
        raise ManifestError(f"{name}: a JSON array over several lines: write one object per line (jq -c '.[]')")
    if first == b"{" and isinstance(read_json_line(second), BadRowError):
        raise ManifestError(f"{name}: JSON objects over several lines: write each on one line (jq -c .)")
    return JsonLines(text, limits)


def read_json_line(line: bytes) -> dict[str, Any] | BadRowError:
    """The object of a line, or why it is none."""
    try:
        value = load_json(
            line.decode("utf-8"), "write each row as one JSON object on a line of its own (as jq -c . does)"
        )
    except UnicodeDecodeError as error:
        return BadRowError(f"not UTF-8 (byte {error.start}): save the manifest as UTF-8").of(text=line)
    except BadRowError as error:
        return error.of(text=line)
    if isinstance(value, dict):
        return value
    cure = "one to a line (as jq -c '.[]' does)" if isinstance(value, list) else ""
    return BadRowError(f'not a JSON object: write {{"image": ..., "mask": ..., "prompt": ...}} {cure}'.strip()).of(
        text=line
    )


def too_long(limits: ManifestLimits, row: TooLong) -> BadRowError:
    """Why a row of too many bytes is not read, and the cure."""
    error = BadRowError(f"longer than {limits.max_row_bytes} bytes (INPAINT_MAX_ROW_BYTES)")
    return error.of(text=row.beginning, size=row.size)


def load_json(text: str, cure: str = "correct it") -> Any:
    """Read JSON more strictly than `json`: no key twice, no NaN, no half of a surrogate pair. Raises BadRowError, with
    `cure` where the text is no JSON.
    """
    constants: list[_Constant] = []

    def constant(text: str) -> _Constant:
        constants.append(_Constant(text))
        return constants[-1]

    try:
        if text.startswith("\ufeff") or "N" in text or "I" in text:
            value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=constant)
        else:  # no NaN, no Infinity; `json.loads` makes a decoder for each text
            value = _DECODER.decode(text)
    except RecursionError:
        raise BadRowError("nested too deeply") from None
    except ValueError as error:
        where = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadRowError(f"not JSON ({where}): {cure}") from None
    if constants:
        raise BadRowError(
            f"{constants[0]} is not a number that JSON knows: leave the field out, or write null",
            _field_of(constants[0], value),
        )
    if "\\u" in text and _LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise BadRowError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character: remove it")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: _no_duplicates(pairs))


class _Constant(str):
    """NaN, Infinity or -Infinity, where a value belongs."""

    __slots__ = ()


def _field_of(constant: _Constant, value: Any) -> str | None:
    """The field of a row in which a constant stands, however deep."""
    for field, part in value.items() if isinstance(value, dict) else ():
        open_parts = [part]
        while open_parts:
            inner = open_parts.pop()
            if inner is constant:
                return shortened(field)
            open_parts += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
    return None


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


def read_csv(
    data: bytes, name: str, limits: ManifestLimits, notes: Notes, *, delimiter: str | None = None
) -> Iterator[RawRow]:
    """The records of a CSV file with a header, by line. Raises ManifestError where there is no usable header.

    What stands between the columns is found in the header, unless it is given.
    """
    found, start = delimiter_of(data, "image", limits.max_row_bytes)
    delimiter = delimiter or found
    if delimiter != ",":
        notes.add(f"read with {DELIMITERS[delimiter]} between the columns")
    records = csv_records(data, limits.max_row_bytes, delimiter=delimiter, start=start)
    try:
        number, first = next(records, (1, []))
        if isinstance(first, TooLong):
            raise ManifestError(f"{name}: line {number}: the columns' names are {too_long(limits, first)}")
        header = [cell.strip() for cell in first]
        if "image" not in header:
            raise ManifestError(f"{name}: {_no_image_column(header)}")
        check_columns(header, name)
        row_of = cells_to_row(header, notes, delimiter)
        for line, cells in records:
            if isinstance(cells, TooLong):
                yield line, too_long(limits, cells)
            elif any(cell.strip() for cell in cells):
                yield line, row_of(cells)
            del cells  # of a line of commas they are eight times its text, so not while the next one is read
    except CsvError as error:
        raise ManifestError(f"{name}: line {error.line}: {error}; the rest cannot be parsed") from None
    except NotUtf8Error as error:
        raise ManifestError(f"{name}: not UTF-8 (byte {error.position}); save it as 'CSV UTF-8'") from None


def _no_image_column(header: list[str]) -> str:
    must = "the first line must name the columns (image, mask, prompt, ...), with a comma between them"
    if not any(header):
        return f"{must}; it is empty"
    near = next((cell for cell in header if cell.lower() == "image"), "")
    cure = f": names are lower case, write 'image' for {near!r}" if near else ""
    return f"{must}; it is {[shortened(cell) for cell in header[:8]]!r}{cure}"


def cells_to_row(
    header: list[str], notes: Notes, delimiter: str = ","
) -> Callable[[list[Any]], dict[str, Any] | BadRowError]:
    """What makes a row of cells under these names.

    A first column without a name is the index that pandas writes; any other one may hold nothing. A row that does not
    fit is kept as text, with `delimiter` between its cells.
    """
    unnamed = [at for at, name in enumerate(header) if not name and at > 0]
    if header and not header[0]:
        notes.add(
            "the first column has no name and is left out: it is an index that pandas wrote (index=False omits it)"
        )
    if unnamed:
        columns = counted(len(unnamed), "empty column without a name is", "empty columns without a name are")
        notes.add(f"{columns} left out")

    def row_of(cells: list[Any]) -> dict[str, Any] | BadRowError:
        for at in unnamed:
            if at < len(cells) and not _is_blank(cells[at]):
                error = BadRowError(
                    f"a cell in column {at + 1}, which has no name, holds {shortened(str(cells[at]))!r}: "
                    "name the column in the first line, or empty it"
                )
                return error.of(text=_line(cells, delimiter))
        if len(cells) > len(header):
            if not all(_is_blank(cell) for cell in cells[len(header) :]):
                here = f"{counted(len(cells), 'cell')} under {counted(len(header), 'column')}"
                error = BadRowError(f"{here}: quote a cell that holds {DELIMITERS[delimiter]}")
                return error.of(text=_line(cells, delimiter))
            notes.add("empty cells behind the last column are left out")
        return {
            key: cell.strip() if key in _TRIMMED and isinstance(cell, str) else cell
            for key, cell in zip(header, cells, strict=False)
            if key and not _is_blank(cell)
        }

    return row_of


def _line(cells: list[Any], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="").writerow(cells)
    return out.getvalue()


_TRIMMED = frozenset({"image", "mask"})
"""Keys, around which a space comes from aligning a table by hand."""


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def check_columns(names: list[str], name: str) -> None:
    """Raise ManifestError if two columns have one name."""
    twice = [column for column, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise ManifestError(f"{name}: two columns have one name: {sorted(map(shortened, twice[:8]))}")


_PARQUET = b"PAR1"


def read_parquet(
    data: bytes, name: str, limits: ManifestLimits, max_rows: int | None, notes: Notes
) -> Iterator[RawRow]:
    """The rows of a Parquet file, read in a process of its own. Raises ManifestError where it cannot be read."""
    if not data.startswith(_PARQUET) or not data.endswith(_PARQUET):
        raise ManifestError(f"{name}: not a readable Parquet file: it is damaged, cut off or of another format")
    lines = parquet.read_lines(data, max_bytes=limits.max_bytes, max_row_bytes=limits.max_row_bytes, max_rows=max_rows)
    with contextlib.closing(lines):
        for number, line in enumerate(_without_notes(lines, name, notes), 1):
            if "bad" in line:
                error = BadRowError(line["bad"], line["field"] and shortened(line["field"]))
                yield number, error.of(line.get("row"), line.get("text", ""), line.get("size"))
            elif "row" in line:
                yield number, line.pop("row")


def read_excel(data: bytes, name: str, limits: ManifestLimits, max_rows: int | None, notes: Notes) -> Iterator[RawRow]:
    """The rows of an Excel workbook's first sheet with a column `image`, by their numbers there.

    It is read in a process of its own. Raises ManifestError where it cannot be read.
    """
    lines = excel.read_lines(data, max_bytes=limits.max_bytes, max_row_bytes=limits.max_row_bytes, max_rows=max_rows)
    row_of: Callable[[list[Any]], dict[str, Any] | BadRowError] | None = None
    header: list[str] = []
    with contextlib.closing(lines):
        for line in _without_notes(lines, name, notes):
            if "header" in line:
                header = [str(cell).strip() for cell in line["header"]]
                check_columns(header, name)
                row_of = cells_to_row(header, notes)
            elif "bad" in line:
                yield line["number"], BadRowError(line["bad"]).of(text=line["text"], size=line["size"])
            elif "cells" in line and row_of is not None:
                row = row_of(line.pop("cells"))
                places = [
                    at for at in line.get("not_calculated", ()) if header[at] or at > 0
                ]  # else an index of pandas
                if places and isinstance(row, dict):
                    name = shortened(header[places[0]])
                    where = "" if name else f"column {places[0] + 1}, which has no name: "
                    row = BadRowError(f"{where}{excel.NOT_CALCULATED}", name or None).of(row)
                yield line["number"], row


def _without_notes(lines: Iterator[dict[str, Any]], name: str, notes: Notes) -> Iterator[dict[str, Any]]:
    for line in lines:
        if "error" in line:
            raise ManifestError(f"{name}: {line['error']}")
        if "note" in line:
            notes.add(line["note"])
        elif "left_out" in line:
            notes.left_out(line["left_out"])
        else:
            yield line
