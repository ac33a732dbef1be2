"""How a process waits for its card: asleep, or by asking without a pause, which keeps a processor busy.

CUDA decides when a context is made (cudaSetDeviceFlags in its runtime's manual). By default it spins where there are
more processors than contexts, so that a worker's painting thread is busy all the time. Two processors then leave one
for decoding and encoding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

from inpaint_ops.config import CudaWait
from inpaint_ops.records import LedgerEntry

_SCHEDULE_SPIN, _SCHEDULE_BLOCKING_SYNC, _SCHEDULE_MASK = 0x01, 0x04, 0x07
_NAMES = {0x00: "auto", 0x01: "spin", 0x02: "yield", 0x04: "sleep"}
_MAPS = Path("/proc/self/maps")


def ask_to_wait(wanted: CudaWait, maps: Path = _MAPS) -> str:
    """Have CUDA wait so from here on. Why it does not, else "".

    Call it once torch is imported and before anything asks for the device. `maps` lists what is loaded.
    """
    flag = _SCHEDULE_BLOCKING_SYNC if wanted == "sleep" else _SCHEDULE_SPIN
    try:
        runtime = _runtime(maps)
        if runtime is None:
            return "torch has loaded no CUDA runtime (libcudart) of its own"
        code = int(runtime.cudaSetDeviceFlags(ctypes.c_uint(flag)))
    except (OSError, AttributeError) as error:
        return f"the CUDA runtime cannot be asked: {' '.join(str(error).split())[:200]}"
    return f"cudaSetDeviceFlags answered with the error {code}" if code else ""


def inspect(wanted: CudaWait, why_not: str, maps: Path = _MAPS) -> LedgerEntry:
    """What CUDA says of how it waits, now that it has a context; `why_not` is what `ask_to_wait` found."""
    effective = "unknown"
    try:
        runtime, flags = _runtime(maps), ctypes.c_uint(0)
        if runtime is not None and int(runtime.cudaGetDeviceFlags(ctypes.byref(flags))) == 0:
            effective = _NAMES.get(flags.value & _SCHEDULE_MASK, "unknown")
    except (OSError, AttributeError):
        pass
    matches = effective == wanted
    reason = why_not or ("" if matches else "CUDA says that it waits in another way")
    return LedgerEntry(name="cuda_wait", requested=wanted, effective=effective, matches=matches, reason=reason)


def _runtime(maps: Path) -> ctypes.CDLL | None:
    """The runtime that torch has loaded: another copy would have flags of its own."""
    found = next(_loaded(maps), None)
    return None if found is None else ctypes.CDLL(found)


def _loaded(maps: Path) -> Iterator[str]:
    for line in maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and Path(path[0]).name.startswith("libcudart"):
            yield path[0]
