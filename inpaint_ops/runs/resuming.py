"""What is left of a run that goes on: the shards that an attempt must look at, found out by one look at the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from inpaint_ops.machine.garbage import only_new_garbage
from inpaint_ops.planning import Plan, Shard
from inpaint_ops.run_files.ended import ended_shards
from inpaint_ops.run_files.inventory import Inventory
from inpaint_ops.run_files.retried import read_retries
from inpaint_ops.run_files.rows import CountedRows
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import Leftovers


@only_new_garbage()
def unfinished_shards(workspace: Workspace, plan: Plan) -> Sequence[Shard]:
    """The run's own shards less those of which each row has a record that counts, as an attempt at them would find.

    An attempt asks for each record and each image; here records, compacted ones and images are listed once. What an
    attempt has left of a finished shard (`run_files.ended`) is compared with the listings; of other shards the records
    are read. A run without compacted records is not looked at: it is new, or its first attempts are under way.
    Raises StorageError.
    """
    storage, layout = workspace.storage, workspace.layout(plan.run)
    if next(storage.list(layout.compacted), None) is None:
        return plan.shards
    left = Leftovers()
    retries, _ = read_retries(storage, layout, workspace.settings, left)
    inventory = Inventory.of(storage, layout, plan, retries, left)
    passed = ended_shards(storage, layout, plan.shards, inventory, left)
    others = [shard for shard in plan.shards if shard.name not in passed]
    ended: Counter[str] = Counter()
    for row in CountedRows(
        storage, layout, plan, retries, workspace.settings, left, inventory=inventory, shards=others
    ):
        ended[row.shard] += bool(row.records)
    return [shard for shard in others if ended[shard.name] < shard.rows]
