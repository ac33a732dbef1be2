"""What a row's error says where memory does not suffice, and long messages made short."""

from __future__ import annotations

from inpaint_ops.engine.batching import PaintItem
from inpaint_ops.errors import DeviceOutOfMemoryError
from inpaint_ops.protocol import unit_name


def does_not_fit(item: PaintItem, error: Exception) -> DeviceOutOfMemoryError:
    """The error of a row for which memory does not even suffice by itself."""
    key = item.key
    return DeviceOutOfMemoryError(
        f"row {unit_name(item.row)} at {key.width}x{key.height} does not fit the memory by itself "
        f"({in_short(error, 300)}): use the tuning low-memory, or a card with more memory"
    )


def in_short(error: BaseException, limit: int = 200) -> str:
    """The first `limit` characters of an error's message, in one line."""
    return " ".join(str(error).split())[:limit]
