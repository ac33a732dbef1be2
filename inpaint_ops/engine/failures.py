"""What an exception out of the pipeline means: no memory, a lost device, a compiler that does not work."""

from __future__ import annotations

import torch
from torch._dynamo.exc import TorchDynamoException

from inpaint_ops.engine.batching import PaintItem
from inpaint_ops.errors import DeviceOutOfMemoryError

_ALLOCATION_FAILED = (
    "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator",
)  # fmt: skip
"""How drivers and libraries below torch say that memory ran out, in a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory for what was asked; less at once may work."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _ALLOCATION_FAILED)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device's context is lost: nothing that this process asks of it will work any more."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def is_compiler_failure(error: BaseException) -> bool:
    """Whether torch.compile failed; the model may work without."""
    return isinstance(error, TorchDynamoException)


def does_not_fit(item: PaintItem, error: Exception) -> DeviceOutOfMemoryError:
    """The error of a row for which memory does not even suffice by itself."""
    key = item.key
    return DeviceOutOfMemoryError(
        f"row {item.row} at {key.width}x{key.height} does not fit the memory by itself ({in_short(error, 300)}): "
        "use the tuning low-memory, or a card with more memory"
    )


def in_short(error: BaseException, limit: int = 200) -> str:
    """The first `limit` characters of an error's message, in one line."""
    return " ".join(str(error).split())[:limit]
