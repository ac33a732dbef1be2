"""torch's profiler, begun: the operators of this thread and, on a card, its kernels."""

from __future__ import annotations

from typing import Any

import torch


def start_profiler() -> Any:
    """A profiler that runs until its `stop`; its events are then `profiler.kineto_results.events()`.

    Raises RuntimeError where it cannot.
    """
    from torch.profiler import ProfilerActivity, profile  # nothing needs it where nothing is profiled

    devices = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    profiler = profile(activities=[ProfilerActivity.CPU, *devices])
    profiler.start()
    return profiler
