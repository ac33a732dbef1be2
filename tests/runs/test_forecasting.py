"""Forecasts: from this store's runs, else from the benchmark's table, else unknown; and what a report makes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from inpaint_ops.config import DEFAULT_MODEL, Settings
from inpaint_ops.locations import Location
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import DeviceInfo, Forecast, Pace, PaintedTile
from inpaint_ops.report import compared, render_page
from inpaint_ops.row_work import chunks_estimated, row_work
from inpaint_ops.runs import Workspace, finish, make_plan, prepare
from inpaint_ops.runs.forecasting import (
    Benchmark,
    BenchmarkTable,
    Cropped,
    Experience,
    Work,
    benchmark_table,
    experience,
    experience_key,
    forecast,
    work_of,
)
from tests.support.simulated_run import a_run

JOB = JobOptions(model="owner/m")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EMPTY = BenchmarkTable(made_by="a test")
THREE_SHARDS = [Work(rows=10, steps=290)] * 3


def past(run: str = "past", card: str = "NVIDIA H200", hours: float = 0, *, step: float = 0.1) -> Experience:
    return Experience(
        run=run, card=card, cold_start=60, peak_reserved=9_000_000_000, finished_at=NOON + timedelta(hours=hours),
        pace=Pace(images=100, steps=29, step_seconds=step, other_seconds=0.5, waiting_seconds=0.5),
    )  # fmt: skip


def measured(**fields: object) -> Benchmark:
    values = {
        "source": "gpu.json", "measured_on": date(2026, 1, 1), "device": "NVIDIA H200", "kind": "cuda",
        "model": "owner/m", "preset": "auto",
        "tuning": {"attention": "sdpa", "vae_tiling": False}, "batch": 1, "size": (1024, 1024),
        "steps": 29, "step_seconds": 0.1, "other_seconds": 0.4, "peak_reserved": 8_000_000_000, "cold_start": 20.0,
    }  # fmt: skip
    return Benchmark.model_validate(values | fields)


def test_an_earlier_run_of_this_store_is_the_first_basis() -> None:
    table = BenchmarkTable(made_by="a test", rows=(measured(),))
    found = forecast(JOB, THREE_SHARDS, [past()], card="NVIDIA H200", table=table)
    assert found.gpu_seconds == pytest.approx(3 * (60 + 290 * 0.1 + 10 * 1.0))
    assert found.seconds == found.gpu_seconds
    assert found.peak_memory == 9_000_000_000
    assert found.basis.startswith("run past in this store on NVIDIA H200 (100 images")


def test_shards_are_shared_by_the_devices() -> None:
    one, three, five = (
        forecast(JOB, THREE_SHARDS, [past()], devices=devices, table=EMPTY).seconds for devices in (1, 3, 5)
    )
    assert one == pytest.approx(3 * three)
    assert five == three


def test_steps_scale_the_denoising_alone_and_the_basis_says_so() -> None:
    few, many = (forecast(JOB, [Work(10, 10 * steps)], [past()], table=EMPTY) for steps in (29, 49))
    assert many.gpu_seconds - few.gpu_seconds == pytest.approx(10 * 20 * 0.1)
    assert "scaled from 29 steps to 49" in many.basis
    assert "scaled" not in few.basis


def test_a_step_without_guidance_counts_as_half_of_one_and_the_basis_says_so() -> None:
    rows = [AcceptedRow.model_validate({"row": n, "id": f"r{n}", "image": "/i", "mask": "/m", "prompt": "p",
                                        "steps": 30, "strength": 1.0} | own)
            for n, own in enumerate(({}, {"guidance_cutoff": 1.0}, {"crop": "tiles"}), 1)]  # fmt: skip
    job = JOB.model_copy(update={"variants": 2, "guidance_cutoff": 0.6})
    work = work_of(row_work(rows, job))
    assert (work.rows, work.steps, work.unguided) == (6, 2 * (24 + 30 + 24), 2 * (12 + 12))
    assert work.tiles == Cropped(2, 48)
    found = forecast(job, [work], [past()], table=EMPTY)
    assert found.gpu_seconds == pytest.approx(60 + 156 * 0.1 + 6 * 1.0)
    assert "; 48 steps without guidance count as half of one each" in found.basis
    assert "without guidance" not in forecast(JOB, [work_of(row_work(rows, JOB))], [past()], table=EMPTY).basis
    assert experience_key(job) == experience_key(JOB), "a run without a cutoff is a basis too"


def test_images_in_tiles_count_as_many_canvases_as_those_of_an_earlier_run_had() -> None:
    rows = [AcceptedRow.model_validate({"row": n, "id": f"r{n}", "image": "/i", "mask": "/m", "prompt": "p",
                                        "steps": 30, "strength": 1.0, "crop": crop})
            for n, crop in enumerate(("none", "auto", 64, "tiles", "tiles", "regions"), 1)]  # fmt: skip
    work = work_of(row_work(rows, JOB.model_copy(update={"variants": 2})))
    assert (work.rows, work.steps) == (12, 360)
    assert (work.tiles, work.regions) == (Cropped(4, 120), Cropped(2, 60))

    plain = forecast(JOB, [work], [past()], table=EMPTY)
    assert plain.gpu_seconds == pytest.approx(60 + 360 * 0.1 + 12 * 1.0)
    assert "4 images of crop tiles count as one canvas each" in plain.basis and "crop regions" in plain.basis
    tiled = past("tiled", hours=-5)
    tiled = tiled.model_copy(update={"pace": tiled.pace.model_copy(update={"canvases": {"tiles": 6.5}})})
    found = forecast(JOB, [work], [past(), tiled], table=EMPTY)
    more = 5.5 * (120 * 0.1 + 4 * 0.5)
    assert found.gpu_seconds == pytest.approx(plain.gpu_seconds + more), "waiting is per image"
    assert "an image of crop tiles counts as 6.5 canvases, as in run tiled" in found.basis
    assert "2 images of crop regions count as one canvas each" in found.basis
    measured_too = forecast(JOB, [work], [past(card="x"), tiled.model_copy(update={"card": "x"})], card="NVIDIA H200",
                            table=BenchmarkTable(made_by="a test", rows=(measured(),)))  # fmt: skip
    assert measured_too.gpu_seconds == pytest.approx(20 + 360 * 0.1 + 12 * 0.4 + 5.5 * (120 * 0.1 + 4 * 0.4))
    assert forecast(JOB, THREE_SHARDS, [past()], table=EMPTY).basis.count("crop") == 0


def test_a_run_in_tiles_measures_its_steps_by_the_canvas() -> None:
    tile = {"box": (0, 0, 64, 64), "working_size": (64, 64)}
    tiled = [
        one.model_copy(update={"crop": "tiles", "tiles": tuple(PaintedTile(**tile, number=n) for n in range(count))})
        for one, count in zip(a_run().records[:2], (4, 0), strict=True)
    ]
    run = a_run()
    plain = run.summary().pace
    pace = replace(run, records=[*tiled, *run.records[2:]]).summary().pace
    assert plain is not None and pace is not None and plain.canvases == {}
    assert pace.canvases == {"tiles": 2.5} and pace.steps == plain.steps, "the one that fits a canvas counts too"
    steps = tiled[0].steps
    assert pace.step_seconds == pytest.approx(plain.step_seconds * plain.images * plain.steps /
                                              (plain.images * plain.steps + 3 * steps))  # fmt: skip
    assert pace.other_seconds == pytest.approx(plain.other_seconds * plain.images / (plain.images + 3))
    assert pace.waiting_seconds == plain.waiting_seconds


def test_what_loading_loras_takes_is_in_the_start_of_runs_with_the_same_ones() -> None:
    """It is a part of the load; runs with other LoRAs, or with none, are no basis."""
    with_one = JobOptions.model_validate({"model": "owner/m", "loras": ["brand.safetensors"]})
    others = JobOptions.model_validate({"model": "owner/m", "loras": ["style.safetensors"]}), JOB
    assert len({experience_key(job) for job in (with_one, *others)}) == 3
    assert experience_key(with_one) == experience_key(with_one.model_copy(update={"fill_model": "/x.onnx"}))


def test_the_chunks_of_a_shards_prompts_count_where_a_run_has_measured_them() -> None:
    knows = past().model_copy(update={"prompts": 4.0, "chunk_seconds": 0.5})
    without, few, many = (forecast(JOB, [Work(10, 290, chunks)], [knows], table=EMPTY) for chunks in (0, 8, 20))
    assert few.gpu_seconds - without.gpu_seconds == pytest.approx(4.0)
    assert many.gpu_seconds - few.gpu_seconds == pytest.approx(6.0)
    assert forecast(JOB, [Work(10, 290)], [past()], table=EMPTY).gpu_seconds == pytest.approx(few.gpu_seconds)
    assert many.seconds_per_image == pytest.approx(few.seconds_per_image)


def test_equal_prompts_of_a_shard_are_encoded_once_and_long_ones_in_chunks() -> None:
    rows = [
        AcceptedRow(row=n, id=f"r{n}", image="s3://b/a.png", mask="s3://b/m.png", prompt=text)
        for n, text in enumerate(("a cup", "a cup", "word " * 100, "a lamp"), 1)
    ]
    work = row_work(rows, JOB)
    assert work_of(work).chunks == 1 + 2 + 1 and work_of(work.part(slice(0, 2))).chunks == 1
    assert work_of(work, texts=False).chunks == 0
    for text, chunks in (("", 1), ("word " * 70, 1), ("word " * 5000, 4), ("!" * 80, 2), ("x" * 75, 1)):
        assert chunks_estimated(text) == chunks, text[:20]


def test_the_newest_run_counts_and_another_card_is_no_basis() -> None:
    runs = [past("new", hours=2, step=0.3), past("old"), past("other", card="NVIDIA A10G", hours=9)]
    assert "run new " in forecast(JOB, THREE_SHARDS, runs, card="NVIDIA H200", table=EMPTY).basis
    unknown = forecast(JOB, THREE_SHARDS, runs, card="NVIDIA L4", table=EMPTY)
    assert unknown.seconds is unknown.gpu_seconds is unknown.peak_memory is None
    assert "NVIDIA A10G, NVIDIA H200" in unknown.basis


def test_where_no_card_is_known_the_last_ones_is_assumed_and_said() -> None:
    assert "assuming the same card" in forecast(JOB, THREE_SHARDS, [past()], table=EMPTY).basis


def test_without_a_run_the_benchmark_is_asked_and_without_that_nothing_is_guessed() -> None:
    table = BenchmarkTable(made_by="a test", rows=(measured(), measured(batch=4, step_seconds=0.08)))
    found = forecast(JOB, THREE_SHARDS, [], card="NVIDIA H200", table=table)
    assert found.gpu_seconds == pytest.approx(3 * (20 + 290 * 0.08 + 10 * 0.4)), "the batch that the preset chose"
    assert found.basis.startswith("the benchmark of 2026-01-01 on NVIDIA H200 (tuning auto, batch 4")
    for other in (
        forecast(JOB, THREE_SHARDS, [], card="NVIDIA L4", table=table),
        forecast(JOB.model_copy(update={"tuning": "fast"}), THREE_SHARDS, [], card="NVIDIA H200", table=table),
        forecast(JOB.model_copy(update={"model": "n"}), THREE_SHARDS, [], card="NVIDIA H200", table=table),
        forecast(JOB.model_copy(update={"tuning_overrides": {"vae_tiling": True}}), THREE_SHARDS, [],
                 card="NVIDIA H200", table=table),
        forecast(JOB.model_copy(update={"use_xformers": True}), THREE_SHARDS, [], card="NVIDIA H200", table=table),
        forecast(JOB, THREE_SHARDS, [], table=table),
    ):  # fmt: skip
        assert other.seconds is None
        assert other.basis.startswith("unknown: ")
        assert other.in_words() == other.basis


def test_a_batch_set_by_hand_is_looked_up_as_it_was_set() -> None:
    table = BenchmarkTable(made_by="a test", rows=(measured(), measured(batch=4, step_seconds=0.08)))
    job = JOB.model_copy(update={"tuning_overrides": {"batch_size": 1}})
    assert "batch 1" in forecast(job, THREE_SHARDS, [], card="NVIDIA H200", table=table).basis


def test_the_real_model_is_forecast_from_the_random_one_of_its_layers() -> None:
    table = BenchmarkTable(made_by="a test", rows=(measured(model="sdxl-random"),))
    found = forecast(JobOptions(model=DEFAULT_MODEL), THREE_SHARDS, [], card="NVIDIA H200", table=table)
    assert found.seconds is not None
    assert "sdxl-random with the same layers" in found.basis


def test_the_packages_table_can_be_read_and_names_its_sources() -> None:
    table = benchmark_table()
    assert table.made_by
    assert all(row.source and row.device for row in table.rows)


def test_runs_are_alike_by_model_and_tuning_and_by_nothing_else() -> None:
    same = JOB.model_copy(update={"steps": 50, "shard_rows": 3, "row_limit": 2})
    assert experience_key(JOB) == experience_key(same)
    assert experience_key(JobOptions(model="tiny-random")) == "tiny-random-auto-607a869e3240", (
        "as earlier versions have it"
    )
    with_lora = JobOptions.model_validate({"model": "tiny-random", "loras": ["a.safetensors"]})
    assert experience_key(with_lora) != experience_key(JobOptions(model="tiny-random"))
    assert experience_key(JOB) != experience_key(JOB.model_copy(update={"tuning": "fast"}))
    assert experience_key(JOB) != experience_key(JOB.model_copy(update={"model": "n"}))
    assert experience_key(JOB) != experience_key(JOB.model_copy(update={"guidance_scale": 1.0})), "half the work"


def test_a_run_teaches_the_next_one_its_pace() -> None:
    run = a_run(40)
    summary = run.summary()
    assert summary.pace is not None
    assert summary.pace.images == summary.counts.done
    taught = experience(summary)
    assert taught is not None
    steps = round(summary.pace.steps * summary.pace.images)
    again = forecast(JOB, [Work(summary.pace.images, steps)], [taught], table=EMPTY)
    lifetimes = summary.gpu_seconds_per_image * summary.counts.done
    assert again.gpu_seconds == pytest.approx(lifetimes, rel=1e-6), "the same run again takes what it took"
    assert experience(summary.model_copy(update={"pace": None})) is None

    cut = replace(
        run, records=[one.model_copy(update={"unguided_steps": (one.steps or 0) // 2}) for one in run.records]
    )
    paces = summary.pace, cut.summary().pace
    assert paces[1] is not None and paces[1].steps < 0.8 * paces[0].steps
    assert paces[1].steps * paces[1].step_seconds == pytest.approx(paces[0].steps * paces[0].step_seconds)
    unlike = (*summary.devices, DeviceInfo(kind="cuda", name="another"))
    assert experience(summary.model_copy(update={"devices": unlike})) is None


def test_a_price_per_hour_makes_the_lifetimes_of_the_workers_a_cost(tmp_path: Path) -> None:
    run = a_run(40)
    free, dear = run.summary(), run.summary(gpu_hour_price=7.2)
    assert free.cost is None and free.gpu_seconds is not None and "Cost" not in render_page(free, run.records)
    assert dear.cost == pytest.approx(free.gpu_seconds * 0.002)
    assert f"{dear.cost:,.2f}" in render_page(dear, run.records)

    (tmp_path / "m.jsonl").write_text('{"image": "a.png", "mask": "b.png", "prompt": "x"}\n')
    for price, words in ((None, ""), (3600.0, ", cost ")):
        settings = Settings(gpu_hour_price=price)
        workspace = Workspace.open(settings, store=str(tmp_path / "store"), also_readable=[f"{tmp_path}/"])
        place = workspace.places.experience(experience_key(JOB), "earlier")
        workspace.storage.put(place, past("earlier").model_dump_json().encode())
        plan, _ = make_plan(workspace, str(tmp_path / "m.jsonl"), "run", JOB)
        assert plan.forecast is not None and plan.forecast.gpu_seconds is not None
        assert plan.forecast.cost == (None if price is None else pytest.approx(plan.forecast.gpu_seconds))
        assert words in plan.forecast.in_words() and ("cost" in plan.forecast.in_words()) == bool(words)


def test_the_report_sets_the_outcome_beside_the_forecast() -> None:
    run = a_run(8)
    summary = run.summary(forecast=forecast(JOB, [Work(8, 232)], [past("night-1")], table=EMPTY))
    lines = compared(summary)
    assert lines[0].label == "Until the last row was done"
    assert lines[0].ratio == pytest.approx(summary.seconds / summary.forecast.seconds)
    page = render_page(summary, run.records)
    assert "Forecast and outcome" in page
    assert "run night-1 in this store" in page
    unknown = run.summary(forecast=Forecast(basis="unknown: nothing was measured"))
    assert "unknown: nothing was measured" in render_page(unknown, run.records)
    assert compared(run.summary()) == ()
    assert "Forecast and outcome" not in render_page(run.summary(), run.records)


def test_the_forecast_is_in_the_plan_and_history_that_cannot_be_read_is_no_failure(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"image": "a.png", "mask": "b.png", "prompt": "x"}\n' * 1)
    workspace = Workspace.open(Settings(), store=str(tmp_path / "store"), also_readable=[f"{tmp_path}/"])
    folder = workspace.places.history(experience_key(JOB))
    taught = past("earlier").model_dump_json().encode()
    workspace.storage.put(Location(folder.bucket, f"{folder.key}earlier.json"), taught)
    plan = prepare(workspace, str(manifest), "night", JOB, card="NVIDIA H200")
    assert plan.forecast is not None
    assert plan.forecast.gpu_seconds == pytest.approx(60 + 29 * 0.1 + 1.0)
    assert workspace.plan("night") == plan
    assert finish(workspace, "night").forecast == plan.forecast
    workspace.storage.put(Location(folder.bucket, f"{folder.key}damaged.json"), b"{}")
    made, _ = make_plan(workspace, str(manifest), "other", JOB)
    assert made.forecast is not None
    assert made.forecast.seconds == plan.forecast.seconds, "the damaged one costs itself alone"
