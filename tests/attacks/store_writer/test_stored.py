"""Who may write to the store writes what does not belong there: it costs itself a line, and nothing else."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.object_store import ObjectStoreServer
from inpaint_ops.browse import RowQuery, RunQuery, RunViews
from inpaint_ops.config import Settings
from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.locations import Location
from inpaint_ops.records import Record
from inpaint_ops.report import timings_table
from inpaint_ops.runs import Workspace, finish
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.supervisor.recorder import Recorder
from tests.support.bench import Bench
from tests.support.synthetic_run import make_plan, put_finished_run, put_plan, put_progress, put_record, record

pytestmark = pytest.mark.usefixtures("no_gallery")

STRAYS = (".DS_Store", "1.json.bak", "٣.json", "0000001.json.tmp", "1.json", "-000001.json", "99999999999.json",
          "nested/0000001.json", "0000009.json", "a\u202eb.json")  # fmt: skip


@pytest.fixture(params=["folder", "s3"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], Bench]:
    """A painted run of so many rows, in a folder and on S3."""

    def made(rows: int) -> Bench:
        options: dict[str, Any] = {}
        if request.param == "s3":
            server: ObjectStoreServer = request.getfixturevalue("object_store")
            options["store"] = request.getfixturevalue("s3_prefix").uri
            options["s3_client"] = lambda: make_s3_client(server.session(), endpoint_url=server.endpoint)
        planned = Bench(tmp_path, ["ok"] * rows, **options)
        planned.shard_run().run()
        return planned

    return made


def changed(bench: Bench, number: int, fields: dict[str, Any]) -> bytes:
    """The row's record with other fields."""
    found = json.loads(bench.workspace.storage.get(bench.layout.record("00000", number)))
    return json.dumps(found | fields).encode()


def test_stray_objects_stop_neither_the_shard_nor_the_report(bench: Callable[[int], Bench]) -> None:
    """Objects that are no records lie in every folder of a run."""
    run = bench(2)
    put = run.workspace.storage.put
    for folder in (
        "records/00000/",
        "records/",
        "workers/",
        "stops/",
        "faults/",
        "progress/",
        "images/",
        "shards/",
        "",
    ):
        for name in STRAYS:
            put(Location(run.layout.root.bucket, f"{run.layout.root.key}{folder}{name}"), b"x")
    recorder = Recorder(run.workspace.storage, run.layout, "00000", "a")
    assert recorder.recorded_rows() == {1, 2}
    summary = finish(run.workspace, "run")
    assert (summary.verdict, summary.counts.done) == ("VALID", 2)
    assert any(".DS_Store is no record of this run" in line for line in summary.warnings)
    assert summary.warnings[20].endswith("more objects of the store were left out, like those."), "and no more lines"


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"{}",
        b"NaN",
        b"[" * 100_000,
        b'{"row": 1',
        {"row": 2},
        {"id": "other"},
        {"finished_at": "2026-01-01T00:00:00"},
        {"schema_version": 2},
        {"status": "rejected"},
        {"source": "/etc/passwd"},
        {"extra": {"n": float("inf")}},
        {"timings": {"denoise": 1e300}},
        {"memory": {"peak_allocated": 10**30, "peak_reserved": 0}},
        {"prompt": "x" * (6 << 20)},
    ],
    ids=lambda forged: str(forged)[:40],
)
def test_a_record_that_does_not_fit_its_row_is_no_end_of_it(tmp_path: Path, forged: Any) -> None:
    """A record is forged under the key of a row: its row is painted again, and the record replaced."""
    run = Bench(tmp_path, ["ok"] * 2)
    run.shard_run().run()
    body = forged if isinstance(forged, bytes) else changed(run, 1, forged)
    run.workspace.storage.put(run.layout.record("00000", 1), body)
    summary = finish(run.workspace, "run")
    assert (summary.verdict, summary.counts.done) == ("INVALID", 1)
    assert any("records/00000/0000001.json" in line for line in summary.warnings)
    result = run.shard_run().run()
    assert (result.done, result.skipped) == (1, 1)
    assert finish(run.workspace, "run").verdict == "VALID"


def test_done_is_done_only_with_its_image(bench: Callable[[int], Bench]) -> None:
    """Images are removed, cut and swapped behind their records."""
    run = bench(4)
    storage = run.workspace.storage
    places = [info.location for info in sorted(storage.list(run.layout.images), key=lambda info: info.location.key)]
    assert finish(run.workspace, "run").images_checked == 4
    storage.delete(places[0])
    storage.put(places[1], b"shorter")
    storage.put(places[2], bytes(len(storage.get(places[2]))))
    summary = finish(run.workspace, "run")
    assert (summary.verdict, summary.counts.done) == ("INVALID", 1)
    said = "\n".join(summary.warnings)
    assert "is not there" in said and "its image has 7 bytes" in said and "is not the one of its record" in said
    assert "3 of 4 rows have no record: lines 1, 2, 3." in summary.reasons


def test_digests_are_compared_as_far_as_the_setting_goes_and_the_summary_says_how_far(tmp_path: Path) -> None:
    """Images are swapped for others of their sizes, in a run whose report compares no digest."""
    run = Bench(tmp_path, ["ok"] * 3, check_image_bytes=0)
    run.shard_run().run()
    place = next(iter(run.workspace.storage.list(run.layout.images))).location
    run.workspace.storage.put(place, bytes(len(run.workspace.storage.get(place))))
    summary = finish(run.workspace, "run")
    assert (summary.counts.done, summary.images_checked) == (3, 0)


def test_records_of_another_shard_and_of_rows_that_were_not_rejected_do_not_count(tmp_path: Path) -> None:
    """A true record is copied into another shard's folder, and among the rejected ones."""
    run = Bench(tmp_path, ["ok"] * 2)
    run.shard_run().run()
    body = run.workspace.storage.get(run.layout.record("00000", 1))
    for shard in ("00001", "rejected"):
        run.workspace.storage.put(run.layout.record(shard, 1), body)
    summary = finish(run.workspace, "run")
    assert (summary.verdict, summary.counts.done, summary.counts.rejected) == ("VALID", 2, 0)
    assert sum("is the record of no row of that shard" in line for line in summary.warnings) == 2


def test_done_records_without_any_workers_report_are_told(tmp_path: Path) -> None:
    """The reports of all workers are removed."""
    run = Bench(tmp_path, ["ok"])
    run.shard_run().run()
    for info in list(run.workspace.storage.list(run.layout.workers)):
        run.workspace.storage.delete(info.location)
    assert any(line.startswith("No worker left a report") for line in finish(run.workspace, "run").warnings)


def test_a_damaged_line_of_a_shard_costs_its_row(tmp_path: Path) -> None:
    """A line of the frozen shard is replaced by garbage, one is said twice, one is of no row."""
    run = Bench(tmp_path, ["ok"] * 3)
    place = run.layout.shard("00000")
    lines = run.workspace.storage.get(place).splitlines()
    run.workspace.storage.put(place, b"\n".join([lines[0], b"{garbage", lines[0]]))
    assert [row.row for row in run.workspace.shard_rows(run.plan, "00000")] == [1]
    summary = finish(run.workspace, "run")
    assert summary.verdict == "INVALID" and any("line 2 of" in line for line in summary.warnings)
    run.workspace.storage.delete(place)
    assert any("shard 00000 cannot be read" in line for line in finish(run.workspace, "run").warnings)


def test_a_file_that_claims_the_year_36812_is_listed_as_any_other(tmp_path: Path) -> None:
    """A stray file gets a time that no calendar has."""
    run = Bench(tmp_path, ["ok"])
    run.shard_run().run()
    stray = Path(run.layout.records.key) / "late"
    stray.write_bytes(b"x")
    os.utime(stray, (2**40, 2**40))
    assert finish(run.workspace, "run").verdict == "VALID"


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def test_objects_of_two_gigabytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record, a worker's report, a word and a summary are made two gigabytes large."""
    run = Bench(tmp_path, ["ok"] * 2)
    run.shard_run().run()
    finish(run.workspace, "run")
    layout = run.layout
    for place in (
        layout.record("00000", 1),
        layout.worker("00000-big"),
        layout.shard_progress("00000"),
        layout.summary,
    ):
        _sparse(Path(place.key), 2 << 30)
    most, get = [0], type(run.workspace.storage).get

    def weighed(self: Any, *arguments: Any, **options: Any) -> bytes:
        data = get(self, *arguments, **options)
        most.append(len(data))
        return data

    monkeypatch.setattr(type(run.workspace.storage), "get", weighed)
    browser = RunViews(run.workspace, keep=False)
    seen = browser.run("run")
    assert seen is not None and any("run.json is too large" in line for line in seen.left_out)
    summary = finish(run.workspace, "run")
    assert (summary.verdict, summary.counts.done) == ("INVALID", 1)
    assert max(most) < 2**20


def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


@pytest.mark.parametrize("field", ["created_at", "rows", "shards", "run", "rejected_rows"])
def test_one_damaged_plan_hides_no_other_run(tmp_path: Path, field: str) -> None:
    """A plan gets a naive time, numbers that do not add up, a shard called by a path, or the name of another run."""
    here = workspace(tmp_path)
    put_finished_run(here, "good")
    plan = json.loads(make_plan("bad", 4, shard_rows=2).model_dump_json())
    shard = plan["shards"][0] | {"name": "../../good"}
    forged = {"created_at": "2026-01-01T00:00:00", "rows": 10**30, "shards": [shard], "run": "x", "rejected_rows": [1]}
    here.storage.put(here.layout("bad").plan, json.dumps(plan | {field: forged[field]}).encode())
    for order in ("created_at", "rows", "seconds"):
        page = RunViews(here, keep=False).catalogue.page(RunQuery(order=order))  # type: ignore[arg-type]
        assert {entry.run: entry.state for entry in page.entries} == {"good": "finished", "bad": "unreadable"}
    with pytest.raises(DamagedObjectError):
        here.plan("bad")


def test_a_page_shows_what_is_sound_beside_what_is_not(tmp_path: Path) -> None:
    """Words, records and lines of results are damaged while people look."""
    here = workspace(tmp_path)
    put_plan(here, make_plan("live", 8, shard_rows=4))
    put_progress(here, "live", 0, rows=4, done=10**6)
    here.storage.put(here.layout("live").shard_progress("00001"), b'{"shard": "00000"}')
    put_record(here, "live", record(1))
    here.storage.put(here.layout("live").record("00000", 2), b"{")
    here.storage.put(Location(None, f"{here.layout('live').shard_records('00000').key}.DS_Store"), b"x")
    browser = RunViews(here, keep=False)
    seen = browser.run("live")
    assert seen is not None
    assert [found.row for found in seen.page(RowQuery(), 1, 10).records] == [1]
    assert (seen.state.done, len(seen.left_out)) == (4, 3)
    put_finished_run(here, "over", 5)
    lines = here.storage.get(here.layout("over").results).splitlines(keepends=True)
    here.storage.put(here.layout("over").results, b"".join([lines[0], b"{garbage\n", lines[3], *lines[3:]]))
    over = browser.run("over")
    assert over is not None
    assert [found.row for found in over.page(RowQuery(), 1, 10).records] == [1, 4, 5]
    assert over.page(RowQuery(text="number 5"), 1, 10).total == 1


def bomb() -> bytes:
    """One text of a hundred kilobytes, said by number in each of 20,000 rows: a small file that unpacks to 2 GB."""
    table = pa.concat_tables([timings_table([record(1)])] * 20_000)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int32()), pa.array(["x" * 100_000]))
    sink = io.BytesIO()
    at = table.schema.get_field_index("batch_id")
    pq.write_table(table.set_column(at, "batch_id", text), sink, store_schema=False)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["bomb", "garbage", "rows", "types", "none"])
def test_a_table_of_timings_that_lies_costs_its_rows_and_no_page(tmp_path: Path, kind: str) -> None:
    """timings.parquet is a bomb, garbage, of more rows than the plan, of other columns, or gone."""
    here = workspace(tmp_path)
    put_finished_run(here, "night", 20_000 if kind == "bomb" else 3)
    place = here.layout("night").timings
    sink = io.BytesIO()
    if kind == "rows":
        pq.write_table(timings_table([record(row) for row in range(1, 9)]), sink)
    elif kind == "types":
        pq.write_table(pa.table({"row": ["1"], "status": [1]}), sink)
    here.storage.put(place, {"bomb": bomb, "garbage": lambda: b"PAR1" + os.urandom(99) + b"PAR1"}.get(
        kind, sink.getvalue)())  # fmt: skip
    if kind == "none":
        here.storage.delete(place)
    seen = RunViews(here, keep=False).run("night")
    assert seen is not None
    assert (seen.is_finished, seen.page(RowQuery(), 1, 10).total) == (True, 0)
    assert any("timings.parquet cannot be read" in line for line in seen.left_out)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=20).filter(lambda text: "/" not in text and "\0" not in text))
def test_only_the_name_of_a_record_is_one(name: str) -> None:
    """Objects get any name below records/."""
    layout = Workspace.open(Settings(), store="s3://bucket/store").layout("night")
    place = Location("bucket", f"{layout.records.key}00000/{name}")
    found = layout.shard_and_row(place)
    assert found is None or layout.record(*found) == place


def test_a_record_that_lands_after_the_look_and_does_not_count_is_replaced(tmp_path: Path) -> None:
    """A forged record is put under a row's key after the try has listed what is there."""
    run = Bench(tmp_path, ["ok"])
    shard = run.shard_run()
    look = shard._attempt.recorder.recorded_rows
    assert look() == set()
    run.workspace.storage.put(run.layout.record("00000", 1), b"{}")
    shard._attempt.recorder._commit(Record.model_validate_json(record(1, status="failed").model_dump_json()))
    assert Record.model_validate_json(run.workspace.storage.get(run.layout.record("00000", 1))).status == "failed"
