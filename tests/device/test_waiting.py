"""How a worker has CUDA wait, with a runtime that is not there (tests/support/cudart.c)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from inpaint_ops.config import CudaWait, Settings
from inpaint_ops.device.waiting import ask_to_wait, inspect
from inpaint_ops.planning import JobOptions
from inpaint_ops.runs import Workspace, finish, paint, prepare
from tests.support import nvml
from tests.support.pictures import file_of, mask_file, smooth


@pytest.fixture
def library(tmp_path: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("pretended cards need a C compiler: install gcc")
    library = tmp_path / "libcudart.so.13"
    source = Path(__file__).parents[1] / "support" / "cudart.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture
def maps(tmp_path: Path, library: Path) -> Path:
    """What /proc/self/maps says where torch has loaded a runtime."""
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


@pytest.mark.parametrize(("wanted", "flag"), [("sleep", 4), ("spin", 1)])
def test_the_worker_of_a_card_asks_once_and_one_of_processors_never(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: CudaWait, flag: int
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "photo.png").write_bytes(file_of(smooth(64, 64)))
    (folder / "mask.png").write_bytes(mask_file(64, 64, (16, 16, 48, 48)))
    row = {"image": "photo.png", "mask": "mask.png", "prompt": "x", "steps": 1, "strength": 1.0}
    (folder / "m.jsonl").write_text(json.dumps(row) + "\n")
    for name, value in nvml.install(tmp_path / "driver", nvml.gpu("GPU-1"), dict(os.environ)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CUDART_LOG", str(tmp_path / "log"))
    settings = Settings(scratch=tmp_path / "s", cuda_wait=wanted, worker_env=("LD_PRELOAD", "CUDART_LOG"))
    workspace = Workspace.open(settings, store=str(tmp_path / "out"), also_readable=[str(folder)])
    for device in ("cpu", "auto"):
        assert not (tmp_path / "log").exists()
        job = JobOptions(model="tiny-random", device=device)
        for shard in prepare(workspace, str(folder / "m.jsonl"), device, job).shards:
            paint(workspace, device, shard.name)
        assert finish(workspace, device).counts.done == 1
    assert (tmp_path / "log").read_text() == f"{flag}\n"
