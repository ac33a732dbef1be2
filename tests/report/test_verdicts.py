"""A verdict does not lie: what was lost, slow, recovered or ailing is in run.json, in the report and on the page."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from demo.object_store import ObjectStoreServer
from inpaint_ops.browse import RunViews
from inpaint_ops.config import Settings
from inpaint_ops.errors import ShardIncompleteError
from inpaint_ops.locations import Location
from inpaint_ops.records import Record, RunSummary, Timings
from inpaint_ops.runs import Workspace, finish
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.bench import STALL, Bench, Flaky
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.nvml import DRAM, HOT, SECOND, pretend_health
from tests.support.pages import app, sign_in
from tests.support.waiting import wait_until

__all__ = ["app"]

pytestmark = pytest.mark.usefixtures("no_gallery")

Told = Callable[[Bench], tuple[RunSummary, list[str]]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Where the page looks: the store of the benches of this file that have a folder."""
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "out"))


@pytest.fixture
def told(app: FastAPI) -> Told:
    """Finish a run; its summary, and its texts in the three places: `run.json`, `report.html`, the page in Airflow."""

    def finished(bench: Bench) -> tuple[RunSummary, list[str]]:
        app.state.views = RunViews(bench.workspace, keep=False)
        summary = finish(bench.workspace, "run")
        get = bench.workspace.storage.get
        run_json = get(bench.layout.summary).decode()
        assert RunSummary.model_validate_json(run_json) == summary
        with sign_in(app, "viewer") as client:
            page = client.get("/runs/run/")
        assert page.status_code == 200
        texts = [get(bench.layout.report).decode(), page.text]
        return summary, [json.dumps(json.loads(run_json), ensure_ascii=False), *map(html.unescape, texts)]

    return finished


def everywhere(places: list[str], *texts: str) -> None:
    for name, place in zip(("run.json", "report.html", "the page"), places, strict=True):
        for text in texts:
            assert text in place, f"{name} does not say {text!r}"


def faults(summary: RunSummary) -> dict[str, int]:
    return {fault.kind: fault.count for fault in summary.faults}


def taken(bench: Bench, row: int, **seconds: float) -> None:
    """Have the record of a row say how long its transfers took: what they really take says how busy the machine is."""
    place = bench.layout.record("00000", row)
    found = Record.model_validate_json(bench.workspace.storage.get(place))
    timings = Timings(**found.timings.model_dump() | {"download": 0.1, "upload": 0.1} | seconds)
    bench.workspace.storage.put(place, found.model_copy(update={"timings": timings}).model_dump_json().encode())


def test_a_run_in_which_nothing_went_wrong_tells_of_nothing(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok"] * 6)
    bench.shard_run().run()
    for row in range(1, 7):
        taken(bench, row)
    summary, places = told(bench)
    assert (summary.verdict, summary.faults) == ("VALID", ())
    assert not list(bench.workspace.storage.list(bench.layout.faults))
    for place in places:
        assert "Recovered" not in place and "Fault: " not in place and "was slow" not in place


def test_a_worker_that_was_killed_and_replaced_is_told_though_every_row_is_done(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok", "SIGKILL once", "out of memory"], transfer_threads=1)  # in this order
    bench.shard_run(batch=3).run()
    assert bench.statuses() == ["done"] * 3
    summary, places = told(bench)
    assert summary.verdict == "VALID"
    assert faults(summary) == {"worker_died": 1, "out_of_memory": 1}
    everywhere(places, "Recovered: 1 worker died (worker ", "ended (killed by SIGKILL)", "the memory ran out", "VALID")
    for page in places[1:]:
        assert "worth a look" in page.partition("<main")[0], "the verdict itself points at it"


def test_a_worker_that_stalled_is_told(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["hang", "ok"])
    bench.shard_run(hung_after=STALL).run()
    summary, places = told(bench)
    assert (summary.verdict, faults(summary)) == ("INVALID", {"worker_stalled": 2})
    everywhere(places, "Fault: 2 workers stopped responding and were killed (the last: worker ")


def test_workers_that_died_before_they_were_ready_are_told(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok"], model="dies-at-once")
    with pytest.raises(Exception, match="3 workers in a row"):
        bench.shard_run().run()
    summary, places = told(bench)
    assert faults(summary) == {"worker_died": 3}
    everywhere(places, "Fault: 3 workers died", "shard 00000 is unfinished: WorkerDiedError: 3 workers in a row")


def test_a_try_that_stopped_and_was_repeated_is_told(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    flaky = Flaky(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    with pytest.raises(ShardIncompleteError):
        bench.shard_run(storage=flaky).run()
    summary, places = told(bench)
    assert (summary.verdict, summary.faults) == ("INVALID", ())
    everywhere(places, "shard 00000 is unfinished: ShardIncompleteError: shard 00000: 1 row waits for another attempt")
    flaky.broken = False
    bench.shard_run(storage=flaky).run()
    summary, places = told(bench)
    assert (summary.verdict, faults(summary)) == ("VALID", {"try_stopped": 1})
    everywhere(
        places, "Recovered: 1 attempt at a shard stopped and another continued (shard 00000: ShardIncompleteError"
    )


def test_an_image_that_an_ended_try_had_left_is_told(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    bench.workspace.storage.put(bench.layout.image("1", ".png"), b"painted by the attempt that ended")
    bench.shard_run().run()
    summary, places = told(bench)
    assert (summary.verdict, faults(summary)) == ("VALID", {"image_adopted": 1})
    everywhere(
        places, "Recovered: 1 image left by an earlier attempt was kept instead of the one painted again (1.png)."
    )


PROGRAM = """
import sys; sys.path[:0] = [{tests!r}]
from pathlib import Path; from tests.support.bench import Bench
Bench(Path({folder!r}), {prompts!r}, transfer_threads=1, progress_interval=0.05).shard_run().run()
"""


def test_a_shard_whose_task_was_killed_is_lost_and_says_where(tmp_path: Path, told: Told) -> None:
    """The try before it had stopped, and left a word: that is not how the last one ended."""
    prompts = ["ok", "hang", "ok"]
    bench = Bench(tmp_path, prompts)
    flaky = Flaky(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    with pytest.raises(ShardIncompleteError):
        bench.shard_run(storage=flaky).run()
    program = PROGRAM.format(tests=str(Path(__file__).parents[2]), folder=str(tmp_path), prompts=prompts)
    victim = subprocess.Popen([sys.executable, "-c", program])

    def painting() -> bool:
        said = json.loads(bench.workspace.storage.get(bench.layout.shard_progress("00000")))
        return bool(said["phase"] == "painting" and said["done"] == 2)

    wait_until(painting)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    summary, places = told(bench)
    assert summary.verdict == "INVALID"
    said = "shard 00000 is unfinished: its last attempt never reported its end: it was killed at 'painting'"
    everywhere(places, said, "INVALID", "1 of 3 rows has no record: line 2")


def test_a_shard_that_no_task_took_up_is_lost(tmp_path: Path, told: Told) -> None:
    summary, places = told(Bench(tmp_path, ["ok"] * 2))
    assert summary.verdict == "INVALID"
    everywhere(places, "shard 00000 is unfinished: no task has started it", "2 of 2 rows have no record")


def test_a_shard_that_said_finished_and_whose_record_is_gone_is_lost(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok"] * 3)
    bench.shard_run().run()
    bench.workspace.storage.delete(bench.layout.record("00000", 2))
    summary, places = told(bench)
    assert summary.verdict == "INVALID"
    everywhere(places, "shard 00000 is unfinished: its last attempt has finished, and records are missing", "line 2")


def test_a_stage_ten_times_slower_than_its_median_is_told_with_its_row(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok"] * 6)
    bench.shard_run().run()
    for row in range(1, 7):
        taken(bench, row, upload=42.0 if row == 4 else 0.1)
    summary, places = told(bench)
    assert summary.verdict == "VALID"
    everywhere(places, "upload was slow: row 4 (3) took 42 s")


def test_requests_that_the_store_made_us_repeat_are_told(
    tmp_path: Path, told: Told, object_store: ObjectStoreServer, proxy: FaultProxy, s3_prefix: Location
) -> None:
    client = make_s3_client(object_store.session(), endpoint_url=proxy.url, attempts=3, read_timeout=30.0)
    bench = Bench(tmp_path, ["ok"] * 4, store=s3_prefix.uri, s3_client=lambda: client)
    proxy.on(Fault.SLOW_DOWN, method="PUT", path="/images/")
    proxy.on(Fault.LOST_REPLY, method="PUT", path="/records/")
    bench.shard_run().run()
    assert bench.statuses() == ["done"] * 4
    summary, places = told(bench)
    assert (summary.verdict, faults(summary)) == ("VALID", {"storage_repeated": 2})
    everywhere(places, "Recovered: 2 requests to the store had to be repeated.")


def test_a_card_that_fell_ill_while_it_painted_is_told(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_health(tmp_path, monkeypatch, before={}, after={DRAM: 2, HOT: 9 * SECOND})
    bench = Bench(tmp_path, ["ok"] * 2, model="on-a-card")
    bench.shard_run().run()
    summary, places = told(bench)
    assert summary.verdict == "VALID"
    card = "NVIDIA L4 (GPU-aaaa1111)"
    everywhere(places, f"{card}: uncorrected memory errors", f"{card}: its clock was slowed down by heat")


def test_the_card_of_a_worker_that_it_killed_is_told_of_too(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_health(tmp_path, monkeypatch, before={}, after=None)
    bench = Bench(tmp_path, ["ok", "SIGKILL"], model="on-a-card")
    bench.shard_run().run()
    _, places = told(bench)
    everywhere(places, "NVIDIA L4 (GPU-aaaa1111): it answered when the worker began, and does not answer")


def test_a_note_that_cannot_be_read_costs_no_report_and_a_record_costs_its_row(tmp_path: Path, told: Told) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    bench.shard_run().run()
    put = bench.workspace.storage.put
    for place in (bench.layout.fault_note("00000-x"), bench.layout.stop_note("00000-x"), bench.layout.worker("x")):
        put(place, b'{"of": "another version"}')
    assert told(bench)[0].verdict == "VALID"
    put(bench.layout.record("00000", 2), b'{"half of a rec')
    summary, places = told(bench)
    assert (summary.verdict, summary.counts.done, summary.counts.missing) == ("INVALID", 1, 1)
    everywhere(places, "records/00000/0000002.json is damaged", "1 of 2 rows has no record: line 2.")
    assert not any("\n" in line for line in summary.warnings)
    bench.shard_run().run()
    assert told(bench)[0].counts.done == 2, "the next try paints the row, and replaces what was there"


def test_a_summary_of_before_is_still_read(tmp_path: Path, told: Told, app: FastAPI) -> None:
    bench = Bench(tmp_path, ["ok"])
    bench.shard_run().run()
    told(bench)
    old: dict[str, Any] = json.loads(bench.workspace.storage.get(bench.layout.summary))
    del old["faults"]
    bench.workspace.storage.put(bench.layout.summary, json.dumps(old).encode())
    with sign_in(app, "viewer") as client:
        assert client.get("/runs/run/").status_code == 200
    assert RunSummary.model_validate(old).faults == ()
