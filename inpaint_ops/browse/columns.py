"""Columns of a Parquet file of the store, read in a process of its own (`machine.parquet_columns`)."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
from typing import Any

from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.machine import limited_process, parquet_columns

_WALL_SECONDS = 600


def read_columns(data: bytes, schema: Any, *, max_bytes: int, max_rows: int) -> Any:
    """The columns of `schema` (a pyarrow.Schema) as a pyarrow.Table of those types; others are ignored.

    Raises DamagedObjectError for a file that cannot be read, has not these columns, or unpacks to more than `max_bytes`
    or `max_rows`.
    """
    import pyarrow as pa

    wanted = base64.b64encode(schema.remove_metadata().serialize()).decode()
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        file.write(data)
        file.seek(0)
        command = [sys.executable, "-m", parquet_columns.__name__, str(max_bytes), str(max_rows), wanted]
        try:
            code = subprocess.run(
                command, stdin=file, stdout=out, stderr=errors, env=limited_process.environment(),
                timeout=_WALL_SECONDS, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DamagedObjectError("its reader took too long") from None
        if code:
            errors.seek(0, os.SEEK_END)
            errors.seek(max(0, errors.tell() - 500))
            last_line = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise DamagedObjectError(
                " ".join(last_line)
                if code == parquet_columns.REFUSED
                else "; its last line: ".join([f"its reader {limited_process.how_it_ended(code)}", *last_line])
            )
        out.seek(0)
        table = pa.ipc.open_stream(out.read()).read_all()
    if table.schema != schema.remove_metadata():
        raise DamagedObjectError("its reader returned other columns than were requested")
    return table
