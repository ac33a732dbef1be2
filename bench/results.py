"""What a benchmark leaves behind: the schema of its JSON, and reading and writing it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bench.cells import Cell
from inpaint_ops.records import DeviceInfo, LedgerEntry, Memory, Model

FOLDER = Path(__file__).parent / "results"
"""Results that are kept: each records on which machine, when and with which versions it was measured."""

Status = Literal["measured", "reduced", "no effect", "failed", "dropped"]


class Spread(Model):
    """Repeated measurements of one thing; the unit is that of the field that holds it."""

    n: int
    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(n=len(values), median=statistics.median(values), min=min(values), max=max(values))


class CellResult(Model):
    """How one cell came out. A figure that was not measured is absent, never guessed."""

    cell: Cell
    status: Status = Field(
        description="reduced: memory allowed only a smaller batch; no effect: the ledger says that the optimisation "
        "did not take effect, so nothing was timed; dropped: the time was up."
    )
    reason: str = ""
    size: tuple[int, int] | None = Field(default=None, description="Width and height in pixels.")
    batch: int | None = Field(default=None, description="Rows that one timed call painted.")
    together: int | None = Field(default=None, description="Rows that memory let it paint at once: fewer if reduced.")
    steps_ran: int | None = None
    unguided_steps: int = Field(default=0, description="Of them, those without guidance: half of a step's operations.")
    seconds: Spread | None = Field(default=None, description="Of a whole batch: prompts, encode, denoise, decode.")
    seconds_per_image: float | None = Field(default=None, description="The median of `seconds` over the batch.")
    off_seconds: Spread | None = Field(
        default=None, description="Of the partner's batches, painted in turn with these."
    )
    in_turn: Spread | None = Field(default=None, description="Seconds of a batch over those of the one just before it.")
    stages: dict[str, Spread] = Field(default_factory=dict, description="Seconds of a batch in each stage.")
    step_seconds: Spread | None = Field(default=None, description="Between the ends of two steps: CUDA events.")
    warm_up: tuple[float, ...] = Field(default=(), description="Seconds of the first, short batches, not counted.")
    warm_up_steps: int = 0
    peak: Memory | None = Field(default=None, description="While painting; on a CPU the process's peak so far.")
    weights: int | None = Field(default=None, description="Bytes of the device that are taken before painting.")
    context: int | None = Field(default=None, description="Bytes taken outside of torch, inside the cap.")
    planned: int | None = Field(default=None, description="The planner's estimate of the peak, bytes.")
    matmul_fraction: float | None = Field(
        default=None, description="The UNet's counted operations over the denoise seconds, of the matmul ceiling."
    )
    tuning: dict[str, Any] = Field(default_factory=dict)
    ledger: tuple[LedgerEntry, ...] = ()
    parts: dict[str, float] = Field(default_factory=dict, description="Seconds of loading, or of a cold start.")
    ceilings: dict[str, float] = Field(default_factory=dict, description="TFLOP/s, GB/s, ms: as in their names.")
    step_flops: float | None = Field(default=None, description="Of one image's UNet step with guidance.")
    wall: float = Field(default=0.0, description="Seconds that the cell took, loading included.")


class Results(Model):
    """One run of a benchmark."""

    schema_version: Literal[1] = 1
    program: str
    command: str
    label: str = Field(default="", description="The operator's note on the machine.")
    started_at: datetime
    finished_at: datetime | None = None
    device: DeviceInfo | None = None
    cores: int
    load_average: tuple[float, float, float] = Field(description="When it began: whether the machine was busy.")
    load_average_end: tuple[float, float, float] | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str = ""
    budget: float = Field(description="Seconds that it was given.")
    used: float = 0.0
    random_weights: bool = True
    cells: tuple[CellResult, ...] = ()

    def by_name(self) -> dict[str, CellResult]:
        """The cells by their names."""
        return {result.cell.name: result for result in self.cells}

    @property
    def ceilings(self) -> dict[str, float]:
        """This card's ceilings; empty where they were not measured."""
        return next((dict(result.ceilings) for result in self.cells if result.ceilings), {})

    def flops(self, model: str, size: tuple[int, int] | None) -> float | None:
        """The counted operations of one image's UNet step."""
        return next(
            (r.step_flops for r in self.cells if r.step_flops and r.cell.model == model and r.size == size), None
        )


def save(results: Results, path: Path) -> Path:
    """Write `results` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(results.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8")
    os.replace(scratch, path)
    return path


def load(path: Path) -> Results:
    """Read one file of results. Raises OSError, pydantic.ValidationError."""
    return Results.model_validate_json(path.read_bytes())


def load_all(folder: Path = FOLDER) -> list[tuple[str, Results]]:
    """Every file of results in `folder` by its name, oldest first."""
    found = ((path.name, load(path)) for path in sorted(folder.glob("*.json")))
    return sorted(found, key=lambda pair: pair[1].started_at)


def with_fractions(cells: Iterable[CellResult], results: Results) -> tuple[CellResult, ...]:
    """The cells with `matmul_fraction` filled in, where the ceiling and the operations are known.

    fraction = operations of a step and image * steps * batch / denoise seconds / ceiling of the same dtype.
    """
    done = []
    for result in cells:
        ceiling = results.ceilings.get(f"matmul_{result.tuning.get('dtype')}_tflops")
        flops = result.step_flops or results.flops(result.cell.model, result.size)
        denoise = result.stages.get("denoise")
        if ceiling and flops and denoise and result.steps_ran and result.batch:
            steps = result.steps_ran - result.unguided_steps / 2
            rate = flops * steps * result.batch / denoise.median / 1e12
            result = result.model_copy(update={"matmul_fraction": rate / ceiling})
        done.append(result)
    return tuple(done)
