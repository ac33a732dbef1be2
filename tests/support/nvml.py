"""Cards that are not there: a driver library beside a file of what it answers (see nvml.c), for this process and its
children. The project's own reader, NVIDIA's Python binding and the library's calling convention are the real ones."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pynvml
import pytest

GIB = 2**30
LIBRARY = "libnvidia-ml.so.1"


@cache
def _built() -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("pretended cards need a C compiler: install gcc")
    folder = Path(tempfile.mkdtemp(prefix="nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / LIBRARY, source, "-ldl"], check=True)
    return folder / LIBRARY


def gpu(uuid: str, name: str = "Pretended", total: int = 24 * GIB, free: int = 23 * GIB, capability: str = "8.9",
        bus: str = "00000000:3B:00.0") -> str:  # fmt: skip
    """The line for a GPU; memory in bytes, total 0 where the driver does not tell it."""
    return f"gpu {uuid}|{name}|{total}|{free}|{capability}|{bus}\n"


def mig(uuid: str, name: str = "Pretended MIG 3g.40gb", total: int = 40 * GIB, free: int = 39 * GIB) -> str:
    """The line for an instance of the GPU above it."""
    return f"mig {uuid}|{name}|{total}|{free}|8.0|\n"


def install(folder: Path, cards: str, environment: dict[str, str]) -> dict[str, str]:
    """Put the library and its answers into `folder`, and give `environment` so that it is found there.

    Workers in that environment paint on the processor (`pretended/sitecustomize.py`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / LIBRARY).exists():
        shutil.copy(_built(), folder / LIBRARY)
    (folder / "cards").write_text(cards)
    changed = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    libraries = filter(None, (str(folder), changed.get("LD_LIBRARY_PATH")))
    modules = filter(None, (changed.get("PYTHONPATH"), str(Path(__file__).with_name("pretended"))))
    return changed | {"LD_LIBRARY_PATH": os.pathsep.join(libraries), "PYTHONPATH": os.pathsep.join(modules)}


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, cards: str) -> None:
    """Let this process and its children see these cards; call it again to change them."""
    changed = install(folder, cards, dict(os.environ))
    monkeypatch.setenv("LD_LIBRARY_PATH", changed["LD_LIBRARY_PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # The loader reads LD_LIBRARY_PATH when a process starts: this one has started.
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(folder / LIBRARY)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def no_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose driver is not loaded."""
    pretend(folder, monkeypatch, "")
    (folder / "cards").unlink()


A100 = "NVIDIA A100-SXM4-80GB"
FIRST = gpu("GPU-aaaa1111", A100, 81920 * 2**20, 81000 * 2**20, "8.0")
OTHERS = gpu("GPU-bbbb2222", A100, 81920 * 2**20, 40000 * 2**20, "8.0") + gpu("GPU-bbbb3333", "NVIDIA A10", 0, 0, "8.6")
DRIVER = "driver 580.1\n"
PLAIN = DRIVER + FIRST + OTHERS
MIG = DRIVER + FIRST + mig("MIG-0001", f"{A100} MIG 3g.40gb") + mig("MIG-0002", f"{A100} MIG 3g.40gb") + OTHERS


NAME, UUID = "NVIDIA L4", "GPU-aaaa1111"
CARD = gpu(UUID, NAME, bus="00000000:3B:00.0")
BARE = gpu(UUID, "NVIDIA T4")
SECOND = 10**9  # the counters count ns

HEAT, HOT, BRAKE, HEAT_OF_OLD, CAP = "field 269 3", "field 270 3", "field 271 3", "field 75 3", "field 74 3"
RETIRED, RETIREMENT_DUE, REMAPPED, DUE, FAILED = "field 30 1", "field 31 1", "field 143 1", "field 144 1", "field 145 1"
RECOVERY, DRAM, SRAM, EVERYWHERE = "field 230 1", "ecc 2", "ecc 7", "ecc total"
HEALTHY = {HEAT: 0, HOT: 0, BRAKE: 0, CAP: 91 * SECOND, RETIRED: 0, RETIREMENT_DUE: 0, REMAPPED: 2, DUE: 0, FAILED: 0,
           RECOVERY: 0, DRAM: 0, SRAM: 0, EVERYWHERE: 0, "events": 0x04}  # fmt: skip
"""Rows were remapped long ago, and the card is at its power limit."""

Facts = Mapping[str, int | None]


def card(changed: Facts | str) -> str:
    """The lines for tests/support/nvml.c: a healthy card but for what changed (None: not supported), or as given."""
    if isinstance(changed, str):
        return changed
    return CARD + "".join(f"{key} {value}\n" for key, value in (HEALTHY | dict(changed)).items() if value is not None)


def pretend_health(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, before: Facts | str, after: Facts | str | None
) -> None:
    """A card that is `before` when its condition is first asked for, and then `after`: None does not answer."""
    pretend(folder, monkeypatch, card(before))
    (folder / "after").write_text("" if after is None else card(after))
