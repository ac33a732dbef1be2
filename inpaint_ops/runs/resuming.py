"""What is left of a run that goes on: the shards that an attempt must look at, found out by one look at the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from inpaint_ops.planning import Plan, Shard
from inpaint_ops.run_files.retried import read_retries
from inpaint_ops.run_files.rows import CountedRows
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import Leftovers


def unfinished_shards(workspace: Workspace, plan: Plan) -> Sequence[Shard]:
    """The run's own shards less those of which each row has a record that counts, as an attempt at them would find.

    An attempt asks for each record and each image; here records, compacted ones and images are listed once, and the
    compacted ones are read. So a run that has none is not looked at: it is new, or its first attempts are under way.
    Raises StorageError.
    """
    storage, layout = workspace.storage, workspace.layout(plan.run)
    if next(storage.list(layout.compacted), None) is None:
        return plan.shards
    left = Leftovers()
    retries, _ = read_retries(storage, layout, workspace.settings, left)
    ended: Counter[str] = Counter()
    for row in CountedRows(storage, layout, plan, retries, workspace.settings, left):
        ended[row.shard] += any(shard == row.shard for shard, _ in row.records)
    return [shard for shard in plan.shards if ended[shard.name] < shard.rows]
