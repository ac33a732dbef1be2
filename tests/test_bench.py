"""The benchmark programs, run for real with the tiny model: what they print was measured, or says why it was not."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from bench import cells, cpu, estimates, gpu, painting, pipeline, program, schedule, start, tables
from bench.cells import PARTS, Cell
from bench.request import Started
from bench.results import CellResult, Results, Spread, load, load_all, with_fractions
from bench.schedule import RESERVE, Costs, keep
from inpaint_ops.model import recipes
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
    measure = program.Child.measure
    with pytest.MonkeyPatch.context() as patched:  # on a machine that is busy no cell is cut short
        patched.setattr(program.Child, "measure", lambda child, one, **_: measure(child, one, PATIENCE, PATIENCE))
        results = program.run("gpu", wanted, given(out=out, seconds=10 * PATIENCE), said.append)
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
        assert one.flips is None or one.flips in {*Tuning.model_fields, "guidance_cutoff"}
        assert (one.guidance_cutoff < 1) == (one.flips == "guidance_cutoff")
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


@pytest.mark.parametrize("part", [1, 2])
def test_two_calls_measure_everything_and_each_fits_nine_minutes(part: int) -> None:
    """With an H100's ceiling: what decides the defaults in the first, torch.compile in the second."""
    found = list(gpu.wanted(gpu.MODEL, PARTS, "cuda", gpu.STEPS, 3))
    assert {one.name for call in (1, 2) for one in gpu.for_part(found, call)} == {one.name for one in found}
    mine = gpu.for_part(found, part)
    assert mine[0].kind == "ceilings"
    kept = keep(mine, gpu.SECONDS - RESERVE, Costs(ceiling=700e12))
    compiling = {one.name for one in found if one.flips == "compile"}
    assert len(compiling) == 3
    if part == 1:
        assert kept == {one.name for one in mine}
        assert not kept & compiling
        for name in ("channels_last", "attention: xformers over sdpa", "VAE slicing, batch 4", "fused QKV"):
            assert f"ablation/{gpu.MODEL}/{name}" in kept
        assert {f"presets/{gpu.MODEL}/{preset}/30 steps" for preset in ("auto", "notes", "fast")} <= kept
    else:
        assert compiling <= kept
        assert {f"ablation/{gpu.MODEL}/plain", f"ablation/{gpu.MODEL}/plain, again"} <= kept
        order = [one.name for one in mine if one.name in kept]
        assert order.index(f"ablation/{gpu.MODEL}/plain") < min(map(order.index, compiling))


def test_a_part_is_listed_by_its_option() -> None:
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--part", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=PATIENCE)
    assert "compile: max-autotune" in done.stdout
    assert "presets/sdxl-random/auto/30 steps" not in done.stdout


def test_no_cell_is_kept_without_what_it_needs() -> None:
    base, on = cell("base", importance=1), cell("on", importance=9, needs="base")
    cost = Costs().of(base, ("main",))
    both = Costs().of(base) + cost
    assert keep([on, base], both, Costs()) == {"on", "base"}
    assert keep([on, base], both - 0.1, Costs()) == {"base"}, "one fits, and it is not the one that needs the other"
    assert keep([on], 1000, Costs()) == set()
    assert keep([on], 1000, Costs(), measured=["base"]) == {"on"}
    for one in gpu.wanted(gpu.MODEL, PARTS, "cuda", gpu.STEPS, 3):
        assert one.off is None or one.needs == one.off
        assert one.kind != "cold" or not one.from_folder or one.needs == f"cold/{gpu.MODEL}/folder"


class StubChild:
    """Measures nothing, at once; a cell named in `dies` ends it."""

    dies: tuple[str, ...] = ()

    def __init__(self, device: str, folder: Path) -> None:
        pass

    def __enter__(self) -> StubChild:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def started(self, seconds: float) -> Started:
        card = DeviceInfo(kind="cpu", name="a processor", total_memory=1)
        return Started(parts={}, device=card, versions={})

    def measure(self, one: Cell, seconds: float, killed_after: float) -> CellResult:
        if one.name in self.dies:
            raise program.ChildFailedError("it died")
        return CellResult(cell=one, status="measured", wall=0.001)


def stubbed(monkeypatch: pytest.MonkeyPatch, wanted: list[Cell], out: Path, seconds: float, *dies: str) -> Results:
    monkeypatch.setattr(program, "Child", StubChild)
    monkeypatch.setattr(StubChild, "dies", dies)
    return program.run("gpu", wanted, given(out=out, seconds=seconds), lambda _: None)


def test_a_cell_that_was_put_off_comes_back_when_others_took_less_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = {"part": "presets", "model": "sdxl-random", "steps": 50, "repeats": 3}
    wanted = [
        cell("first", process="a", importance=9),
        cell("put off", process="b", importance=1, **long),
        cell("ahead", process="c", importance=8, **long),
    ]
    costs = Costs(kind="cpu", start=0.0)
    done = stubbed(monkeypatch, wanted, tmp_path / "results.json", costs.of(wanted[2]) + RESERVE + 60)
    assert [(one.cell.name, one.status) for one in done.cells] == [
        ("first", "measured"), ("ahead", "measured"), ("put off", "measured"),
    ]  # fmt: skip


def test_a_cell_that_kills_its_process_takes_no_other_with_it_but_those_that_need_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = [cell("before"), cell("deadly"), cell("after"), cell("needs it", needs="deadly")]
    done = stubbed(monkeypatch, wanted, tmp_path / "results.json", 1e6, "deadly")
    assert {one.cell.name: one.status for one in done.cells} == {
        "before": "measured", "deadly": "failed", "after": "measured", "needs it": "dropped",
    }  # fmt: skip
    assert done.by_name()["needs it"].reason == "it needs deadly, which was failed"


def test_the_operations_that_costs_and_the_docs_name_are_those_counted() -> None:
    """On the meta device: shapes alone, of the full-size model."""
    page = (REPOSITORY / "docs/optimisations.md").read_text()
    step = painting.count_step(gpu.MODEL, 1024)
    assert step == pytest.approx(schedule._SDXL_STEP_FLOPS, rel=0.001)
    with torch.device("meta"):
        vae = AutoencoderKL(**recipes.recipe(gpu.MODEL).vae)
        counts = [step]
        for work, given in ((vae.encode, torch.empty(1, 3, 1024, 1024)), (vae.decode, torch.empty(1, 4, 128, 128))):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                work(given)
            counts.append(counter.get_total_flops())
    for count in counts:
        assert f"{count / 1e12:.1f}e12" in page


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
        assert f"### Note {number}: " in page, number


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


def test_starts_are_compared_in_pairs() -> None:
    found = {
        "exec": [start.Start(10.0, 6.0, 400 * 2**20), start.Start(8.0, 5.0, 380 * 2**20), start.Start(9.0, 8.0, 2**20)],
        "fork": [start.Start(1.0, 0.6, 90 * 2**20), start.Start(2.0, 0.5, 90 * 2**20), start.Start(0.9, 0.4, 2**20)],
    }
    *_, cpu, wall, memory = start.table(found).splitlines()
    assert cpu == "| CPU s | 6.00 (5.00 to 8.00) | 0.50 (0.40 to 0.60) | 0.100 (0.050 to 0.100) |"
    assert wall == "| wall s | 9.00 (8.00 to 10.00) | 1.00 (0.90 to 2.00) | 0.100 (0.100 to 0.250) |"
    assert memory == "| MiB of its own | 380 (1 to 400) | 90 (1 to 90) | |"


@pytest.mark.slow
def test_a_start_is_measured_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "TMPDIR", "INPAINT_WARM_HOST"):  # what it sets is put back
        monkeypatch.setenv(name, "")
    found = start.measure(tmp_path, 1, warm_ups=0)
    for (one,) in found.values():
        assert one.wall > 0 and one.cpu > 0 and one.private > 2**20
