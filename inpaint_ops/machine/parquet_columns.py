"""The process that reads columns of a Parquet file: `python -m inpaint_ops.machine.parquet_columns`.

As with manifests (`manifest.parquet`): a crafted file may crash its reader or unpack to any size. It reads standard
input, and writes an Arrow stream of exactly the requested columns and types. It stands here, below all that brings
libraries of its own: importing the pages' package took 0.9 s of the processor, and this module 0.05 s.
"""

from __future__ import annotations

import base64
import os
import resource
import sys
from typing import Any

from inpaint_ops.machine import limited_process

REFUSED = 3
"""The exit code where the last line of standard error says why."""
_CPU_SECONDS = 60
_AT_ONCE = 4096


class _RefusedError(Exception):
    pass


def select(data: bytes, schema: Any, *, max_bytes: int, max_rows: int) -> Any:
    """What the process does: the table, or an exception that says why not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data))
    metadata, there = file.metadata, file.schema_arrow
    if metadata.num_rows > max_rows:
        raise _RefusedError(f"it has {metadata.num_rows} rows, and the limit is {max_rows}")
    for field in schema:
        if there.names.count(field.name) != 1 or there.field(field.name).type != field.type:
            raise _RefusedError(f"it has no column {field.name} of {field.type}, or several")
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > max_bytes:
        raise _RefusedError(f"it unpacks to more than {max_bytes} bytes")
    batches, rows, unpacked = [], 0, 0
    for batch in file.iter_batches(batch_size=_AT_ONCE, columns=schema.names, use_threads=False):
        rows, unpacked = rows + batch.num_rows, unpacked + batch.nbytes
        if rows > max_rows or unpacked > max_bytes:
            raise _RefusedError(f"it unpacks to more than {max_bytes} bytes or {max_rows} rows")
        batches.append(batch.select(schema.names))
    if rows != metadata.num_rows:
        raise _RefusedError(f"it names {metadata.num_rows} rows and holds {rows}")
    table = pa.Table.from_batches([pa.record_batch(list(batch.columns), schema=schema) for batch in batches], schema)
    table.validate(full=True)
    return table


def main(arguments: list[str]) -> None:
    """Read standard input, write standard output; end with `_REFUSED` and a line of why not."""
    max_bytes, max_rows = map(int, arguments[:2])
    limited_process.limit(data_bytes=2**30 + 4 * max_bytes, cpu_seconds=_CPU_SECONDS)
    largest = 2 * max_bytes + 2**20
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    import pyarrow as pa

    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(arguments[2])))
    try:
        table = select(sys.stdin.buffer.read(), schema, max_bytes=max_bytes, max_rows=max_rows)
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
            stream.write_table(table)
    except Exception as error:  # Arrow's own, OSError, MemoryError, and of names that are not UTF-8, ValueError
        print(
            f"not readable: {' '.join(str(error).split())[:300] or type(error).__name__}", file=sys.stderr, flush=True
        )
        os._exit(REFUSED)
    sys.stdout.flush()
    os._exit(0)  # Arrow's own teardown has nothing to save


if __name__ == "__main__":
    main(sys.argv[1:])
