"""The second call: paint what is missing of one shard."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from inpaint_ops.errors import (
    ConfigError,
)
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.supervisor import Progress, ShardResult, ShardRun


def paint(
    workspace: Workspace,
    run: str,
    shard: str,
    *,
    final_attempt: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ShardResult:
    """Paint what is missing of one shard, of the run itself or of a retry.

    Call it from the main thread; see ShardRun.run for what it raises.
    """
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: plan it first")
    layout = workspace.layout(run)
    job, rows = workspace.shard(plan, shard)
    work = ShardRun(workspace.storage, layout, shard, rows, job, workspace.settings, final_attempt=final_attempt)
    if on_progress is not None:
        work.on_progress = on_progress
    with _drained_on_sigterm(work):
        return work.run()


@contextlib.contextmanager
def _drained_on_sigterm(work: ShardRun) -> Iterator[None]:
    """Have SIGTERM drain the shard while it is painted; a second one cuts the grace short."""
    before = signal.signal(signal.SIGTERM, lambda *_: work.drain())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
