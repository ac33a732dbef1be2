"""How a worker has CUDA wait, with a runtime that is not there (tests/support/cudart.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from inpaint_ops.config import CudaWait
from inpaint_ops.device.waiting import ask_to_wait, inspect


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """What /proc/self/maps says where torch has loaded a runtime."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("pretended cards need a C compiler: install gcc")
    library = tmp_path / "a folder" / "libcudart.so.13"
    library.parent.mkdir()
    source = Path(__file__).parents[1] / "support" / "cudart.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    listed = tmp_path / "maps"
    listed.write_text(
        "7f00-7f01 r--p 00000000 08:01 12 /usr/lib/libc.so.6\n7f02-7f03 rw-p 00000000 00:00 0 \n"
        f"7f04-7f05 r-xp 00001000 08:01 34                     {library}\n7f06-7f07 r--p 00000000 00:00 0 [vdso]\n"
    )
    return listed


@pytest.mark.parametrize("wanted", ["sleep", "spin"])
def test_the_runtime_that_torch_has_loaded_is_asked_and_the_ledger_says_what_it_answers(
    maps: Path, wanted: CudaWait
) -> None:
    assert inspect(wanted, "", maps).effective == "auto", "before it was asked"
    assert ask_to_wait(wanted, maps) == ""
    entry = inspect(wanted, "", maps)
    assert (entry.name, entry.requested, entry.effective, entry.matches) == ("cuda_wait", wanted, wanted, True)
    other = inspect("spin" if wanted == "sleep" else "sleep", "", maps)
    assert not other.matches and other.reason == "CUDA says that it waits in another way"


def test_an_error_is_a_reason_and_stops_nothing(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDART_ERROR", "201")
    why = ask_to_wait("sleep", maps)
    assert why == "cudaSetDeviceFlags answered with the error 201"
    entry = inspect("sleep", why, maps)
    assert (entry.effective, entry.matches, entry.reason) == ("unknown", False, why)


def test_without_a_runtime_or_with_a_strange_one_that_is_the_reason(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r--p 00000000 08:01 12 /usr/lib/libc.so.6\n")
    assert "no CUDA runtime" in ask_to_wait("sleep", maps)
    (tmp_path / "libcudart.so").write_text("no library")
    maps.write_text(f"7f00-7f01 r--p 00000000 08:01 12 {tmp_path}/libcudart.so\n")
    why = ask_to_wait("sleep", maps)
    assert why.startswith("the CUDA runtime cannot be asked") and "\n" not in why
    assert inspect("sleep", why, maps).effective == "unknown"
