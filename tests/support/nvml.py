"""Cards that are not there: a driver library beside a file of what it answers (see nvml.c), for this process and its
children. The project's own reader, NVIDIA's Python binding and the library's calling convention are the real ones."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
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
    """Put the library and its answers into `folder`, and give `environment` so that it is found there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / LIBRARY).exists():
        shutil.copy(_built(), folder / LIBRARY)
    (folder / "cards").write_text(cards)
    changed = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    before = changed.get("LD_LIBRARY_PATH")
    return changed | {"LD_LIBRARY_PATH": f"{folder}:{before}" if before else str(folder)}


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
