"""Parquet to JSON lines, in a process of its own.

The process is `python -m inpaint_ops.manifest.parquet MAX_BYTES MAX_ROW_BYTES MAX_ROWS`.

pyarrow 26 ends its process at some files whose metadata makes no sense, and one of a kilobyte can unpack to any size,
so it is read where neither hurts: under a limit of memory and of time, and without credentials.

A line is {"row": {...}}, or {"bad": why, "field": name, "row": what could be read}. The last is {"end": rows}, or
{"error": why} where the file as a whole cannot be read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from decimal import Decimal
from typing import IO, Any

from pydantic_core import to_jsonable_python

from inpaint_ops.machine import limited_process
from inpaint_ops.machine.limited_process import how_it_ended
from inpaint_ops.manifest.rows import Row

SECONDS = 600
"""Of the processor, at most: 200 000 rows take three."""
_BATCH_BYTES = 128 * 2**20
"""What a batch of rows may unpack to."""
_FREE_FORM = "extra"
"""The one column whose values may be more than text and numbers."""

_BESIDES_THE_ROW = 64 * 2**10
"""Bytes of a line for what stands around a row, or for why it cannot be had."""

Line = dict[str, Any]


def read_lines(
    data: bytes,
    *,
    max_bytes: int,
    max_row_bytes: int,
    max_rows: int | None = None,
    reader_module: str = "inpaint_ops.manifest.parquet",
    more: Sequence[str] = (),
) -> Generator[Line, None, None]:
    """The lines of a file, read by a process of its own; the last is always an "end" or an "error"."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as errors:
        file.write(data)
        file.seek(0)
        reader = limited_process.start(
            reader_module,
            *map(str, (max_bytes, max_row_bytes, max_rows or 0, *more)),
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert reader.stdout is not None
        line: Line = {}
        try:
            longest = 4 * max_row_bytes + _BESIDES_THE_ROW  # it counts characters, which have 4 bytes at most
            while text := reader.stdout.readline(longest):
                if not text.endswith(b"\n"):  # it died within it, or it is no longer the reader that we started
                    break
                line = json.loads(text)
                yield line
            reader.stdout.close()  # one that goes on writing gets SIGPIPE
            code = reader.wait()
        finally:  # the caller has enough of it, too
            limited_process.kill(reader)
            reader.stdout.close()
        errors.seek(0)
        words = errors.read()[-300:].decode(errors="replace").strip().splitlines()[-1:]
    if not {"end", "error"} & line.keys():
        yield {"error": "; its last output: ".join([f"its reader {how_it_ended(code)}", *words])}


def too_many_rows(limit: int) -> str:
    """What is wrong with a manifest of more rows, and the cure."""
    return f"more than {limit} rows; split it, or raise INPAINT_MAX_ROWS"


def write_lines(data: bytes, out: IO[str], *, max_bytes: int, max_row_bytes: int, max_rows: int | None = None) -> None:
    """What the process does: one line per row, then how it ended."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    too_much = f"unpacks to more than {max_bytes} bytes (INPAINT_MAX_MANIFEST_BYTES): split it"

    def say(line: Line) -> int:
        return out.write(json.dumps(line, ensure_ascii=False) + "\n")

    try:
        table = pq.ParquetFile(pa.BufferReader(data))
        metadata, names = table.metadata, table.schema_arrow.names
        twice = sorted(name[:80] for name, count in Counter(names).items() if count > 1)
        if twice:
            say({"error": f"two columns have one name: {twice[:8]}"})
            return
        if max_rows and metadata.num_rows > max_rows:  # the footer says so, before a row is read
            say({"error": too_many_rows(max_rows)})
            return
        largest = max((metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups)), default=0)
        if largest > max_bytes:
            say({"error": too_much})
            return
        rows = unpacked = 0
        for name in (left_out := _indices(metadata.metadata)):
            say({"left_out": name})
        kept = [at for at, name in enumerate(names) if name not in left_out]
        # A dictionary may repeat one text a million times, by numbers, and each row may be as long as a column.
        at_once = max(1, min(1024, _BATCH_BYTES // max(1, largest)))
        for batch in table.iter_batches(batch_size=at_once, use_threads=False):
            for line in _rows(batch, names, kept):
                rows += 1
                size = len(json.dumps(line, ensure_ascii=False))
                unpacked += size
                if unpacked > max_bytes:
                    say({"error": too_much})
                    return
                if size > max_row_bytes:
                    text = json.dumps(line.get("row"), ensure_ascii=False)[:4096]
                    bad = f"longer than {max_row_bytes} bytes (INPAINT_MAX_ROW_BYTES)"
                    line = {"bad": bad, "field": None, "text": text, "size": size}
                say(line)
        if rows == metadata.num_rows:
            say({"end": rows})
        else:
            say({"error": f"damaged: it names {metadata.num_rows} rows and holds {rows}"})
    except Exception as error:  # Arrow's own, OSError, MemoryError, and of names that are not UTF-8, ValueError
        say({"error": f"not a readable Parquet file: {str(error)[:500] or type(error).__name__}"})


def _indices(metadata: dict[bytes, bytes] | None) -> list[str]:
    """The columns that pandas says are an index, but for those that a row has."""
    try:
        names = json.loads((metadata or {}).get(b"pandas", b"{}"))["index_columns"]
        return [name for name in names if isinstance(name, str) and name not in Row.model_fields]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def _rows(batch: Any, names: list[str], kept: list[int]) -> Iterator[Line]:
    for at in range(batch.num_rows):
        row: dict[str, Any] = {}
        bad: Line = {}
        for name, column in ((names[which], batch.columns[which]) for which in kept):
            try:
                row[name] = _plain(name, column[at].as_py())
            except UnicodeDecodeError:
                bad = bad or {"bad": "not UTF-8", "field": name}
            except (ValueError, OverflowError, TypeError) as error:  # a time beyond year 9999, bytes
                bad = bad or {"bad": f"cannot be read ({str(error)[:200]})", "field": name}
        yield bad | {"row": row}


def _plain(name: str, value: Any) -> Any:
    """The value as JSON knows it: decimals as text, which is read by value, and in `extra` times, too."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Decimal):
        return str(value)
    if name not in (_FREE_FORM, "loras", "side_products"):  # which may be a list, or an object
        raise TypeError(f"a {type(value).__name__}, where text or a number belongs")
    return to_jsonable_python(_without_nulls(value), inf_nan_mode="constants")


def _without_nulls(value: Any) -> Any:
    """A struct without its members that are null: Parquet gives each row the members of all."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def limit(max_bytes: int) -> None:
    """Let the kernel end this process before it takes more memory, or longer, than any manifest can need."""
    limited_process.limit(data_bytes=2**30 + 4 * max_bytes, cpu_seconds=SECONDS)


def main(arguments: list[str]) -> None:
    """Read standard input, write standard output."""
    max_bytes, max_row_bytes, max_rows = map(int, arguments)
    import pyarrow.parquet  # noqa: F401 - modules are files, which may be out of reach afterwards

    limited_process.withdraw()
    limit(max_bytes)
    with open(1, "w", encoding="utf-8", closefd=False) as out:
        write_lines(sys.stdin.buffer.read(), out, max_bytes=max_bytes, max_row_bytes=max_row_bytes, max_rows=max_rows)
    sys.stdout.flush()
    os._exit(0)  # Arrow's own teardown has nothing to save


if __name__ == "__main__":
    main(sys.argv[1:])
