"""What an exception out of torch means: no memory, a lost device, a compiler that does not work."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch._dynamo.exc import TorchDynamoException

_NO_MEMORY = (
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "DefaultCPUAllocator",
)
"""How drivers and libraries below torch say that memory ran out, in a plain RuntimeError."""

_NO_ENGINE = "unable to find an engine"
"""What cuDNN's `GET` and `FIND` say where no plan works: for a shape that it cannot do, or because no plan's workspace
can be allocated."""

_SHORT = 0.1
"""The share of a card's memory below which that is taken to be for lack of memory."""

_NO_CONTEXT = ("CUDA unknown error", "CUDA driver initialization failed", "Unexpected error from cudaGetDeviceCount")
"""How torch begins a plain RuntimeError where a process's first call of CUDA fails (c10/cuda/CUDAFunctions.cpp)."""

_CAPTURE_CODES = range(900, 909)
"""cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread (CUDA's driver_types.h): the capture of a CUDA
graph failed. They leave the context as it was."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no memory for what was asked, whatever exception wraps it."""
    return any(map(_is_out_of_memory, _chain(error)))


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message says that memory ran out."""
    return any(sign in text for sign in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device's context is lost: nothing that this process asks of it will work any more."""
    lost = any(
        isinstance(one, torch.AcceleratorError) or (isinstance(one, RuntimeError) and str(one).startswith(_NO_CONTEXT))
        for one in _chain(error)
    )
    return lost and not is_out_of_memory(error) and not is_capture_failure(error)


def is_capture_failure(error: BaseException) -> bool:
    """Whether a CUDA graph could not be captured: the device is well, and the model works without graphs."""
    return any(
        isinstance(one, RuntimeError)
        and (getattr(one, "error_code", None) in _CAPTURE_CODES or "captur" in str(one).partition("\n")[0])
        for one in _chain(error)
    )


def is_compiler_failure(error: BaseException) -> bool:
    """Whether torch.compile or what it has made failed for another reason than memory; the model may work without."""
    return (isinstance(error, TorchDynamoException) or is_capture_failure(error)) and not is_out_of_memory(error)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return says_out_of_memory(text) or (_NO_ENGINE in text and _memory_is_short())


def _memory_is_short() -> bool:
    """Whether the current card has next to nothing left, including what torch's allocator has cached for reuse."""
    if not torch.cuda.is_available():
        return False
    free, total = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < _SHORT * total


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it was raised from, by Python's own links and dynamo's `inner_exception`."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [
            one.__cause__, None if one.__suppress_context__ else one.__context__, getattr(one, "inner_exception", None),
        ]  # fmt: skip
