"""Variants of a row end once each, whatever their worker does, and the row once: real processes, really killed."""

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

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ShardIncompleteError, StorageUnavailableError
from inpaint_ops.locations import Location
from inpaint_ops.planning import JobOptions
from inpaint_ops.protocol import unit_name
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace, finish, prepare
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor import Progress, ShardRun
from tests.support.bench import Bench
from tests.support.local_server import LocalServer
from tests.support.pictures import file_of, mask_file, smooth
from tests.support.waiting import wait_until


def painted(bench: Bench) -> list[str]:
    return sorted(map(unit_name, bench.painted()))


def variants(bench: Bench) -> set[str]:
    prefix = bench.layout.root.join("variants/00000/")
    return {info.location.name for info in bench.workspace.storage.list(prefix)}


def images(bench: Bench) -> set[str]:
    return {info.location.name for info in bench.workspace.storage.list(bench.layout.images)}


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_every_variant_is_painted_once_and_a_second_try_adds_nothing(tmp_path: Path, batch: int) -> None:
    bench = Bench(tmp_path, ["ok", "fail at 2.1", "fail"], variants=3)
    reported: list[Progress] = []
    result = bench.shard_run(batch=batch, on_progress=reported.append).run()
    assert (result.done, result.failed, result.skipped) == (2, 1, 0)
    assert (reported[-1].rows, reported[-1].done, reported[-1].failed) == (3, 2, 1)
    records = bench.records()
    assert bench.statuses() == ["done", "done", "failed"]
    assert [one.status for one in records[2].variants] == ["done", "failed", "done"]
    assert images(bench) == {"0.0.png", "0.1.png", "0.2.png", "1.0.png", "1.2.png"}
    assert painted(bench) == sorted(f"{row}{end}" for row in (1, 2, 3) for end in ("", ".1", ".2"))
    again = bench.shard_run(batch=batch).run()
    assert (again.done, again.failed, again.skipped, again.workers) == (0, 0, 3, 0)
    assert bench.records() == records and len(painted(bench)) == 9
    assert finish(bench.workspace, "run").verdict == "INVALID", "row 3 failed"
    bench.assert_nothing_left()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["1", "1.2", "1.3"])
def test_a_worker_killed_between_two_variants_repeats_only_what_is_missing(
    tmp_path: Path, name: str, batch: int
) -> None:
    bench = Bench(tmp_path, [f"SIGKILL once at {name}", "ok"], variants=4, transfer_threads=1)
    result = bench.shard_run(batch=batch).run()
    assert (result.done, result.failed, result.workers) == (2, 0, 2)
    assert bench.statuses() == ["done", "done"]
    assert all(one.status == "done" for record in bench.records().values() for one in record.variants)
    assert set(Counter(painted(bench)).values()) == {1}, "what was painted is not painted again"
    assert len(variants(bench)) == 8
    bench.assert_nothing_left()


def test_a_row_that_kills_its_workers_costs_two_of_them_whatever_its_variants(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "SIGKILL", "ok"], variants=8)
    result = bench.shard_run().run()
    assert bench.statuses() == ["done", "failed", "done"]
    assert result.workers == 3, "two that died, and one for what was left"
    record = bench.records()[2]
    assert {one.error.type for one in record.variants if one.error} == {"WorkerDiedError"}
    assert len(record.variants) == 8 and record.error is not None and record.error.permanent
    bench.assert_nothing_left()


def test_a_variant_at_fault_leaves_those_that_are_painted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["SIGKILL at 1.2"], variants=3, transfer_threads=1)
    bench.shard_run().run()
    record = bench.records()[1]
    assert [one.status for one in record.variants] == ["done", "done", "failed"]
    assert record.status == "done" and record.output is not None and record.output.uri.endswith("/0.0.png")


class NoRowRecords(Storage):
    """Storage that takes the records of variants, and of no row."""

    broken = True

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        if self.broken and "/records/" in str(where):
            raise StorageUnavailableError("the store does not answer")
        return super().put(where, data, **options)


def test_a_row_whose_variants_have_ended_gets_its_record_from_the_next_try_without_a_worker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"], variants=2)
    storage = NoRowRecords(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    with pytest.raises(ShardIncompleteError, match="2 rows wait"):
        bench.shard_run(storage=storage).run()
    assert bench.records() == {} and len(variants(bench)) == 4
    result = bench.shard_run().run()
    assert (result.workers, result.skipped) == (0, 2)
    assert bench.statuses() == ["done", "done"] and len(painted(bench)) == 4
    assert finish(bench.workspace, "run").verdict == "VALID"


def test_a_supervisor_killed_between_two_variants_loses_nothing(tmp_path: Path) -> None:
    """In a process of its own, with SIGKILL; the next try does only the variant that hung and those after it."""
    prompts = ["ok", "hang at 2.1"]
    bench = Bench(tmp_path, prompts, variants=3, transfer_threads=1)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path; from tests.support.bench import Bench\n"
        f"Bench(Path({str(tmp_path)!r}), {prompts!r}, variants=3, transfer_threads=1).shard_run().run()\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_until(lambda: len(variants(bench)) == 4 and len(bench.records()) == 1)
    victim.kill()
    victim.wait()
    wait_until(lambda: not any(Path(f"/proc/{note['pid']}").exists() for note in bench.notes()))
    fixed = bench.shard_run()
    fixed.rows = [row.model_copy(update={"prompt": "ok"}) for row in fixed.rows]
    result = fixed.run()
    assert (result.done, result.skipped) == (1, 1)
    assert painted(bench) == sorted(["1", "1.1", "1.2", "2", "2.1", "2.2"])
    assert bench.statuses() == ["done", "done"]


def test_a_record_that_is_none_of_a_variant_is_replaced(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], variants=2)
    place = bench.layout.variant_record("00000", 1, 1)
    bench.workspace.storage.put(place, b'{"made": "up"}')
    bench.shard_run().run()
    assert Record.model_validate_json(bench.workspace.storage.get(place)).variant == 1
    assert [one.status for one in bench.records()[1].variants] == ["done", "done"]


PROGRAM = """
import os, sys, time
from pathlib import Path
from inpaint_ops.engine.painting import Engine
from inpaint_ops.worker import main

paint, marker, calls = Engine._paint, Path({marker!r}), []

def waiting(self, rows):
    calls.append(rows)
    if len(calls) == 2 and not marker.exists():
        marker.write_text(str(os.getpid()))
        time.sleep(3600)
    return paint(self, rows)

Engine._paint = waiting
main()
"""


@pytest.mark.slow
def test_a_real_worker_killed_between_two_variants_on_a_real_store(
    tmp_path: Path, s3_prefix: Location, aws_environment: LocalServer
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "photo.png").write_bytes(file_of(smooth(64, 64)))
    (folder / "mask.png").write_bytes(mask_file(64, 64, (16, 16, 48, 48)))
    line = {"id": "a", "image": "photo.png", "mask": "mask.png", "prompt": "x", "seed": 1}
    (folder / "m.jsonl").write_text(json.dumps(line) + "\n")
    workspace = Workspace.open(
        Settings(scratch=tmp_path / "s", transfer_threads=1), store=s3_prefix.uri, also_readable=[str(folder)]
    )
    job = JobOptions(
        model="tiny-random", device="cpu", steps=3, variants=3, tuning_overrides={"batch_size": 1, "compile": "off"}
    )
    plan = prepare(workspace, str(folder / "m.jsonl"), "run", job)
    layout, marker = workspace.layout("run"), tmp_path / "pid"
    program = PROGRAM.format(marker=str(marker))
    work = ShardRun(
        workspace.storage, layout, "00000", workspace.shard_rows(plan, "00000"), job, workspace.settings,
        worker_command=[sys.executable, "-c", program],
    )  # fmt: skip

    def kill() -> None:
        records = layout.shard_variants("00000")
        wait_until(lambda: marker.exists() and marker.read_text() and list(workspace.storage.list(records)))
        os.kill(int(marker.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = work.run()
    killer.join()
    assert (result.done, result.workers) == (1, 2)
    summary = finish(workspace, "run")
    assert (summary.verdict, summary.counts.done, summary.images) == ("VALID", 1, 3)
    assert [fault.kind for fault in summary.faults] == ["worker_died"]
    record = Record.model_validate_json(workspace.storage.get(layout.record("00000", 1)))
    workers = Counter(one.worker.pid for one in record.variants if one.worker)
    assert workers.pop(int(marker.read_text())) == 1, "whichever was painted first"
    assert list(workers.values()) == [2]
    assert len({one.output.sha256 for one in record.variants if one.output}) == 3
