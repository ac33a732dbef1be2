"""The benchmark programs, run for real with the tiny model: what they print was measured, or says why it was not."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cells, cpu, estimates, gpu, pipeline, program, tables
from bench.cells import PARTS, Cell
from bench.results import CellResult, Results, Spread, load, load_all, with_fractions
from bench.schedule import Costs, keep
from inpaint_ops.records import DeviceInfo, Memory, now
from inpaint_ops.runs.forecasting import JobOptions, Work, benchmark_table, forecast
from inpaint_ops.tuning import PRESETS, Tuning
from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parent.parent


def cell(name: str = "batch/m/1", **fields: Any) -> Cell:
    defaults: dict[str, Any] = {"part": "batch", "process": "main", "model": "tiny-random", "steps": 2, "importance": 5}
    return Cell(name=name, **defaults | fields)


def given(**fields: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"device": "cpu", "seconds": 300.0, "label": "a test", "out": None} | fields)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, str, Results]:
    """One real run over cells of every kind; what it printed; what it saved."""
    out = tmp_path_factory.mktemp("bench") / "results.json"
    off = cell("ablation/tiny-random/plain", part="ablation", repeats=2, overrides=cells.plain("cpu"))
    wanted = [
        cell("ceilings/tiny-random", part="ceilings", kind="ceilings", importance=200),
        cell("presets/tiny-random/auto/2 steps", part="presets", repeats=2, importance=9),
        off,
        cell("ablation/tiny-random/slicing", part="ablation", repeats=2, off=off.name, flips="attention_slicing",
             overrides=off.overrides | {"attention": "sliced"}, beside=off.overrides),
        cell("ablation/tiny-random/xformers", part="ablation", off=off.name, flips="attention",
             overrides=off.overrides | {"attention": "xformers"}),
        cell("batch/tiny-random/2", batch=2, repeats=1),
        cell("batch/tiny-random/impossible", overrides={"dtype": "float7"}),
        cell("batch/tiny-random/endless", batch=64, steps=1000, repeats=1000, importance=1),
        cell("cold/tiny-random/folder", part="cold", kind="folder"),
        cell("cold/tiny-random/read 1", part="cold", kind="cold", process="cold", from_folder=True, repeats=1),
        cell("tiers/tiny-random/10 GB/auto", part="tiers", process="tier", cap=10**10),
    ]  # fmt: skip
    said: list[str] = []
    results = program.run("gpu", wanted, given(out=out), said.append)
    return results, "\n".join(said), load(out)


@pytest.mark.slow
def test_every_cell_ends_once_and_what_is_saved_is_what_was_measured(ran: tuple[Results, str, Results]) -> None:
    results, printed, saved = ran
    assert saved == results
    assert {one.cell.name: one.status for one in results.cells} == {
        "ceilings/tiny-random": "measured",
        "presets/tiny-random/auto/2 steps": "measured",
        "ablation/tiny-random/plain": "measured",
        "ablation/tiny-random/slicing": "measured",
        "ablation/tiny-random/xformers": "no effect",
        "batch/tiny-random/2": "measured",
        "batch/tiny-random/impossible": "failed",
        "batch/tiny-random/endless": "dropped",
        "cold/tiny-random/folder": "measured",
        "cold/tiny-random/read 1": "measured",
        "tiers/tiny-random/10 GB/auto": "failed",
    }
    for one in results.cells:
        assert one.cell.name.partition("/")[2] in printed
        if one.status not in ("measured", "reduced"):
            assert one.reason
            assert one.seconds is one.seconds_per_image is one.peak is None


@pytest.mark.slow
def test_a_painted_cell_says_how_it_was_measured(ran: tuple[Results, str, Results]) -> None:
    known = ran[0].by_name()
    auto = known["presets/tiny-random/auto/2 steps"]
    assert auto.seconds is not None
    assert auto.seconds.n == 2
    assert auto.seconds.min <= auto.seconds.median <= auto.seconds.max
    assert auto.steps_ran == 1, "the default strength drops one step"
    assert set(auto.stages) == {"encode_prompt", "vae_encode", "denoise", "vae_decode"}
    assert 0 < sum(spread.min for spread in auto.stages.values()) <= auto.seconds.max, "each stage is a part of it"
    assert {entry.name for entry in auto.ledger} >= set(Tuning.model_fields)
    assert 0 < auto.matmul_fraction < 10
    assert known["batch/tiny-random/2"].seconds_per_image == known["batch/tiny-random/2"].seconds.median / 2
    assert "float7" in known["batch/tiny-random/impossible"].reason
    slicing = known["ablation/tiny-random/slicing"]
    assert slicing.in_turn.n == slicing.off_seconds.n == 2
    cold = known["cold/tiny-random/read 1"].parts
    assert {"interpreter", "imports", "CUDA context", "first call"} < set(cold)
    assert cold["imports"] + sum(cold[name] for name in cold if name.startswith("load: ")) < cold["to first image"]


@pytest.mark.slow
def test_results_become_the_table_that_forecasts_use(ran: tuple[Results, str, Results]) -> None:
    made = estimates.table([("here.json", ran[0])])
    assert [(row.preset, row.batch, row.source) for row in made.rows] == [
        ("auto", 1, "here.json"),
        ("auto", 2, "here.json"),
    ]
    row = made.rows[0]
    parts = ran[0].by_name()["cold/tiny-random/read 1"].parts
    assert row.cold_start == parts["to first image"] - parts["second batch"]
    found = forecast(JobOptions(model="tiny-random"), [Work(10, 10)], [], card=ran[0].device.name, table=made)
    assert found.gpu_seconds == pytest.approx(
        row.cold_start + 10 * (made.rows[1].step_seconds + made.rows[1].other_seconds)
    )


def test_the_packages_table_is_made_of_the_results_that_are_kept() -> None:
    assert estimates.table(load_all()) == benchmark_table(), "run: python -m bench.estimates"


@pytest.mark.parametrize("module", ["bench.gpu", "bench.cpu"])
def test_listing_the_cells_needs_no_torch_and_nothing_that_is_not_light(module: str) -> None:
    code = (
        f"import sys; sys.argv = ['{module}', '--dry-run']\n"
        f"import {module} as one\n"
        "try: one.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'boto3', 'pyarrow', 'cv2', 'airflow', 'click', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "auto" in done.stdout


def test_the_gpu_program_measures_what_it_promises() -> None:
    found = list(gpu.wanted(gpu.MODEL, PARTS, "cuda", gpu.STEPS, 3))
    names = {one.name for one in found}
    assert len(names) == len(found)
    assert {one.part for one in found} == set(PARTS)
    for preset in ("auto", "notes", "fast"):
        for steps in (20, 30, 50):
            assert f"presets/{gpu.MODEL}/{preset}/{steps} steps" in names
    assert {one.batch for one in found if one.part == "batch"} == {1, 2, 4, 8}
    assert {one.cap for one in found if one.cap} == {10 * 10**9, 24 * 10**9, 40 * 10**9}
    for one in found:
        assert one.off is None or one.off in names
    assert {one.note for one in found if one.note} == set(range(1, 11))


def test_both_programs_flip_only_fields_that_there_are() -> None:
    for one in [*gpu.wanted(gpu.MODEL, PARTS, "cuda", gpu.STEPS, 3), *cpu.wanted(PARTS, None, None)]:
        assert set(one.overrides) <= set(Tuning.model_fields)
        assert one.flips is None or one.flips in Tuning.model_fields
        assert one.preset in PRESETS
        Tuning(**one.overrides)


def test_the_least_important_is_dropped_first() -> None:
    found = list(gpu.wanted(gpu.MODEL, PARTS, "cuda", gpu.STEPS, 3))
    costs = Costs(ceiling=700e12)
    everything = sum(costs.of(one) for one in found)
    assert keep(found, everything, costs) == {one.name for one in found}
    kept = keep(found, 540, costs)
    assert kept < {one.name for one in found}
    assert f"presets/{gpu.MODEL}/auto/30 steps" in kept
    assert f"ablation/{gpu.MODEL}/compile: max-autotune" not in kept
    assert keep(found, 0, costs) == set()


def test_costs_learn_from_what_cells_took() -> None:
    costs, one = Costs(), cell(part="presets", model="sdxl-random", steps=30)
    before = costs.of(one, ("main",))
    costs.learn(one, CellResult(cell=one, status="measured", wall=3 * before))
    assert costs.of(one, ("main",)) == pytest.approx(3 * before)


def test_a_process_that_dies_is_a_failed_cell_and_no_end(tmp_path: Path) -> None:
    with program.Child("cpu", tmp_path / "model") as child:
        child._process.kill()
        with pytest.raises(program.ChildFailedError, match="signal 9"):
            child.measure(cell(), 1, 30)


def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    with program.Child("cpu", tmp_path / "model") as child, pytest.raises(program.ChildFailedError, match="killed"):
        child.started(0.01)


def painted(one: Cell, *seconds: float, **fields: Any) -> CellResult:
    spread = Spread.of(seconds)
    return CellResult(
        cell=one, status="measured", seconds=spread, seconds_per_image=spread.median, batch=1, size=(64, 64),
        steps_ran=1, stages={"denoise": spread}, tuning={"dtype": "float16"}, **fields,
    )  # fmt: skip


def results(*found: CellResult) -> Results:
    card = DeviceInfo(kind="cuda", name="A card", total_memory=10**11)
    return Results(
        program="gpu", command="", started_at=now(), cores=1, load_average=(0, 0, 0), budget=1, cells=found, device=card
    )


def test_the_fraction_is_counted_operations_over_seconds_over_the_same_dtypes_ceiling() -> None:
    ceiling = CellResult(
        cell=cell("ceilings/m", kind="ceilings"), status="measured", size=(64, 64), step_flops=5e12,
        ceilings={"matmul_float16_tflops": 100.0},
    )  # fmt: skip
    run = results(ceiling, painted(cell(), 0.1))
    assert with_fractions(run.cells, run)[1].matmul_fraction == pytest.approx(0.5)
    without = results(painted(cell(), 0.1))
    assert with_fractions(without.cells, without)[0].matmul_fraction is None


def test_a_row_of_the_ablation_is_a_ratio_with_the_noise_beside_it() -> None:
    off = painted(cell("ablation/m/plain", part="ablation"), 2.0, 2.0, weights=1,
                  peak=Memory(peak_allocated=1, peak_reserved=3 * 10**9))  # fmt: skip
    on = painted(cell("ablation/m/faster", part="ablation", off="ablation/m/plain"), 1.0, 1.2)
    again = painted(cell("ablation/m/plain, again", part="ablation", off="ablation/m/plain"), 1.6)
    text = tables.render(results(off, on, again))
    assert tables.ratio(on, off) == (pytest.approx(0.55), 0.5)
    assert "0.550" in text
    assert "1.250 apart" in text
    assert "3.00" in text
    lost = CellResult(cell=on.cell, status="failed", reason="out of luck")
    assert tables.ratio(lost, off) is None
    assert "failed: out of luck" in tables.render(results(off, lost))


def test_the_page_of_the_optimisations_knows_every_field_and_preset_and_note() -> None:
    page = (REPOSITORY / "docs/optimisations.md").read_text()
    for name in (*Tuning.model_fields, *PRESETS):
        assert f"`{name}`" in page, name
    for number in range(1, 11):
        assert f"| {number} |" in page, number


def test_the_pipeline_fills_batches_of_two_aspects_around_a_device_that_sleeps() -> None:
    """Sixteen rows of two aspects in turn, by the product's own shard and worker: four whole batches, no copies."""
    found = pipeline.run(pipeline.Cell(4, 0.01, 2, padded=True), rows=16, seconds=0.01, delay=0.0, prefetch=None)
    assert (found.rows, found.batches, found.mean_batch, found.padding) == (16, 4, 4.0, 0.0)
    assert found.useful + found.waiting == pytest.approx(1)


def test_the_pipelines_figures_tell_painting_from_padding_and_waiting() -> None:
    batches = [
        {"began": 10.0, "ended": 14.0, "rows": 4, "filled": 4},
        {"began": 16, "ended": 18, "rows": 1, "filled": 2},
    ]
    found = pipeline.figures(batches, cpu_seconds=10.0)
    assert (found.rows, found.mean_batch, found.seconds, found.cpu_seconds_per_image) == (5, 2.5, 8, 2)
    assert (found.useful, found.padding, found.waiting) == (5 / 8, 1 / 8, 2 / 8)
