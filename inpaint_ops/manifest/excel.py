"""An Excel workbook to JSON lines, in a process of its own.

The process is `python -m inpaint_ops.manifest.excel MAX_BYTES MAX_ROW_BYTES MAX_ROWS`, started and limited as that for
Parquet is: a workbook is a ZIP archive of XML, which may unpack to any size.

A line is {"header": [...]} once, then {"number": row of the sheet, "cells": [...]}; a row that is too long has
"bad": why, "text": its beginning, and "size" in place of "cells". A "note" may come first. The last one is
{"end": rows}, or {"error": why}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Generator, Iterator
from typing import IO, Any

from inpaint_ops.machine import limited_process
from inpaint_ops.manifest import parquet
from inpaint_ops.manifest.parquet import Line

_COLUMNS = 256
"""A sheet has no more: a cell far to the right would make each row as wide."""


def read_lines(
    data: bytes, *, max_bytes: int, max_row_bytes: int, max_rows: int | None = None
) -> Generator[Line, None, None]:
    """The lines of a workbook, read by a process of its own; the last is always an "end" or an "error"."""
    return parquet.read_lines(
        data,
        max_bytes=max_bytes,
        max_row_bytes=max_row_bytes,
        max_rows=max_rows,
        reader_module="inpaint_ops.manifest.excel",
    )


def write_lines(data: bytes, out: IO[str], *, max_bytes: int, max_row_bytes: int, max_rows: int | None = None) -> None:
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
            found = _sheet(book)
            if isinstance(found, str):
                say({"error": found})
                return
            name, rows, number, header = found
            if len(book.sheet_names) > 1:
                say({"note": f"only the sheet {name[:80]!r} is read, of {len(book.sheet_names)} sheets"})
            say({"header": header})
            count = unpacked = 0
            for at, cells in enumerate(rows, number + 1):
                if all(cell == "" for cell in cells):
                    continue
                count += 1
                if max_rows and count > max_rows:
                    say({"error": parquet.too_many_rows(max_rows)})
                    return
                line = {"number": at, "cells": [_plain(cell) for cell in cells]}
                size = len(json.dumps(line, ensure_ascii=False))
                unpacked += size
                if unpacked > max_bytes:
                    say({"error": too_much})
                    return
                long = f"longer than {max_row_bytes} bytes (INPAINT_MAX_ROW_BYTES)"
                if size > max_row_bytes:
                    text = json.dumps(line["cells"], ensure_ascii=False)[:4096]
                    line = {"number": at, "bad": long, "text": text, "size": size}
                say(line)
            say({"end": count})
    except python_calamine.PasswordError:
        say({"error": "is protected by a password: save it without one"})
    except Exception as error:  # the library's own, zipfile's, MemoryError
        say({"error": f"not a readable Excel workbook: {str(error)[:500] or type(error).__name__}"})


def _sheet(book: Any) -> tuple[str, Iterator[list[Any]], int, list[Any]] | str:
    """The first visible sheet with a column `image`: its name, its rows below the header, and the header with its row's
    number; or why there is none.
    """
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
        for number, cells in enumerate(rows, start[0] + 1):
            if all(cell == "" for cell in cells):
                continue
            header = [str(cell).strip() for cell in cells]
            if "image" in header:
                return meta.name, rows, number, header
            looked.append(f"{meta.name[:40]!r} begins with {[name[:40] for name in header[:8]]}")
            break
    return "no sheet's first row names the columns (image, mask, prompt, ...)" + (
        f"; {'; '.join(looked[:5])}" if looked else ""
    )


def _plain(cell: Any) -> Any:
    """The value as JSON knows it: dates and times become text."""
    if cell == "":
        return None
    return cell if isinstance(cell, str | int | float | bool) else str(cell)


def main(arguments: list[str]) -> None:
    """Read standard input, write standard output."""
    max_bytes, max_row_bytes, max_rows = map(int, arguments)
    with contextlib.suppress(ImportError):  # write_lines says it
        import python_calamine  # noqa: F401 - modules are files, which may be out of reach afterwards
    limited_process.withdraw()
    parquet.limit(max_bytes)
    with open(1, "w", encoding="utf-8", closefd=False) as out:
        write_lines(sys.stdin.buffer.read(), out, max_bytes=max_bytes, max_row_bytes=max_row_bytes, max_rows=max_rows)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
