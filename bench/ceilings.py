"""What the card can do at best: matrix products, copies, attention by each kernel. Only child processes import it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_WARM_UP, _TIMED = 3, 10
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_ATTENTION_SHAPES = {"4096x10": (2, 10, 4096, 64), "1024x20": (2, 20, 1024, 64)}
"""SDXL's two kinds of self-attention at 1024x1024 with guidance: (samples, heads, tokens, width of a head)."""


def measure(where: str, deadline: float) -> dict[str, float]:
    """Ceilings of `where` (cuda or cpu); each is the median of ten timed calls after three others, on random data.

    `matmul_<dtype>_tflops` is 2 n^3 / seconds of an n x n product (8192 on a card, 1024 on a CPU), `_tf32_` with
    TensorFloat-32 allowed; `copy_*_gbps` counts bytes read and written; `attention_*_ms` is one call in float16.
    A kernel that this card or this torch lacks is absent. What `deadline` (perf_counter) leaves no time for is absent.
    """
    found: dict[str, float] = {}
    for name, work in _work(where).items():
        if time.perf_counter() > deadline:
            break
        try:
            found[name] = work()
        except Exception as error:  # a kernel that is not there is no ceiling
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}", flush=True)
        if where == "cuda":
            torch.cuda.empty_cache()
    return found


def _work(where: str) -> dict[str, Callable[[], float]]:
    side = 8192 if where == "cuda" else 1024
    dtypes = ("float16", "bfloat16", "float32") if where == "cuda" else ("float32", "bfloat16")
    work: dict[str, Callable[[], float]] = {
        f"matmul_{dtype}_tflops": lambda dtype=dtype: _matmul(where, side, dtype)  # type: ignore[misc]
        for dtype in dtypes
    }
    if where == "cpu":
        return work | {"copy_host_gbps": lambda: _copy("cpu", "cpu", 2**27)}
    work["matmul_tf32_tflops"] = lambda: _matmul(where, side, "float32", tf32=True)
    work["copy_device_gbps"] = lambda: _copy("cuda", "cuda", 2**31)
    work["copy_host_to_device_pinned_gbps"] = lambda: _copy("pinned", "cuda", 2**28)
    work["copy_host_to_device_pageable_gbps"] = lambda: _copy("cpu", "cuda", 2**28)
    for label, shape in _ATTENTION_SHAPES.items():
        for name, backend in _KERNELS.items():
            work[f"attention_{label}_{name}_ms"] = lambda shape=shape, backend=backend: _attention(shape, backend)  # type: ignore[misc]
        work[f"attention_{label}_xformers_ms"] = lambda shape=shape: _xformers(shape)  # type: ignore[misc]
    return work


def median_seconds(where: str, call: Callable[[], Any], *, warm_up: int = _WARM_UP, timed: int = _TIMED) -> float:
    """The median of `timed` calls after `warm_up` others: CUDA events on a card, the clock on a CPU."""
    for _ in range(warm_up):
        call()
    if where == "cpu":
        taken = []
        for _ in range(timed):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(timed)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in pairs)) / 1e3


def _matmul(where: str, side: int, dtype: str, *, tf32: bool = False) -> float:
    one, two = (torch.randn(side, side, device=where).to(getattr(torch, dtype)) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        seconds = median_seconds(where, lambda: one @ two)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * side**3 / seconds / 1e12


def _copy(source: str, target: str, size: int) -> float:
    """GB/s; a copy within one memory reads and writes its bytes there, a copy between two moves each byte once."""
    bytes_from = torch.empty(size, dtype=torch.uint8, device="cpu" if source == "pinned" else source)
    bytes_from.random_(0, 255)
    if source == "pinned":
        bytes_from = bytes_from.pin_memory()
    bytes_to = torch.empty(size, dtype=torch.uint8, device=target)
    seconds = median_seconds(
        "cpu" if target == "cpu" else "cuda", lambda: bytes_to.copy_(bytes_from, non_blocking=True)
    )
    return (2 if source == target else 1) * size / seconds / 1e9


def _attention(shape: tuple[int, ...], backend: SDPBackend) -> float:
    query, key, value = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))
    with sdpa_kernel(backend):
        attend = torch.nn.functional.scaled_dot_product_attention
        return median_seconds("cuda", lambda: attend(query, key, value)) * 1e3


def _xformers(shape: tuple[int, ...]) -> float:
    import xformers.ops

    samples, heads, tokens, width = shape
    query, key, value = (
        torch.randn(samples, tokens, heads, width, device="cuda", dtype=torch.float16) for _ in range(3)
    )
    return median_seconds("cuda", lambda: xformers.ops.memory_efficient_attention(query, key, value)) * 1e3
