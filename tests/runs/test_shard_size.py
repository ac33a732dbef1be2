"""Shards by time: starting takes less than a twentieth of a shard, by what was measured; a user's own size stands."""

from __future__ import annotations

import json
from array import array
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.locations import Location
from inpaint_ops.planning import JobOptions, Plan, job_options
from inpaint_ops.records import Pace
from inpaint_ops.row_work import RowWork
from inpaint_ops.runs import Workspace, finish, make_plan, prepare
from inpaint_ops.runs.forecasting import Benchmark, BenchmarkTable, Experience, experience_key
from inpaint_ops.runs.shard_size import DEFAULT_SHARD_ROWS, START_SHARE, TASK_SECONDS, shard_size

JOB = JobOptions(model="owner/m")
EMPTY = BenchmarkTable(made_by="a test")
STEPS = [29] * 1000


def work(steps: list[int], images: int = 1) -> RowWork:
    one = [1] * len(steps)
    return RowWork(
        array("H", steps),
        array("B", [images]) * len(steps),
        array("q", one),
        array("B", one),
        array("B", bytes(len(one))),
        array("H", [0]) * len(steps),
    )


def past(*, cold: float = 60, step: float = 0.1, other: float = 0.5) -> Experience:
    return Experience(
        run="past", card="NVIDIA H200", cold_start=cold, peak_reserved=None,
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
        pace=Pace(images=100, steps=29, step_seconds=step, other_seconds=other, waiting_seconds=0.0),
    )  # fmt: skip


@pytest.mark.parametrize("cold", [2.0, 15.0, 60.0, 600.0])
@pytest.mark.parametrize("step", [0.005, 0.1, 2.0])
def test_starting_takes_less_than_a_twentieth_and_no_row_more_than_that_needs(cold: float, step: float) -> None:
    timeout = Settings(shard_timeout=1e9)
    size = shard_size(JOB, work(STEPS), [past(cold=cold, step=step)], timeout, table=EMPTY)
    start, image = cold + TASK_SECONDS, 29 * step + 0.5
    assert start / (start + size.rows * image) < START_SHARE
    fewer = size.rows - 1
    assert fewer < 10 or start / (start + fewer * image) >= START_SHARE - 1e-9
    assert "run past in this store" in size.basis
    assert size.basis.startswith(f"{size.rows:,} rows per shard")


def test_the_steps_of_the_rows_count() -> None:
    few, many = (shard_size(JOB, work([steps] * 100), [past()], Settings(), table=EMPTY).rows for steps in (10, 49))
    assert few > many


def test_the_variants_of_the_rows_count() -> None:
    one, four = (shard_size(JOB, work([29] * 100, n), [past()], Settings(), table=EMPTY) for n in (1, 4))
    assert (one.rows - 1) // 4 <= four.rows <= one.rows // 4 + 1
    assert "a row with its variants 13.6 s" in four.basis and "an image 3.4 s" in one.basis


def test_what_was_asked_stands_by_the_job_and_by_the_settings() -> None:
    size = shard_size(JOB.model_copy(update={"shard_rows": 7}), work(STEPS), [past()], Settings(), table=EMPTY)
    assert (size.rows, size.basis) == (7, "7 rows per shard, as asked")
    assert job_options(Settings(shard_rows=9)).shard_rows == 9
    assert job_options(Settings(shard_rows=9), shard_rows=8).shard_rows == 8
    assert job_options(Settings()).shard_rows is None


def test_each_of_several_devices_has_a_shard(tmp_path: Path) -> None:
    for rows, devices, expected in ((1000, 3, 334), (2, 8, 1), (1000, 1, DEFAULT_SHARD_ROWS), (100_000, 4, 400)):
        size = shard_size(JOB, work([29] * rows), [], Settings(), table=EMPTY, devices=devices)
        assert size.rows == expected, size
        assert (f"a shard for each of {devices} devices" in size.basis) == (expected not in (400, DEFAULT_SHARD_ROWS))
    asked = shard_size(JOB.model_copy(update={"shard_rows": 700}), work(STEPS), [], Settings(), table=EMPTY, devices=3)
    assert asked.rows == 700


def test_the_benchmark_is_the_second_basis_and_without_any_it_is_the_default() -> None:
    cell = Benchmark(
        source="gpu.json", measured_on=date(2026, 1, 1), device="NVIDIA H200", kind="cuda", model="owner/m",
        preset="auto", tuning={}, batch=1, size=(1024, 1024), steps=29, step_seconds=0.1, other_seconds=0.4,
        peak_reserved=None, cold_start=20.0,
    )  # fmt: skip
    table = BenchmarkTable(made_by="a test", rows=(cell,))
    size = shard_size(JOB, work(STEPS), [], Settings(), card="NVIDIA H200", table=table)
    assert 25 / (25 + size.rows * 3.3) < START_SHARE
    assert "the benchmark of 2026-01-01 on NVIDIA H200" in size.basis
    unknown = shard_size(JOB, work(STEPS), [], Settings(), card="NVIDIA L4", table=table)
    assert unknown.rows == DEFAULT_SHARD_ROWS == 400
    assert "not known" in unknown.basis
    without_start = BenchmarkTable(made_by="a test", rows=(cell.model_copy(update={"cold_start": None}),))
    assert shard_size(JOB, work(STEPS), [], Settings(), card="NVIDIA H200", table=without_start).rows == 400


def test_a_shard_fits_into_its_time_limit_and_a_run_into_its_shards_and_both_are_said() -> None:
    limited = shard_size(JOB, work(STEPS), [past(cold=600)], Settings(shard_timeout=680), table=EMPTY)
    assert limited.rows * 3.4 <= 340
    assert "INPAINT_SHARD_TIMEOUT" in limited.basis
    many = shard_size(JOB, work(STEPS * 10), [past(cold=10)], Settings(max_shards=4), table=EMPTY)
    assert many.rows == 2500
    assert "INPAINT_MAX_SHARDS" in many.basis


def workspace_with(tmp_path: Path, rows: int) -> tuple[Workspace, str]:
    manifest = tmp_path / "m.jsonl"
    lines = (json.dumps({"image": f"{at}.png", "mask": "m.png", "prompt": "x"}) for at in range(rows))
    manifest.write_text("\n".join(lines))
    workspace = Workspace.open(Settings(), store=str(tmp_path / "store"), also_readable=[f"{tmp_path}/"])
    return workspace, str(manifest)


def put_history(workspace: Workspace, experience: Experience) -> None:
    folder = workspace.places.history(experience_key(JOB))
    where = Location(folder.bucket, f"{folder.key}{experience.run}.json")
    workspace.storage.put(where, experience.model_dump_json().encode())


def test_the_choice_and_its_reason_are_in_the_plan_and_in_the_summary(tmp_path: Path) -> None:
    workspace, manifest = workspace_with(tmp_path, 30)
    put_history(workspace, past(cold=0.0001, step=0.5))
    plan = prepare(workspace, manifest, "night", JOB)
    assert plan.job.shard_rows == 10
    assert [shard.rows for shard in plan.shards] == [10, 10, 10]
    assert plan.shard_basis.startswith("10 rows per shard: starting takes 5 s")
    assert workspace.plan("night") == plan
    assert finish(workspace, "night").shard_basis == plan.shard_basis
    frozen = [row.row for shard in plan.shards for row in workspace.shard_rows(plan, shard.name)]
    assert frozen == list(range(1, 31))


def test_a_run_keeps_its_shards_when_more_is_known_later(tmp_path: Path) -> None:
    workspace, manifest = workspace_with(tmp_path, 30)
    first = prepare(workspace, manifest, "night", JOB)
    assert len(first.shards) == 1
    put_history(workspace, past(cold=0.0001, step=0.5))
    assert prepare(workspace, manifest, "night", JOB) == first
    assert len(make_plan(workspace, manifest, "other", JOB)[0].shards) == 3


def test_who_loses_the_plan_puts_back_the_winners_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, manifest = workspace_with(tmp_path, 30)
    winner = prepare(workspace, manifest, "night", JOB)
    put_history(workspace, past(cold=0.0001, step=0.5))
    looks: list[Plan | None] = [None]

    def plan(self: Workspace, run: str) -> Plan | None:
        return looks.pop() if looks else winner

    monkeypatch.setattr(Workspace, "plan", plan)  # the winner's is put between the look and our own put
    assert prepare(workspace, manifest, "night", JOB) == winner
    assert [row.row for row in workspace.shard_rows(winner, "00000")] == list(range(1, 31))
