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
_END_OR_QUOTED_FIELD = re.compile(rb',(?=")|\r\n?|\n')
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


def csv_records(data: bytes, max_bytes: int) -> Iterator[tuple[int, list[str] | TooLong]]:
    """Each record that is not blank with the number of its first line; a TooLong if it is too long.

    Raises CsvError where a quote is never closed or stands where none may, NotUtf8Error.
    """
    csv.field_size_limit(max(_FIELD_CHARS, max_bytes))
    start, line = _after_mark(data), 1
    while start < len(data):
        end = _record_end(data, start)
        if end is None:
            raise CsvError(line, "a quote is opened and never closed")
        if _INK.search(data, start, end):
            yield line, _cells(data, start, end, line) if end - start <= max_bytes else _too_long(data, start, end)
        feeds, returns, both = (data.count(mark, start, end) for mark in (b"\n", b"\r", b"\r\n"))
        line += feeds + returns - both
        start = end


def _too_long(data: bytes, start: int, end: int) -> TooLong:
    return TooLong(data[start : min(end, start + _BEGINNING)], end - start)


def _record_end(data: bytes, at: int) -> int | None:
    """Where the record that starts at `at` ends, its line end included; None if it does not, for want of a quote.

    A quote opens a field only at the field's start, and two in a row do not close it: the rules of the module csv.
    """
    while True:
        if data.startswith(b'"', at):
            at += 1
            while True:
                at = data.find(b'"', at) + 1
                if not at:
                    return None
                if not data.startswith(b'"', at):
                    break
                at += 1
        found = _END_OR_QUOTED_FIELD.search(data, at)
        if found is None:
            return len(data)
        at = found.end()
        if found[0] != b",":
            return at


def _cells(data: bytes, start: int, end: int, line: int) -> list[str]:
    try:
        text = data[start:end].decode()
    except UnicodeDecodeError as error:
        raise NotUtf8Error(start + error.start) from None
    try:
        return next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
    except csv.Error as error:
        raise CsvError(line, str(error)) from None
