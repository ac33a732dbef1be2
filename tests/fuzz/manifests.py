"""What the readers of manifests, of tables of prompts and of keys promise of foreign bytes."""

from __future__ import annotations

import csv
import faulthandler
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet  # noqa: F401 - so that no forked reader has to

from inpaint_ops.errors import InpaintOpsError, ManifestError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import (
    AcceptedRow,
    ManifestLimits,
    ParsedManifest,
    is_valid_id,
    parquet,
    read_manifest,
    to_jsonl,
)
from inpaint_ops.manifest.prompts_file import read_prompts
from inpaint_ops.manifest.text import delimiter_of
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped
from inpaint_ops.records import Record
from inpaint_ops.runs import preparing
from tests.fuzz.promises import check_line

LIMITS = ManifestLimits(max_rows=500, max_bytes=1 << 20, max_prompt_chars=200, max_row_bytes=2048)


def check_location(uri: str) -> None:
    """A row reads from the one bucket that it may read, and no key climbs."""
    assert uri.startswith("s3://bucket/") and ".." not in uri.split("/"), uri


def read(data: bytes, name: str, limits: ManifestLimits = LIMITS) -> ParsedManifest:
    """A manifest in the inbox of a store, which alone may be read."""
    return read_manifest(
        data,
        location=parse(f"s3://bucket/inbox/{name}"),
        is_allowed=lambda place: place.bucket == "bucket",
        limits=limits,
    )


def _manifest(data: bytes, name: str, rows: Callable[[bytes], list[int]]) -> None:
    try:
        parsed = read(data, name)
    except ManifestError as error:
        check_line(str(error))
        return
    numbers = sorted(row.row for row in (*parsed.accepted, *parsed.rejected))
    assert numbers == rows(data), "every row of the file is accepted or rejected, once"
    ids = [row.id for row in (*parsed.accepted, *parsed.rejected)]
    assert len({name.casefold() for name in ids}) == len(ids), "ids are unique"
    for rejected in parsed.rejected:
        check_line(rejected.error.message)
        check_line(rejected.error.field or "the row")
        assert rejected.error.message.startswith(f"row {rejected.row}: ")
        line = json.dumps(rejected.as_manifest_row(), allow_nan=False)
        assert len(line) < 1 << 17 and json.loads(line)["_error"] == rejected.error.message
        again = read_manifest(line.encode(), location=parse("s3://bucket/r/rejected.jsonl"), is_allowed=lambda _: True)
        for row in again.rejected:
            assert not any(f"unknown field '{name}'" in row.error.message for name in ("_error", "_text")), (
                "both ignored"
            )
    for record in preparing._rejected_records(parsed, "fuzz"):
        assert Record.model_validate_json(record.model_dump_json()) == record
    for row in parsed.accepted:
        assert is_valid_id(row.id), row.id
        check_location(row.image)
        check_location(row.mask)
    _check_round_trip(parsed)


def _check_round_trip(parsed: ParsedManifest) -> None:
    """What a shard file and `failed.jsonl` say is the work that the manifest said."""
    if not parsed.accepted:
        return
    lines = [row.as_manifest_row() | {"row": row.row} for row in parsed.accepted]
    shard = [AcceptedRow.model_validate_json(line) for line in io.BytesIO(to_jsonl(lines))]
    assert shard == list(parsed.accepted), "a shard's file holds the rows"
    generous = ManifestLimits()
    again = read(to_jsonl([row.as_manifest_row() for row in parsed.accepted]), "failed.jsonl", generous)
    assert not again.rejected, again.rejected[0].error.message
    at_one = {"row": 1}
    assert [row.model_copy(update=at_one) for row in again.accepted] == [
        row.model_copy(update=at_one) for row in parsed.accepted
    ], "accepted rows survive a round trip"


def _as_text(data: bytes) -> bytes:
    """UTF-8 without its mark, of what may be packed with gzip or be UTF-16."""
    text, _ = as_utf8(gunzipped(data, "m", LIMITS.max_bytes), "m", LIMITS.max_bytes)
    return text.removeprefix(b"\xef\xbb\xbf")


def jsonl(data: bytes) -> None:
    """A manifest in JSONL."""
    _manifest(
        data,
        "m.jsonl",
        lambda data: [n for n, line in enumerate(_as_text(data).split(b"\n"), 1) if line.strip()],
    )


def csv_manifest(data: bytes) -> None:
    """A manifest in CSV."""

    def numbers(data: bytes) -> list[int]:
        text = _as_text(data)
        delimiter, start = delimiter_of(text, "image", LIMITS.max_row_bytes)
        shown = io.StringIO(text[start:].decode(), newline="")
        reader = csv.reader(shown, delimiter=delimiter, skipinitialspace=True, strict=True)
        found, before = [], len(text[:start].splitlines())
        line = before + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append(line)
            line = before + reader.line_num + 1
        return found[1:]

    _manifest(data, "m.csv", numbers)


def parquet_manifest(data: bytes) -> None:
    """A manifest in Parquet. Its reader is forked instead of started, which is a hundred times as fast."""
    lines = list(_forked_lines(data, max_bytes=LIMITS.max_bytes, max_row_bytes=LIMITS.max_row_bytes))
    system, parquet.read_lines = parquet.read_lines, lambda *_, **__: (line for line in lines)
    try:
        rows = sum(bool({"row", "bad"} & line.keys()) for line in lines)  # counted first: reading empties them
        _manifest(data, "m.parquet", lambda _: list(range(1, rows + 1)))
    finally:
        parquet.read_lines = system


def _forked_lines(data: bytes, **limits: int) -> Iterator[dict[str, Any]]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            for deadly in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                signal.signal(deadly, signal.SIG_DFL)  # its death is no finding: libFuzzer would take it for one
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            parquet.limit(limits["max_bytes"])
            with os.fdopen(writing, "w", encoding="utf-8") as out:
                parquet.write_lines(data, out, **limits)
            os._exit(0)
        finally:
            os._exit(_RAISED)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        lines = [json.loads(text) for text in said if text.endswith(b"\n")]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    yield from lines
    if not lines or not {"end", "error"} & lines[-1].keys():
        assert code not in (0, _RAISED), "only the death of the process keeps a reader from its last word"
        yield {"error": f"its reader {parquet.how_it_ended(code)}"}


_RAISED = 86


def prompts(data: bytes) -> None:
    """A table of prompts for `inpaint-ops manifest`."""
    try:
        found = read_prompts(data, key_column="key", prompt_column="prompt")
    except ManifestError as error:
        check_line(str(error))
        return
    for name, prompt in found.items():
        assert prompt and name and name == name.strip("/")


def keys(data: bytes) -> None:
    """A key of a row, or a location that a person typed."""
    text = data.decode("utf-8", "surrogateescape")
    prefix = Location("bucket", "inbox/")
    for read_location in (prefix.join, parse):
        try:
            found = read_location(text)
        except InpaintOpsError as error:
            check_line(str(error))
            continue
        assert read_location is parse or (prefix.contains(found) and ".." not in found.key.split("/"))
        assert parse(found.uri) == found, "a location is what its URI says"
