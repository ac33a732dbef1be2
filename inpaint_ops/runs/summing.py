"""A run's rows are read and summed up by several processes at once, where there are many.

A report of many rows takes most of its time to parse and check records and to write them again. The processes do that,
shard by shard (`summing_process`); whoever started them adds the sums in the order of the rows, so that each file has
the bytes that it has without.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from inpaint_ops.errors import StorageError
from inpaint_ops.machine.process_pool import ProcessPool
from inpaint_ops.planning import Plan, Shard
from inpaint_ops.run_files.compacted import CompactedShard
from inpaint_ops.run_files.frozen import row_bytes, shard_bytes
from inpaint_ops.run_files.inventory import Inventory
from inpaint_ops.run_files.plain_shards import PlainShard, Reading, ShardFiles
from inpaint_ops.run_files.rows import ReadPlain
from inpaint_ops.runs.workspace import Workspace

_MODULE = "inpaint_ops.tallies.summing_process"

FEWEST_ROWS = 30_000
"""With fewer rows to share, starting processes costs more than they save."""
_MOST_ROWS = 10_000
"""Of a shard: what each row comes to is kept, two or three thousand bytes, until it is its turn."""


def plain_reader(pool: ProcessPool, workspace: Workspace, plan: Plan, here: Collection[str]) -> ReadPlain:
    """Has the pool read the run's own shards but those that are to be read `here`."""

    def read(inventory: Inventory, alone: Sequence[int]) -> Iterator[PlainShard | None]:
        return pool.map(partial(_files, workspace, plan, shard, inventory, alone, here) for shard in plan.shards)

    return read


def pool_for(workspace: Workspace, plan: Plan, count: int) -> ProcessPool:
    """So many processes that read shards of this run."""
    layout = workspace.layout(plan.run)
    return ProcessPool(_MODULE, count, Reading(layout, plan.job, row_bytes(workspace.settings)))


def _files(
    workspace: Workspace, plan: Plan, shard: Shard, inventory: Inventory, alone: Sequence[int], here: Collection[str]
) -> ShardFiles | None:
    """What a process needs of the shard; None where it is to be read here, or cannot be read, which is then told."""
    listed = inventory.records[shard.name]
    is_whole = len(listed.rows) == shard.rows <= _MOST_ROWS and shard.name in inventory.compacted
    if shard.name in here or not is_whole:
        return None
    storage, layout, settings = workspace.storage, workspace.layout(plan.run), workspace.settings
    try:
        rows = shard_bytes(storage, layout, shard, settings)
    except StorageError:
        return None
    compacted = CompactedShard.read(
        storage, layout, shard.name, records=shard.rows, total=sum(listed.sizes), max_record=row_bytes(settings)
    )
    if compacted is None:
        return None
    within = alone[bisect_left(alone, shard.first_row) : bisect_right(alone, shard.last_row)]
    return ShardFiles(shard, rows, compacted, within)
