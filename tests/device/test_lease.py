"""Several workers of one machine: each leases a GPU of its own, those that CUDA_VISIBLE_DEVICES names, MIG and all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inpaint_ops.config import load_settings
from inpaint_ops.device.lease_files import own_folder
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, planned
from inpaint_ops.protocol import Event, Fatal, Job, Phase
from inpaint_ops.supervisor.commands import job_command
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.supervisor.worker_process import WorkerProcess
from inpaint_ops.variants import Unit
from tests.support.nvml import MIG, PLAIN, pretend
from tests.support.waiting import PATIENCE, wait_until

HOLDS_ITS_LEASE = """
import contextlib, time
from inpaint_ops.worker import main, setup
setup.import_model_stack = lambda: None
setup._failures_noted = lambda lease: contextlib.nullcontext()
setup._describe_device = lambda job, slot: time.sleep(3600)
main()
"""
"""The pretended cards cannot be painted on: the worker stays where it has leased one and would look at it,
and has imported no torch by then."""


class Worker:
    """A real worker, told to paint on whatever is free."""

    def __init__(self, folder: Path, lease_timeout: float, leases: str = "") -> None:
        folder.mkdir()
        self.events: list[Event] = []
        self.exits: list[int] = []
        self.process = WorkerProcess.start(
            cwd=folder,
            on_event=self.events.append,
            on_exit=self.exits.append,
            command=[sys.executable, "-c", HOLDS_ITS_LEASE],
        )
        job = Job(
            model="tiny-random", expected_rows=1, scratch=str(folder), lease_timeout=lease_timeout, max_pixels=10**6,
            leases=leases,
        )  # fmt: skip
        self.process.send(job)

    @property
    def has_a_lease(self) -> bool:
        """It loads nothing before it has one."""
        return any(isinstance(event, Phase) and event.name == "load" for event in self.events)

    @property
    def waits(self) -> str:
        said = [event.detail for event in self.events if isinstance(event, Phase) and event.name == "lease"]
        return next((text for text in reversed(said) if text), "")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    started: list[Worker] = []

    def make(lease_timeout: float = PATIENCE, leases: str = "") -> Worker:
        started.append(Worker(tmp_path / f"worker-{len(started)}", lease_timeout, leases))
        return started[-1]

    yield make
    for worker in started:
        worker.process.kill()


def held(tmp_path: Path, workers: list[Worker]) -> dict[str, int]:
    """The leases by device, each with the number of the worker that holds it."""
    pids = {worker.process.pid: number for number, worker in enumerate(workers)}
    found = {}
    for path in (tmp_path / "tmp" / own_folder().name).glob("*.lease"):
        pid = int(path.read_text().split()[1])
        found[path.stem] = pids[pid]
    return found


@pytest.mark.parametrize(
    ("listing", "visible", "devices"),
    [
        (PLAIN, None, {"GPU-aaaa1111", "GPU-bbbb2222", "GPU-bbbb3333"}),
        (PLAIN, "2,0", {"GPU-aaaa1111", "GPU-bbbb3333"}),
        (MIG, "MIG-0002,1", {"MIG-0002", "GPU-bbbb2222"}),
        (MIG, "0", {"MIG-0001", "MIG-0002"}),
    ],
)
def test_all_visible_gpus_are_used_each_by_one_worker_and_no_other(
    start: Callable[..., Worker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listing: str,
    visible: str | None,
    devices: set[str],
) -> None:
    pretend(tmp_path, monkeypatch, listing)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers = [start() for _ in devices]
    wait_until(lambda: all(worker.has_a_lease for worker in workers))
    leases = held(tmp_path, workers)
    assert set(leases) == devices
    assert sorted(leases.values()) == list(range(len(workers)))

    late = start()
    wait_until(lambda: late.waits)
    assert all(device in late.waits for device in devices), "it says who holds them"
    assert not late.has_a_lease
    workers[0].process.kill()
    wait_until(lambda: late.has_a_lease)


def test_a_worker_that_finds_none_free_gives_up_with_an_error_that_may_pass(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, PLAIN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    first = start()
    wait_until(lambda: first.has_a_lease)
    late = start(lease_timeout=0.5)
    wait_until(lambda: late.exits)
    (fatal,) = [event for event in late.events if isinstance(event, Fatal)]
    assert fatal.error.type == "DeviceBusyError"
    assert not fatal.error.permanent
    assert f"GPU-bbbb2222 by pid {first.process.pid}" in fatal.error.message


def test_workers_lease_in_the_folder_that_the_setting_names(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two users do: it is made beforehand, and what failed is noted in each user's own folder."""
    pretend(tmp_path, monkeypatch, PLAIN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("INPAINT_LEASES", str(tmp_path / "machine"))
    row = AcceptedRow(row=1, id="a", image="s3://b/a.png", mask="s3://b/m.png", prompt="a boat")
    options = JobOptions(model="tiny-random")
    job = job_command(options, load_settings(), [RowFiles(Unit(planned(row, options)), tmp_path)], tmp_path)
    leases = job.leases
    late = start(leases=leases)
    wait_until(lambda: late.exits)
    (fatal,) = [event for event in late.events if isinstance(event, Fatal)]
    assert fatal.error.permanent and "docs/deploy.md" in fatal.error.message
    (tmp_path / "machine").mkdir()
    first = start(leases=leases)
    wait_until(lambda: first.has_a_lease)
    late = start(lease_timeout=0.5, leases=leases)
    wait_until(lambda: late.exits)
    assert [path.name for path in (tmp_path / "machine").iterdir()] == ["GPU-bbbb2222.lease"]
