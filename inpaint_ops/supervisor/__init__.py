"""One shard: prefetch -> worker -> upload -> records; heartbeat, kill, resume.

The supervisor holds the storage and no torch; its worker, a fresh interpreter, holds the model and no storage. Rows
that have a record are not touched again, so a second attempt at a shard does only what is missing.
"""

from inpaint_ops.supervisor.progress import Progress, ShardResult
from inpaint_ops.supervisor.shard import ShardRun

__all__ = ["Progress", "ShardResult", "ShardRun"]
