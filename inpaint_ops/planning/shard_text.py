"""A plan's rows as text: as a manifest has them, and as shards' files do. Of many rows several processes make it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from inpaint_ops.machine.process_pool import ProcessPool, processes_for
from inpaint_ops.manifest import AcceptedRow, OutputNames, write_jsonl
from inpaint_ops.manifest.packed import PackedRows
from inpaint_ops.planning import JobOptions, Shard
from inpaint_ops.planning.naming import named

_MODULE = "inpaint_ops.planning.shard_text_process"
FEWEST_ROWS = 100_000
"""With fewer rows, starting processes costs about what they save."""


@dataclass(frozen=True, slots=True)
class ShardText:
    """Some rows as lines of JSON."""

    manifest: bytes
    shard: bytes

    @classmethod
    def of(cls, rows: Iterable[AcceptedRow], job: JobOptions, names: OutputNames | None) -> ShardText:
        """Plan the rows. Each is made once."""
        manifest, shard = io.BytesIO(), io.BytesIO()
        for row in rows:
            in_manifest, in_shard = named(row, job, names).as_lines()
            write_jsonl([in_manifest], manifest)
            write_jsonl([in_shard], shard)
        return cls(manifest.getvalue(), shard.getvalue())


def shard_texts(
    rows: Sequence[AcceptedRow], shards: Iterable[Shard], job: JobOptions, names: OutputNames | None
) -> Iterator[tuple[Shard, ShardText]]:
    """Each shard's text, in order; the shards are slices of the rows."""
    shards = list(shards)
    ends = list(accumulate(shard.rows for shard in shards))
    parts = [rows[end - shard.rows : end] for shard, end in zip(shards, ends, strict=True)]
    packed = [part for part in parts if isinstance(part, PackedRows)]
    count = processes_for(len(rows), FEWEST_ROWS) if len(packed) == len(parts) else 0
    if not count:
        yield from ((shard, ShardText.of(part, job, names)) for shard, part in zip(shards, parts, strict=True))
        return
    with ProcessPool(_MODULE, count, (job, names)) as pool:
        texts = pool.map(partial(PackedRows.as_text, part) for part in packed)
        for shard, part, text in zip(shards, parts, texts, strict=True):
            yield shard, text or ShardText.of(part, job, names)
