"""One shard: prefetch -> worker -> upload -> records; heartbeat, kill, resume.

The supervisor holds the storage and no torch; its worker, a fresh interpreter, holds the model and no storage. Rows
that have a record are not touched again, so a second try of a shard does only what is missing.
"""

from inpaint_ops.supervisor.shard import ShardRun
from inpaint_ops.supervisor.state import Progress, ShardResult

__all__ = ["Progress", "ShardResult", "ShardRun"]
