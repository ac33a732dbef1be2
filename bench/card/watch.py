"""Looking at the card meanwhile: its memory and how busy it says it is; and taking its memory away."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pynvml

_EVERY = 0.05
GB = 10**9


@dataclass
class Watch:
    """What the first card said, every 50 ms: epoch seconds, bytes in use, percent of the time with a kernel at work."""

    samples: list[tuple[float, int, int]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def used(self) -> int:
        """Bytes in use now; 0 before the first answer."""
        return self.samples[-1][1] if self.samples else 0

    def most(self) -> int:
        """The most bytes in use."""
        return max((used for _, used, _ in self.samples), default=0)

    def busy(self, begin: float, end: float) -> float | None:
        """Mean percent of the time from `begin` to `end` (epoch seconds) in which a kernel was at work."""
        found = [busy for at, _, busy in self.samples if begin <= at <= end]
        return sum(found) / len(found) if found else None

    def look(self) -> None:
        """Until the block of `watch` ends."""
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self._over.wait(_EVERY):
            used, rates = pynvml.nvmlDeviceGetMemoryInfo(card).used, pynvml.nvmlDeviceGetUtilizationRates(card)
            self.samples.append((time.time(), int(used), int(rates.gpu)))


@contextlib.contextmanager
def watch() -> Iterator[Watch | None]:
    """Watch the card within the block; None where there is none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    watching = Watch()
    thread = threading.Thread(target=watching.look)
    thread.start()
    try:
        yield watching
    finally:
        watching._over.set()
        thread.join()
        pynvml.nvmlShutdown()


class Ballast:
    """Holds memory of the first card by the driver's own calls, so that another process finds less of it."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._context = ctypes.c_void_p()
        device = ctypes.c_int()
        self._ask("cuInit", 0)
        self._ask("cuDeviceGet", ctypes.byref(device), 0)
        self._ask("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._ask("cuCtxSetCurrent", self._context)

    def leave(self, bytes_free: int) -> int:
        """Take all but `bytes_free`. The bytes that were taken. Raises RuntimeError."""
        self._ask("cuCtxSetCurrent", self._context)
        free, total, held = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
        self._ask("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        wanted = free.value - bytes_free
        if wanted <= 0:
            return 0
        self._ask("cuMemAlloc_v2", ctypes.byref(held), ctypes.c_size_t(wanted))
        self._held = held
        return wanted

    def give_back(self) -> None:
        """Free what was taken."""
        held = getattr(self, "_held", None)
        if held is not None:
            self._ask("cuMemFree_v2", held)
            del self._held

    def _ask(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: CUDA's error {code}")
