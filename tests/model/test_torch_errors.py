"""What exceptions of torch and of the libraries below it mean. Texts as the libraries' sources have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from inpaint_ops.model.torch_errors import is_capture_failure, is_compiler_failure, is_device_lost, is_out_of_memory

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
CAPTURE = (
    "CUDA error: operation not permitted when stream is capturing",
    "CUDA error: operation failed due to a previous error during capture",
    "CUDA error: operation would make the legacy stream depend on a capturing blocking stream",
    "CUDA error: capturing stream has unjoined work",
)
NO_ENGINE = "FIND was unable to find an engine to execute this computation"


def raised_from(error: Exception, cause: Exception, *, explicit: bool = True) -> Exception:
    """`error`, raised while `cause` was handled."""
    try:
        try:
            raise cause
        except Exception as caught:
            if explicit:
                raise error from caught
            raise error  # noqa: B904
    except Exception as found:
        return found


def wrapped(error: Exception) -> Exception:
    return InductorError(error, None)


MEMORY: dict[str, Exception] = {
    "torch": OUT_OF_MEMORY,
    "host": MemoryError(),
    "driver": RuntimeError("CUDA error: out of memory"),
    "accelerator": torch.AcceleratorError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn 9 device": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cudnn 9 host": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    "triton": RuntimeError("Triton Error [CUDA]: out of memory"),
    "inductor": wrapped(OUT_OF_MEMORY),
    "inductor over triton": wrapped(RuntimeError("Triton Error [CUDA]: out of memory")),
    "dynamo": BackendCompilerFailed(wrapped, OUT_OF_MEMORY, None),
    "as a cause": raised_from(RuntimeError("the call failed"), OUT_OF_MEMORY),
    "as a context": raised_from(RuntimeError("the call failed"), OUT_OF_MEMORY, explicit=False),
}


@pytest.mark.parametrize("name", MEMORY)
def test_every_way_to_say_that_memory_ran_out(name: str) -> None:
    error = MEMORY[name]
    assert is_out_of_memory(error)
    assert not is_device_lost(error)
    assert not is_compiler_failure(error), "the batch is made smaller, and compiling stays on"


@pytest.mark.parametrize("text", CAPTURE)
@pytest.mark.parametrize("kind", [torch.AcceleratorError, RuntimeError])
def test_a_graph_that_cannot_be_captured_is_no_lost_device(text: str, kind: type[Exception]) -> None:
    hints = "\nCUDA kernel errors might be asynchronously reported at some other API call"
    for error in (kind(text + hints), raised_from(RuntimeError("warm-up failed"), kind(text))):
        assert is_capture_failure(error)
        assert is_compiler_failure(error)
        assert not is_device_lost(error)
        assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "text",
    ["an illegal memory access was encountered", "uncorrectable ECC error encountered", "unspecified launch failure"],
)
def test_a_lost_device_is_one_however_it_is_wrapped(text: str) -> None:
    lost = torch.AcceleratorError(f"CUDA error: {text}")
    for error in (lost, wrapped(lost), raised_from(RuntimeError("the call failed"), lost)):
        assert is_device_lost(error)
        assert not is_out_of_memory(error)
        assert not is_capture_failure(error)


@pytest.mark.parametrize(("free", "cached", "is_memory"), [(1, 0, True), (1, 50, False), (60, 0, False)])
def test_no_engine_means_no_memory_on_a_full_card_alone(
    monkeypatch: pytest.MonkeyPatch, free: int, cached: int, is_memory: bool
) -> None:
    card: dict[str, Any] = {
        "is_available": lambda: True,
        "mem_get_info": lambda: (free, 100),
        "memory_reserved": lambda: cached,
        "memory_allocated": lambda: 0,
    }
    for name, answer in card.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    assert is_out_of_memory(RuntimeError(NO_ENGINE)) is is_memory
    assert not is_out_of_memory(RuntimeError("another fault"))


def test_without_a_card_no_engine_is_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError(NO_ENGINE))
    assert not is_out_of_memory(ValueError("CUDA error: out of memory")), "a text that somebody quotes"


@pytest.mark.parametrize("text", ["unknown error", "driver initialization failed, you might not have a CUDA gpu."])
def test_a_card_that_does_not_start_is_lost(text: str) -> None:
    assert is_device_lost(RuntimeError(f"CUDA {text}"))
    assert not is_device_lost(RuntimeError(f"somebody wrote CUDA {text}"))
