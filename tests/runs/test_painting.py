"""Several devices of one machine paint the shards of one run: real processes, which meet, die, and find no device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.errors import DeviceBusyError, DrainedError, ModelError, WorkerDiedError
from inpaint_ops.machine.processors import processors
from inpaint_ops.runs import ShardQueue, finish
from inpaint_ops.supervisor import Progress
from tests.support.bench import Bench
from tests.support.waiting import wait_until
from tests.support.warm import warm_host

pytestmark = pytest.mark.usefixtures("no_gallery")


class Painted:
    """A queue of all shards, and what it reported."""

    def __init__(self, bench: Bench, devices: int, *, batch: int = 1) -> None:
        self.notes: list[str] = []
        self.progress: list[tuple[int, Progress]] = []
        self.queue = ShardQueue(
            bench.workspace, "run", [shard.name for shard in bench.plan.shards], devices,
            on_progress=lambda device, progress: self.progress.append((device, progress)),
            on_note=self.notes.append, worker_command=bench.command(batch),
        )  # fmt: skip


def patient(tmp_path: Path, prompts: list[str], shard_rows: int, **options: Any) -> Bench:
    return Bench(tmp_path, prompts, shard_rows=shard_rows, progress_interval=0.05, retry_seconds=0, **options)


def test_three_devices_paint_three_shards_at_the_same_time(tmp_path: Path) -> None:
    bench = patient(tmp_path, ["meet 3", "a", "meet 3", "b", "meet 3", "c", "d"], 2)
    painted = Painted(bench, 3)
    painted.queue.paint()
    assert bench.statuses() == ["done"] * 7 and sorted(bench.painted()) == list(range(1, 8))
    assert {device for device, _ in painted.progress} == {0, 1, 2}
    assert not painted.notes
    assert finish(bench.workspace, "run").verdict == "VALID"
    assert len(bench.workers()) == len(bench.plan.shards) == 4
    bench.assert_nothing_left()


def test_no_more_devices_are_used_than_there_are_shards(tmp_path: Path) -> None:
    bench = patient(tmp_path, ["a", "b"], 2)
    painted = Painted(bench, 8)
    painted.queue.paint()
    assert bench.statuses() == ["done"] * 2 and {device for device, _ in painted.progress} == {0}


def test_a_killed_worker_costs_its_own_batch_alone(tmp_path: Path) -> None:
    prompts = ["meet 3", "a", "SIGKILL once", "b", "meet 3", "c", "d", "e", "meet 3", "f", "g", "h"]
    bench = patient(tmp_path, prompts, 4)
    Painted(bench, 3).queue.paint()
    assert bench.statuses() == ["done"] * 12
    again = {row for row, times in Counter(bench.painting()).items() if times > 1}
    assert again == {3}, "only the row that the killed worker held was begun twice"
    assert [(fault.kind, fault.count) for fault in finish(bench.workspace, "run").faults] == [("worker_died", 1)]


def test_a_thread_without_a_device_leaves_its_shard_to_the_others(tmp_path: Path) -> None:
    bench = patient(tmp_path, ["slow", "a"] * 5, 2, model="two-devices")
    painted = Painted(bench, 3)

    def note(line: str) -> None:
        painted.notes.append(line)
        (tmp_path / "drained").touch()  # the rows of the two that have a device end now

    painted.queue.on_note = note
    painted.queue.paint()
    assert bench.statuses() == ["done"] * 10
    assert len(painted.notes) == 1 and "one device fewer paints: no free device after 0 s" in painted.notes[0]


def test_the_last_thread_has_nobody_to_leave_its_shard_to(tmp_path: Path) -> None:
    bench = patient(tmp_path, ["a", "b"], 1, model="two-devices", tries=2)
    (tmp_path / "leases").mkdir(mode=0o700)
    from inpaint_ops.device import Lease

    with Lease.acquire(["one"], tmp_path / "leases", 0), Lease.acquire(["other"], tmp_path / "leases", 0):
        painted = Painted(bench, 2)
        with pytest.raises(DeviceBusyError, match="no free device"):
            painted.queue.paint()
    assert not bench.records()
    Painted(bench, 2).queue.paint()
    assert bench.statuses() == ["done"] * 2


def test_a_permanent_error_stops_all(tmp_path: Path) -> None:
    bench = patient(tmp_path, ["a"] * 6, 1, model="no-such-model")
    with pytest.raises(ModelError, match="no such model"):
        Painted(bench, 2).queue.paint()
    assert len([note for note in bench.notes() if note.get("started")]) <= 2, "no further shard was begun"


def test_a_shard_that_is_given_up_does_not_stop_the_others(tmp_path: Path) -> None:
    bench = patient(tmp_path, ["a", "a", "SIGKILL", "SIGKILL", "b", "b"], 2, tries=1, worker_deaths=1)
    painted = Painted(bench, 1)
    with pytest.raises(WorkerDiedError):
        painted.queue.paint()
    assert {row for row, record in bench.records().items() if record.status == "done"} == {1, 2, 5, 6}
    assert ["shard 00001 is given up, the others go on" in note for note in painted.notes] == [True]


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, DrainedError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_drains_every_device(tmp_path: Path, number: int, raised: type[BaseException]) -> None:
    bench = patient(tmp_path, ["slow", "a", "slow", "b", "c", "d"], 2, prefetch=1)
    painted = Painted(bench, 2)

    def ask() -> None:
        wait_until(lambda: len(set(bench.painting())) == 2)
        os.kill(os.getpid(), number)
        wait_until(painted.queue._stop.is_set)
        (tmp_path / "drained").touch()

    asking = threading.Thread(target=ask)
    asking.start()
    before = signal.getsignal(number)
    with pytest.raises(raised):
        painted.queue.paint()
    asking.join()
    assert signal.getsignal(number) is before
    assert len(painted.notes) == 1 and "asked to stop" in painted.notes[0] and "INPAINT_GRACE" in painted.notes[0]
    done = set(bench.records())
    assert {1, 3} <= done and not done & {5, 6}, "what was painted was kept, and nothing further begun"
    bench.assert_nothing_left()
    Painted(bench, 2).queue.paint()
    assert bench.statuses() == ["done"] * 6 and sorted(bench.painted()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_command_paints_on_two_devices(tmp_path: Path) -> None:
    """The real model, on processors: each worker has a lease of its own, and its part of the cores."""
    noise, mask = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    row = {"image": "a.png", "mask": "m.png", "prompt": "x"}
    (tmp_path / "job.jsonl").write_text("".join(json.dumps(row | {"id": str(n)}) + "\n" for n in range(5)))
    command = [sys.executable, "-m", "inpaint_ops.cli", "run", "job.jsonl", "--out", "out", "--model", "tiny-random"]
    threads = str(max(1, processors() // 2))
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "INPAINT_CPU_SLOTS")}
    with warm_host(tmp_path, kept | {"OMP_NUM_THREADS": threads}) as host:
        done = subprocess.run(
            [*command, "--steps", "2", "--devices", "2", "--json"], cwd=tmp_path, capture_output=True, text=True,
            env=kept | {"INPAINT_WARM_HOST": host.socket, "INPAINT_SCRATCH": str(tmp_path / "scratch")}, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 rows per shard: a shard for each of 2 devices" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["verdict"], summary["counts"]["done"]) == ("VALID", 5)
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out/runs/job/workers").glob("*.json")]
    assert sorted(report["shard"] for report in reports) == ["00000", "00001"]
    assert [report["not_forked"] for report in reports] == ["", ""], "the host imported with this number of threads"


@pytest.mark.parametrize(("devices", "why"), [("0,1", "no GPU is"), ("0", "1 to 64"), ("²", "no GPU is")])
def test_a_choice_that_is_none_is_one_line(tmp_path: Path, devices: str, why: str) -> None:
    (tmp_path / "job.jsonl").write_text('{"image": "a.png", "mask": "a.png", "prompt": "x"}\n')
    command = [sys.executable, "-m", "inpaint_ops.cli", "run", "job.jsonl", "--out", "out", "--device", "cpu"]
    done = subprocess.run([*command, "--devices", devices], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "out").exists()
