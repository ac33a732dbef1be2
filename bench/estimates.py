"""`python -m bench.estimates`: bench/results/*.json -> inpaint_ops/estimates.json, the table that forecasts use."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from bench.results import CellResult, Results, load_all
from inpaint_ops.runs.forecasting import Benchmark, BenchmarkTable, dump_table

HOW = "python -m bench.estimates, from bench/results"


def row(name: str, results: Results, result: CellResult, cold: float | None) -> Benchmark | None:
    """One painted cell of a preset as a forecast needs it; None for any other, and for what was not measured."""
    painted = result.seconds is not None and result.status == "measured" and result.cell.cap is None
    if not painted or result.cell.overrides or results.device is None:
        return None
    assert result.size is not None and result.batch is not None and result.steps_ran is not None
    denoise = result.stages["denoise"].median
    others = sum(spread.median for stage, spread in result.stages.items() if stage != "denoise")
    return Benchmark(
        source=name,
        measured_on=results.started_at.date(),
        versions={key: results.versions[key] for key in ("torch", "diffusers") if key in results.versions},
        device=results.device.name,
        kind=results.device.kind,
        model=result.cell.model,
        preset=result.cell.preset,
        tuning={key: value for key, value in result.tuning.items() if key != "batch_size"},
        batch=result.batch,
        size=result.size,
        steps=result.steps_ran,
        step_seconds=denoise / result.steps_ran / result.batch,
        other_seconds=others / result.batch,
        peak_reserved=result.peak.peak_reserved if result.peak and results.device.kind == "cuda" else None,
        cold_start=cold,
    )


def table(found: list[tuple[str, Results]]) -> BenchmarkTable:
    """All rows; a cold start is the longest that the file has: the first, with nothing in any cache."""
    rows = []
    for name, results in found:
        starts: dict[str, list[float]] = {}
        for one in results.cells:
            if one.cell.kind == "cold" and "to first image" in one.parts:
                starts.setdefault(one.cell.model, []).append(one.parts["to first image"] - one.parts["second batch"])
        for result in results.cells:
            cold = max(starts.get(result.cell.model, []), default=None)
            made = row(name, results, result, cold)
            if made is not None:
                rows.append(made)
    return BenchmarkTable(made_by=HOW, rows=tuple(rows))


def main() -> None:
    """Write the package's table."""
    made = table(load_all())
    path = Path(str(files("inpaint_ops") / "estimates.json"))
    path.write_text(dump_table(made), encoding="utf-8")
    print(f"{path}: {len(made.rows)} rows")


if __name__ == "__main__":
    main()
