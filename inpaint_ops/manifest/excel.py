"""An Excel workbook to JSON lines, in a process of its own.

The process is `python -m inpaint_ops.manifest.excel MAX_BYTES MAX_ROW_BYTES MAX_ROWS COLUMN`, started and limited as
that for Parquet is: a workbook is a ZIP archive of XML, which may unpack to any size.

A line is {"header": [...]} once, then {"number": row of the sheet, "cells": [...]}, with "not_calculated": the places
of formulas that have no result; a row that is too long has "bad": why, "text": its beginning, and "size" in place of
"cells". A "note" may come first. The last one is {"end": rows}, or {"error": why}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import zipfile
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from typing import IO, Any

from inpaint_ops.machine import limited_process
from inpaint_ops.manifest import parquet
from inpaint_ops.manifest.excel_cells import OddCells, odd_cells
from inpaint_ops.manifest.parquet import Line
from inpaint_ops.manifest.values import SPREADSHEET_ERRORS, UNKNOWN_ERROR
from inpaint_ops.wording import counted

_COLUMNS = 256
"""A sheet has no more: a cell far to the right would make each row as wide."""


NOT_CALCULATED = (
    "the cell holds a formula without a result: open the workbook in a spreadsheet program and save it, "
    "or write the value into the cell"
)


def read_lines(
    data: bytes, *, max_bytes: int, max_row_bytes: int, max_rows: int | None = None, column: str = "image"
) -> Generator[Line, None, None]:
    """The lines of a workbook's first sheet with that column, read by a process of its own; the last is always an
    "end" or an "error".
    """
    return parquet.read_lines(
        data,
        max_bytes=max_bytes,
        max_row_bytes=max_row_bytes,
        max_rows=max_rows,
        reader_module="inpaint_ops.manifest.excel",
        more=(column,),
    )


def write_lines(
    data: bytes, out: IO[str], *, max_bytes: int, max_row_bytes: int, max_rows: int | None = None, column: str = "image"
) -> None:
    """What the process does: one line per row, then how it ended."""
    too_much = f"unpacks to more than {max_bytes} bytes (INPAINT_MAX_MANIFEST_BYTES): split it"

    def say(line: Line) -> int:
        return out.write(json.dumps(line, ensure_ascii=False) + "\n")

    try:
        import python_calamine
    except ImportError:
        say({"error": "to read Excel workbooks, install inpaint-ops[tables], or save the sheet as 'CSV UTF-8'"})
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > max_bytes:
                say({"error": too_much})
                return
            with python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data)) as book:
                found, sheets = _sheet(book, column), len(book.sheet_names)
            if isinstance(found, str):
                say({"error": found})
                return
            odd = odd_cells(archive, found.name)
        if sheets > 1:
            say({"note": f"only the sheet {found.name[:80]!r} is read, of {sheets} sheets"})
        for note in _notes(found, odd):
            say({"note": note})
        say({"header": found.header})
        count = unpacked = 0
        for line in _lines(found, odd or OddCells()):
            if "note" in line:
                say(line)
                continue
            count += 1
            if max_rows and count > max_rows:
                say({"error": parquet.too_many_rows(max_rows)})
                return
            size = len(json.dumps(line, ensure_ascii=False))
            unpacked += size
            if unpacked > max_bytes:
                say({"error": too_much})
                return
            if size > max_row_bytes:
                long = f"longer than {max_row_bytes} bytes (INPAINT_MAX_ROW_BYTES)"
                text = json.dumps(line["cells"], ensure_ascii=False)[:4096]
                line = {"number": line["number"], "bad": long, "text": text, "size": size}
            say(line)
        say({"end": count})
    except python_calamine.PasswordError:
        say({"error": "is protected by a password: save it without one"})
    except Exception as error:  # the library's own, zipfile's, MemoryError
        say({"error": f"not a readable Excel workbook: {str(error)[:500] or type(error).__name__}"})


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A sheet with a header; rows and columns are counted from 0."""

    name: str
    rows: Iterator[list[Any]]
    """Those below the header."""
    header_row: int
    first_column: int
    header: list[str]
    key: int
    """Which of the header's is the column that was looked for."""
    merged: list[tuple[tuple[int, int], tuple[int, int]]]
    """The first and the last cell of each range of merged ones."""


def _sheet(book: Any, column: str) -> _Sheet | str:
    """The first visible sheet with that column, or why there is none."""
    looked: list[str] = []
    for meta in book.sheets_metadata:
        if str(meta.visible) != "SheetVisibleEnum.Visible" or str(meta.typ) != "SheetTypeEnum.WorkSheet":
            continue
        sheet = book.get_sheet_by_name(meta.name)
        end, start = sheet.end, sheet.start
        if end is None or start is None:
            continue
        if end[1] >= _COLUMNS:
            return (
                f"the sheet {meta.name[:80]!r} has {end[1] + 1} columns, and the limit is {_COLUMNS}: remove empty ones"
            )
        rows = iter(sheet.to_python(skip_empty_area=True))
        for at, cells in enumerate(rows, start[0]):
            if all(cell == "" for cell in cells):
                continue
            header = [str(cell).strip() for cell in cells]
            if column in header:
                return _Sheet(
                    meta.name, rows, at, start[1], header, header.index(column), sheet.merged_cell_ranges or []
                )
            looked.append(f"{meta.name[:40]!r} begins with {[name[:40] for name in header[:8]]}")
            break
    wanted = "names the columns (image, mask, prompt, ...)" if column == "image" else f"has a column {column!r}"
    return f"no sheet's first row {wanted}" + (f"; {'; '.join(looked[:5])}" if looked else "")


def _notes(sheet: _Sheet, odd: OddCells | None) -> Iterator[str]:
    if odd is None:
        yield "cells with errors (#N/A) and hidden rows were not looked for: the workbook is laid out in an unusual way"
        return
    if hidden := sum(row > sheet.header_row for row in odd.hidden_rows):
        yield f"{counted(hidden, 'row is', 'rows are')} hidden in the sheet, and read too"
    if any(_merged_down(sheet)):
        yield "cells that are merged over several rows have their value in each of these rows"


def _merged_down(sheet: _Sheet) -> Iterator[tuple[int, int, int]]:
    """Of each range of merged cells below the header that has several rows: the first row, the last one, the column."""
    for (first, column), (last, _) in sheet.merged:
        if sheet.header_row < first < last and 0 <= column - sheet.first_column < len(sheet.header):
            yield first, last, column


def _lines(sheet: _Sheet, odd: OddCells) -> Iterator[Line]:
    """A line for each row that holds something, with errors as text and merged cells filled; then a note on rows that
    hold nothing but formulas that failed, as those that were filled down beyond the last row.
    """
    first = sheet.first_column
    errors, not_calculated = defaultdict[int, dict[int, str]](dict), defaultdict[int, set[int]](set)
    for (row, column), error in odd.errors.items():
        errors[row][column - first] = error
    for row, column in odd.not_calculated:
        not_calculated[row].add(column - first)
    merged = defaultdict[int, dict[int, int]](dict)
    for row, last, column in _merged_down(sheet):
        merged[row][column - first] = last
    spans: dict[int, tuple[int, Any, bool]] = {}
    filled_down = 0
    for row, cells in _rows(sheet, not_calculated):
        failed = {at: error for at, error in errors.get(row, {}).items() if 0 <= at < len(cells)}
        without = {at for at in not_calculated.get(row, ()) if 0 <= at < len(cells)}
        if all(cell == "" for cell in cells) and sheet.key not in failed.keys() | without:
            filled_down += bool(failed or without)
            continue
        for at, error in failed.items():
            cells[at] = error if error in SPREADSHEET_ERRORS else UNKNOWN_ERROR
        for at, (last, value, has_none) in spans.items():
            if row <= last and cells[at] == "":
                cells[at] = value
                without |= {at} if has_none else set()
        for at, last in merged.get(row, {}).items():
            spans[at] = last, cells[at], at in without
        line: Line = {"number": row + 1, "cells": [_plain(cell) for cell in cells]}
        yield line | ({"not_calculated": sorted(without)} if without else {})
    if filled_down:
        rows = counted(filled_down, "row holds", "rows hold")
        yield {
            "note": f"{rows} nothing but formulas with an error or without a result, and no {sheet.header[sheet.key]}"
        }


def _rows(sheet: _Sheet, not_calculated: Collection[int]) -> Iterator[tuple[int, list[Any]]]:
    """The rows below the header, those of formulas alone too, at which calamine ends."""
    last = sheet.header_row
    for last, cells in enumerate(sheet.rows, sheet.header_row + 1):
        yield last, cells
    for row in sorted(one for one in not_calculated if one > last):
        yield row, [""] * len(sheet.header)


def _plain(cell: Any) -> Any:
    """The value as JSON knows it: dates and times become text."""
    if cell == "":
        return None
    return cell if isinstance(cell, str | int | float | bool) else str(cell)


def main(arguments: list[str]) -> None:
    """Read standard input, write standard output."""
    max_bytes, max_row_bytes, max_rows = map(int, arguments[:3])
    with contextlib.suppress(ImportError):  # write_lines says it
        import python_calamine  # noqa: F401 - modules are files, which may be out of reach afterwards
    limited_process.withdraw()
    parquet.limit(max_bytes)
    with open(1, "w", encoding="utf-8", closefd=False) as out:
        write_lines(
            sys.stdin.buffer.read(),
            out,
            max_bytes=max_bytes,
            max_row_bytes=max_row_bytes,
            max_rows=max_rows,
            column=arguments[3],
        )
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
