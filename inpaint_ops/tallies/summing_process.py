"""The process that sums up the rows of shards: `python -m inpaint_ops.tallies.summing_process` (see `summing`)."""

from __future__ import annotations

from inpaint_ops.machine import process_pool
from inpaint_ops.run_files.plain_shards import PlainShard, Reading, ShardFiles, read_plain
from inpaint_ops.tallies.row_sums import Stretch


def _read(reading: Reading, files: ShardFiles) -> PlainShard | None:
    return read_plain(reading, files, Stretch.of)


if __name__ == "__main__":
    process_pool.serve(_read)
