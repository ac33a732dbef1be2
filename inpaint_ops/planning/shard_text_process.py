"""The process that plans rows as text: `python -m inpaint_ops.planning.shard_text_process` (see `shard_text`)."""

from __future__ import annotations

from inpaint_ops.machine import process_pool
from inpaint_ops.manifest import OutputNames
from inpaint_ops.manifest.rows import unpack_row
from inpaint_ops.planning import JobOptions
from inpaint_ops.planning.shard_text import ShardText


def _text(setup: tuple[JobOptions, OutputNames | None], rows: tuple[list[bytes], list[bytes]]) -> ShardText:
    made = (unpack_row(line, name.decode()) for line, name in zip(*rows, strict=True))
    return ShardText.of(made, *setup)


if __name__ == "__main__":
    process_pool.serve(_text)
