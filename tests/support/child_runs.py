"""Marks of one reviewer, and child runs painted by the scripted worker."""

from __future__ import annotations

from inpaint_ops.reviewing import Mark, Redo, Reviews, reviewed_rows
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.storage.stored import Leftovers
from inpaint_ops.supervisor import ShardRun
from tests.support.bench import Bench


def say(workspace: Workspace, run: str, row: str, what: str) -> None:
    plan = workspace.plan(run)
    assert plan is not None
    attempts = {one.record.id: one.record.attempt for one in reviewed_rows(workspace, plan, Leftovers())}
    mark = Mark(id=row, mark=what, attempt=attempts[row])  # type: ignore[arg-type]
    Reviews(workspace.storage, workspace.layout(run)).append("ann", [mark])


def paint(bench: Bench, redo: Redo) -> None:
    plan = prepare(bench.workspace, redo.manifest.uri, redo.run, bench.job)
    rows = bench.workspace.shard_rows(plan, "00000")
    ShardRun(
        bench.workspace.storage, bench.workspace.layout(redo.run), "00000", rows, bench.job, bench.settings,
        worker_command=bench.command(),
    ).run()  # fmt: skip
