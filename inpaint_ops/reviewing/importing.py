"""Marks from a file that somebody else wrote: JSONL or CSV, as exported or with the columns id, mark and the like."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from inpaint_ops.errors import ConfigError, RowError, did_you_mean
from inpaint_ops.records import MAX_VARIANTS
from inpaint_ops.reviewing.exporting import COLUMNS
from inpaint_ops.reviewing.marks import LINE_BYTES, MAX_NOTE, MAX_REASON, Change

FIELDS = tuple(Change.model_fields)
_IGNORED = {*COLUMNS, "reviews"} - set(FIELDS)
"""What an export says of a row besides: not a mark."""


def read_changes(data: bytes, name: str) -> Iterator[Change | RowError]:
    """The marks of a file's lines, in order; RowError for a line that is none. A name in `.csv` means CSV, else JSONL.

    An empty field, or one that is not there, leaves things as they are; `mark: clear` takes a reviewer's mark back.
    Raises ConfigError for a file that as a whole is neither.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8: save it as UTF-8") from None
    rows = _csv_rows(text, name) if name.lower().endswith(".csv") else _jsonl_rows(text)
    for number, written in rows:
        try:
            yield _change(written, f"line {number}")
        except RowError as error:
            yield error


def _jsonl_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Any:
    """The line's object; a text that says what is wrong with it."""
    if len(line) > LINE_BYTES:
        return f"has more than {LINE_BYTES:,} characters: shorten its note"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error})"
    return found if isinstance(found, dict) else 'is no JSON object: write {"id": ..., "mark": ...}'


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "id" not in (reader.fieldnames or ()):
            raise ConfigError(f"{name} has no column id: its first line names the columns, for example id,mark,note")
        for row in reader:
            if None in row:
                yield reader.line_num, "has more fields than the first line names: quote texts that hold commas"
            else:
                yield reader.line_num, {key: _unquoted(value) for key, value in row.items() if value}
    except csv.Error as error:
        raise ConfigError(f"{name} is no CSV near line {reader.line_num}: {error}") from None


def _unquoted(text: str) -> str:
    """The text without what an export put before it, so that no spreadsheet takes it for a formula."""
    return text[1:] if text.startswith("'") else text


def _change(written: Any, what: str) -> Change:
    if isinstance(written, str):
        raise RowError(f"{what} {written}")
    for field in written:
        if field not in FIELDS and field not in _IGNORED:
            raise RowError(f"{what}: unknown field {field!r}{did_you_mean(field, FIELDS)}")
    found = {field: written[field] for field in FIELDS if written.get(field) not in (None, "")}
    try:
        if found.get("rating") in _RATINGS:
            found["rating"] = int(found["rating"])
        if found.get("variant") in _VARIANTS:
            found["variant"] = int(found["variant"])
        return Change.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RowError(f"{what}: {'.'.join(map(str, first['loc'])) or 'the mark'}: {explained(first)}") from None


_RATINGS = ("0", "1", "2", "3", "4", "5")
_VARIANTS = tuple(map(str, range(MAX_VARIANTS)))
_EXPLAINED = {
    "mark": "write accept, reject, redo or clear",
    "rating": "write 1 to 5, or 0 for none",
    "variant": "write the number of one of the row's variants, the first is 0",
    "id": "write the id of a row",
}
_LONGEST = {"note": MAX_NOTE, "reason": MAX_REASON}


def explained(fault: Any) -> str:
    """What is wrong with a field of a mark, and the cure; `fault` is one of pydantic's errors."""
    field = str(fault["loc"][-1]) if fault["loc"] else ""
    if fault["type"] == "string_too_long" and field in _LONGEST:
        return f"has more than {_LONGEST[field]:,} characters: shorten it"
    return _EXPLAINED.get(field) or str(fault["msg"]).removeprefix("Value error, ")
