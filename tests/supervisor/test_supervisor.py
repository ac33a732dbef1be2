"""Every row ends once, whatever its worker does: real processes, really killed."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.errors import (
    DrainedError,
    ModelError,
    ShardIncompleteError,
    StorageUnavailableError,
    WorkerDiedError,
    WorkerStalledError,
)
from inpaint_ops.locations import Location
from inpaint_ops.records import ShardProgress
from inpaint_ops.runs import finish
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor import Progress, ShardRun, commands
from tests.support.bench import STALL, Bench, Flaky
from tests.support.waiting import wait_until


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_every_row_ends_once_and_a_second_try_adds_nothing(tmp_path: Path, batch: int) -> None:
    bench = Bench(tmp_path, ["ok", "fail", "ok", "ok", "ok", "ok", "ok"])
    result = bench.shard_run(batch=batch).run()
    assert (result.done, result.failed, result.skipped, result.workers) == (6, 1, 0, 1)
    assert bench.statuses() == ["done", "failed"] + ["done"] * 5
    before = bench.records()
    again = bench.shard_run(batch=batch).run()
    assert (again.done, again.failed, again.skipped, again.workers) == (0, 0, 7, 0)
    assert bench.records() == before
    assert sorted(bench.painted()) == [1, 2, 3, 4, 5, 6, 7], "no row was painted twice"
    assert [report.exit for report in bench.workers()] == ["clean"]
    bench.assert_nothing_left()


def test_a_record_names_an_image_that_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"])
    bench.shard_run().run()
    output = bench.records()[1].output
    assert output is not None
    data = bench.workspace.storage.get(output.uri)
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (output.sha256, output.bytes)


def test_a_try_with_nothing_left_to_do_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"])
    bench.shard_run().run()
    left = bench.settings.scratch / "run-00000-killed"
    left.mkdir()
    (left / ".owner").touch()
    assert bench.shard_run().run().skipped == 1
    bench.assert_nothing_left()


def drained(bench: Bench, work: ShardRun, when: Callable[[], bool]) -> str:
    """Run it, have it drained as soon as `when` holds, and return its error's message."""

    def watch() -> None:
        wait_until(when)
        work.drain()
        bench.journal.with_name("drained").touch()  # what a slow row waits for

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(DrainedError) as caught:
        work.run()
    watcher.join()
    assert not caught.value.permanent
    bench.assert_nothing_left()
    return str(caught.value)


def test_a_drained_shard_finishes_the_rows_in_its_worker_and_leaves_the_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["slow"] + ["ok"] * 9)
    message = drained(bench, bench.shard_run(batch=2), lambda: bool(bench.painting()))
    ended = bench.records()
    assert ended and all(record.status == "done" for record in ended.values())
    assert set(bench.painted()) == set(ended), "what was painted is recorded"
    assert 0 < len(ended) < 10 and f"{10 - len(ended)} rows are left" in message
    assert bench.shard_run().run().skipped == len(ended)
    assert sorted(bench.painted()) == list(range(1, 11)), "no row was painted twice"


def test_a_worker_that_outlasts_the_grace_is_killed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["hang"] * 3, grace=0.2)
    assert "3 rows are left" in drained(bench, bench.shard_run(final_attempt=True), lambda: bool(bench.painting()))
    assert bench.records() == {}, "on the last try too: they have not failed"


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV", "exit"])
@pytest.mark.parametrize("batch", [1, 4])
def test_one_poison_row_never_stops_the_others(tmp_path: Path, death: str, batch: int) -> None:
    bench = Bench(tmp_path, ["ok", "ok", death, "ok", "ok", "ok"])
    result = bench.shard_run(batch=batch).run()
    assert bench.statuses() == ["done", "done", "failed", "done", "done", "done"]
    assert result.failed == 1
    error = bench.records()[3].error
    assert error is not None
    assert (error.type, error.permanent) == ("WorkerDiedError", True)
    assert {"SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV", "exit": "out of luck"}[death] in error.message
    bench.assert_nothing_left()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_row_that_fails_two_devices_is_set_aside(tmp_path: Path, batch: int) -> None:
    bench = Bench(tmp_path, ["ok", "lost", "ok", "ok"])
    bench.shard_run(batch=batch).run()
    assert bench.statuses() == ["done", "failed", "done", "done"]
    error = bench.records()[2].error
    assert error is not None and "illegal memory access" in error.message
    bench.assert_nothing_left()


def test_no_row_is_blamed_for_a_device_that_is_broken(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["lost"] * 3, model="one-device")
    with pytest.raises(WorkerDiedError, match="illegal memory access"):
        bench.shard_run().run()
    assert bench.records() == {}
    bench.assert_nothing_left()


def test_two_poison_rows_in_one_batch_are_both_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["SIGKILL", "ok", "SIGKILL", "ok"])
    bench.shard_run(batch=4).run()
    assert bench.statuses() == ["failed", "done", "failed", "done"]


def test_a_worker_that_stops_moving_is_killed_and_its_row_set_aside(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "hang", "ok"])
    bench.shard_run(hung_after=STALL).run()
    assert bench.statuses() == ["done", "failed", "done"]
    error = bench.records()[2].error
    assert error is not None
    assert error.type == "WorkerStalledError"
    bench.assert_nothing_left()


def test_a_worker_that_never_gets_ready_is_killed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], model="hangs-while-loading", start_timeout=0.5, lease_timeout=0.0)
    with pytest.raises(WorkerStalledError, match="3 workers in a row"):
        bench.shard_run().run()
    assert bench.records() == {}
    bench.assert_nothing_left()


def test_a_worker_that_loads_while_the_last_row_ends_is_no_fault(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], model="hangs-while-loading")
    (tmp_path / "in" / "0.png").unlink()
    bench.shard_run().run()
    assert bench.statuses() == ["failed"]
    assert not list(bench.workspace.storage.list(bench.layout.faults)), "it was ended since nobody needed it"
    bench.assert_nothing_left()


def test_workers_that_die_before_any_row_end_the_try_and_blame_no_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"], model="dies-at-once")
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        bench.shard_run().run()
    assert bench.records() == {}
    notes = list(bench.workspace.storage.list(bench.layout.stop_notes))
    assert len(notes) == 1, "why the try stopped is kept for the report"


def test_a_model_that_cannot_be_loaded_is_one_permanent_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], model="no-such-model")
    with pytest.raises(ModelError, match="no such model: pull it"):
        bench.shard_run().run()
    assert bench.records() == {}


def test_a_worker_gets_every_text_of_its_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def announced(name: str, limit: int) -> list[Any]:
        (tmp_path / name).mkdir()
        bench = Bench(tmp_path / name, ["a boat", "a house", "SIGKILL", "a boat", "a cup"])
        monkeypatch.setattr(commands, "MAX_PROMPTS", limit)
        bench.shard_run().run()
        return [note["prompts"] for note in bench.notes() if "prompts" in note]

    first, *later = announced("few", 4)
    assert first == ["a boat", "a house", "SIGKILL", "a cup"]
    assert later, "the poisoned row has ended two workers"
    assert all("SIGKILL" in texts or set(texts) < set(first) for texts in later), (
        "and those that take over what is left"
    )
    assert announced("many", 2)[0] is None, "too many to keep: the worker keeps its encoders"


def test_a_missing_object_fails_its_row_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok", "ok"])
    (tmp_path / "in" / "1.png").unlink()
    bench.shard_run().run()
    assert bench.statuses() == ["done", "failed", "done"]
    error = bench.records()[2].error
    assert error is not None
    assert (error.type, error.stage) == ("ObjectNotFoundError", "download")
    assert error.message.startswith("image: ")


def test_an_oversized_image_fails_its_row_before_it_is_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"], max_image_bytes=64)
    (tmp_path / "in" / "1.png").write_bytes(b"x" * 65)
    bench.shard_run().run()
    assert bench.statuses() == ["done", "failed"]


class ReadOnly(Storage):
    """Storage that takes no images now."""

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        if "/images/" in str(where):
            raise StorageUnavailableError("the store does not answer")
        return super().put(where, data, **options)


def test_what_a_drained_shard_could_not_store_is_left_and_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["slow"], patience=60)
    storage = ReadOnly(readable=[str(tmp_path / "in")], writable=[bench.workspace.store])
    message = drained(bench, bench.shard_run(storage=storage), lambda: bool(bench.painting()))
    assert "1 row is left" in message
    assert bench.records() == {}


def test_a_transient_error_leaves_the_row_to_the_next_try_which_does_only_that(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok", "ok"])
    flaky = Flaky(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    with pytest.raises(ShardIncompleteError, match="1 row waits for another attempt"):
        bench.shard_run(storage=flaky).run()
    assert sorted(bench.records()) == [1, 3]
    flaky.broken = False
    result = bench.shard_run(storage=flaky).run()
    assert (result.done, result.skipped) == (1, 2)
    assert bench.painted().count(2) == 1
    assert sorted(bench.painted()) == [1, 2, 3]


def test_on_the_final_attempt_a_transient_error_is_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    flaky = Flaky(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    bench.shard_run(storage=flaky, final_attempt=True).run()
    assert bench.statuses() == ["done", "failed"]
    error = bench.records()[2].error
    assert error is not None
    assert not error.permanent


def test_the_worker_sees_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AIRFLOW_CONN_INPAINT_S3", "HF_TOKEN", "MY_SECRET"):
        monkeypatch.setenv(name, "canary")
    bench = Bench(tmp_path, ["ok"])
    bench.shard_run().run()
    (environment,) = [note["environment"] for note in bench.notes() if "started" in note]
    assert not {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AIRFLOW_CONN_INPAINT_S3", "HF_TOKEN", "MY_SECRET"} & set(
        environment
    )
    assert "PATH" in environment


def test_progress_is_reported_while_rows_are_painted(tmp_path: Path) -> None:
    reported: list[Progress] = []
    bench = Bench(tmp_path, ["ok"] * 6, progress_interval=0.05)
    bench.shard_run(on_progress=reported.append).run()
    assert reported[-1].done == 6
    assert "6/6 rows" in str(reported[-1])
    assert "images/s" in str(reported[-1])


def snapshot(bench: Bench) -> ShardProgress:
    return ShardProgress.model_validate_json(bench.workspace.storage.get(bench.layout.shard_progress("00000")))


class Watched(Storage):
    """Storage that keeps each progress of the shard that it has stored, as another process can read it from then on."""

    stored: list[ShardProgress]

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        result = super().put(where, data, **options)
        if "/progress/" in str(where):
            self.stored.append(ShardProgress.model_validate_json(self.get(where)))
        return result


def test_how_far_a_shard_is_is_in_the_store_while_it_runs_and_after(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "fail", "hang"], progress_interval=0.05)
    store = Watched(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    store.stored = []
    bench.shard_run(storage=store, hung_after=STALL).run()
    *seen, last = store.stored
    assert any(one.phase == "painting" for one in seen)
    assert max(one.worker_silent or 0 for one in seen) > 0.5, "a worker that hangs shows while it hangs"
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (last.phase, last.rows, last.done, last.failed) == ("finished", 3, 1, 2)
    assert last == snapshot(bench)
    assert last.updated_at >= seen[-1].updated_at


def test_a_shard_that_gives_up_reports_that_it_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    flaky = Flaky(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    with pytest.raises(ShardIncompleteError):
        bench.shard_run(storage=flaky).run()
    assert (snapshot(bench).phase, snapshot(bench).done) == ("stopped", 1)


class Counting(Storage):
    """Storage that counts the folders of rows in the scratch folder whenever a file has come."""

    scratch: Path
    seen: list[int]

    def download(self, where: Any, path: Path, **options: Any) -> Any:
        result = super().download(where, path, **options)
        self.seen.append(len(list(self.scratch.glob("*/0*"))))
        return result


def test_a_manifest_row_never_fills_the_scratch_folder_beyond_its_window(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"] * 30)
    storage = Counting(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    storage.scratch, storage.seen = bench.settings.scratch, []
    bench.shard_run(storage=storage).run()
    assert len(storage.seen) == 60, "an image and a mask for each row"
    assert max(storage.seen) <= bench.settings.prefetch


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_crash_of_the_supervisor_loses_at_most_what_was_in_flight_and_leaves_no_worker(
    tmp_path: Path, name: str
) -> None:
    """A supervisor in a process of its own is killed half-way; the next try does only what is missing."""
    bench = Bench(tmp_path, ["ok", "ok", "hang", "ok"], transfer_threads=1)  # one thread: rows arrive in order
    program = (
        f"import signal, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "from pathlib import Path; from tests.support.bench import Bench\n"
        f"Bench(Path({str(tmp_path)!r}), ['ok', 'ok', 'hang', 'ok'], transfer_threads=1).shard_run().run()\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_until(lambda: len(bench.painted()) == 2 and len(bench.records()) == 2)
    victim.send_signal(getattr(signal, name))
    victim.wait()
    workers = {note["pid"] for note in bench.notes()}

    def all_gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in workers)

    wait_until(all_gone)
    fixed = bench.shard_run()
    fixed.rows = [row.model_copy(update={"prompt": "ok"}) for row in fixed.rows]
    result = fixed.run()
    assert (result.done, result.skipped) == (2, 2)
    assert bench.statuses() == ["done"] * 4
    assert sorted(bench.painted()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("barrier", "images", "records"),
    [("before-image", 2, 2), ("after-image", 3, 2), ("before-record", 3, 2), ("after-record", 3, 3)],
)
def test_the_image_lands_before_its_record_and_a_crash_between_loses_nothing(
    tmp_path: Path, barrier: str, images: int, records: int
) -> None:
    bench = Bench(tmp_path, ["ok"] * 5, transfer_threads=1)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path; from tests.support.bench import Bench, Deadly\n"
        f"bench = Bench(Path({str(tmp_path)!r}), ['ok'] * 5, transfer_threads=1)\n"
        f"Deadly.barrier = {barrier!r}\n"
        f"storage = Deadly(readable=[Path({str(tmp_path)!r}) / 'in'], writable=[bench.workspace.store])\n"
        "bench.shard_run(storage=storage).run()\n"
    )
    victim = subprocess.run([sys.executable, "-c", program], check=False)
    assert victim.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out/runs/run/images").glob("*.png"))) == images
    assert len(bench.records()) == records
    result = bench.shard_run().run()
    faults = {fault.kind: fault.count for fault in finish(bench.workspace, "run").faults}
    assert faults == {"try_killed": 1}
    assert (result.done, result.skipped) == (5 - records, records)
    assert bench.statuses() == ["done"] * 5
    for record in bench.records().values():
        assert record.output is not None
        assert hashlib.sha256(bench.workspace.storage.get(record.output.uri)).hexdigest() == record.output.sha256
