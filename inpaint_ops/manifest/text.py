"""The lines of a JSONL file and the records of a CSV one, out of its bytes one by one, none longer than a limit.

Nothing is copied but the line in hand: where it ends is looked up before it is cut out, so one without an end costs no
memory. What is too long is a TooLong, and the next one is found all the same.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_INK = re.compile(rb"\S")
_QUOTED_START = re.compile(rb' *"')
_FIELD_CHARS = 2**24


_BEGINNING = 4096


@dataclass(frozen=True, slots=True)
class TooLong:
    """What stands in place of a line or record that is longer than the limit."""

    beginning: bytes
    size: int
    """Of the whole, in bytes."""


class CsvError(Exception):
    """The text is no CSV from `line` on."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


class NotUtf8Error(Exception):
    """The byte at `position` of the file is not UTF-8."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def _after_mark(data: bytes) -> int:
    return len(_BOM) if data.startswith(_BOM) else 0


def json_lines(data: bytes, max_bytes: int) -> Iterator[tuple[int, bytes | TooLong]]:
    """Each line that is not blank with its number from 1; a TooLong if it is longer than `max_bytes`."""
    start, number = _after_mark(data), 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        number += 1
        if _INK.search(data, start, end):
            yield number, data[start:end] if end - start <= max_bytes else _too_long(data, start, end)
        start = end


DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
"""What may stand between the columns, in words."""
_SEP_LINE = re.compile(rb"sep=([,;\t|])[ \t]*(\r\n?|\n|$)", re.IGNORECASE)
_FIRST_LINE = re.compile(rb"[^\r\n]*")


def delimiter_of(data: bytes, column: str, max_bytes: int) -> tuple[str, int]:
    """What stands between the columns, and where the header starts.

    Spreadsheets say it in a first line of `sep=;`. Else it is the one by which the header has a column of this name; a
    comma, where none does.
    """
    start = _after_mark(data)
    stated = _SEP_LINE.match(data, start)
    if stated:
        return stated[1].decode(), stated.end()
    found = _FIRST_LINE.match(data, start, start + max_bytes)
    names = found[0].decode(errors="replace") if found else ""
    for delimiter in DELIMITERS:
        if delimiter in names and column in (cell.strip(' "') for cell in names.split(delimiter)):
            return delimiter, start
    return ",", start


def csv_records(
    data: bytes, max_bytes: int, *, delimiter: str = ",", start: int | None = None
) -> Iterator[tuple[int, list[str] | TooLong]]:
    """Each record that is not blank with the number of its first line; a TooLong if it is too long.

    Spaces behind a delimiter are no part of a cell: a quote after them opens it. Reading begins at byte `start`, by
    default after the byte order mark. Raises CsvError where a quote is never closed or stands where none may,
    NotUtf8Error.
    """
    csv.field_size_limit(max(_FIELD_CHARS, max_bytes))
    start = _after_mark(data) if start is None else start
    line = 1 + data.count(b"\n", 0, start) + data.count(b"\r", 0, start) - data.count(b"\r\n", 0, start)
    mark = delimiter.encode()
    ends = re.compile(re.escape(mark) + rb'(?= *")|\r\n?|\n')
    while start < len(data):
        end = _record_end(data, start, ends, mark)
        if end is None:
            raise CsvError(line, "a quote is opened and never closed")
        if _INK.search(data, start, end):
            is_long = end - start > max_bytes
            yield line, _too_long(data, start, end) if is_long else _cells(data, start, end, line, delimiter)
        feeds, returns, both = (data.count(mark, start, end) for mark in (b"\n", b"\r", b"\r\n"))
        line += feeds + returns - both
        start = end


def _too_long(data: bytes, start: int, end: int) -> TooLong:
    return TooLong(data[start : min(end, start + _BEGINNING)], end - start)


def _record_end(data: bytes, at: int, ends: re.Pattern[bytes], mark: bytes) -> int | None:
    """Where the record that starts at `at` ends, its line end included; None if it does not: a quote is missing.

    A quote opens a field only at the field's start, and two in a row do not close it: the rules of the module csv.
    """
    while True:
        quoted = _QUOTED_START.match(data, at)
        if quoted:
            at = quoted.end()
            while True:
                at = data.find(b'"', at) + 1
                if not at:
                    return None
                if not data.startswith(b'"', at):
                    break
                at += 1
        found = ends.search(data, at)
        if found is None:
            return len(data)
        at = found.end()
        if found[0] != mark:
            return at


def _cells(data: bytes, start: int, end: int, line: int, delimiter: str) -> list[str]:
    try:
        text = data[start:end].decode()
    except UnicodeDecodeError as error:
        raise NotUtf8Error(start + error.start) from None
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        return next(reader, [])
    except csv.Error as error:
        raise CsvError(line, str(error)) from None
