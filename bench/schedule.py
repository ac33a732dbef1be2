"""What fits the time: an estimate of each cell's cost, and which cells to drop. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.cells import Cell
from bench.results import CellResult

RESERVE = 10.0
"""Seconds left over for writing, printing and what the estimates do not know."""

_START = 12.0
_LOAD = {"cpu": 1.0, "cuda": 4.0}
_OFFLOADED_BELOW = 12e9
"""Bytes of a card on which the notes keep the weights in host memory."""
_FOLDER = 30.0
_COMPILE_ON_CPU = 45.0
_COMPILE = {"off": 0.0, "regional": 40.0, "reduce-overhead": 90.0, "max-autotune": 280.0}
_EFFICIENCY = {"cpu": 0.3, "cuda": 0.2}
"""Guessed share of the matmul ceiling that a UNet step reaches; what the first cells show corrects it."""
_STEP_AT_LEAST = {"cpu": 0.01, "cuda": 0.03}
"""Seconds that launching a step's kernels takes, however small they are: a guess of the usual size."""
_SDXL_STEP_FLOPS = 13.52e12
"""Counted by torch.utils.flop_counter: one image's UNet step at 1024x1024 with guidance."""
_SLOWER = {"float32": 8.0, "sliced": 2.0, "offload": 2.0, "sequential": 15.0}
WARM_UP_STEPS = 2


@dataclass
class Costs:
    """Expected seconds of cells; learns from those that are done."""

    kind: str = "cuda"
    start: float = _START
    flops: dict[str, float] = field(default_factory=dict)
    ceiling: float = 100e12
    """Operations per second of the matmul ceiling, in the dtype that painting uses."""
    _ratios: dict[str, list[float]] = field(default_factory=dict)
    """Taken over expected, by model."""

    def of(self, cell: Cell, running: Iterable[str] = ()) -> float:
        """Expected seconds, with its process's start unless that runs already."""
        start = 0.0 if cell.process in running else self.start
        if cell.kind == "ceilings":
            return start + 10.0
        if cell.kind == "folder":
            return start + _FOLDER
        compiled = cell.overrides.get("compile") or ("regional" if cell.preset == "fast" else "off")
        first = cell.process not in running or cell.batch is None  # a batch of another size compiles again
        ratios = self._ratios.get(cell.model)
        corrected = self._work(cell) * (statistics.median(ratios) if ratios else 1.0)
        compiling = 0.0 if compiled == "off" else _COMPILE_ON_CPU if self.kind == "cpu" else _COMPILE[compiled]
        return start + corrected + (compiling if first else 0.0)

    def learn(self, cell: Cell, result: CellResult) -> None:
        """Correct the later estimates by what this cell took."""
        plain = cell.overrides.get("compile", "off") == "off" and cell.preset != "fast"
        if result.status == "measured" and cell.kind == "paint" and plain:
            self._ratios.setdefault(cell.model, []).append(result.wall / max(0.1, self._work(cell)))

    def _work(self, cell: Cell) -> float:
        flops = self.flops.get(cell.model, _SDXL_STEP_FLOPS)
        step = max(_STEP_AT_LEAST[self.kind], flops / (self.ceiling * _EFFICIENCY[self.kind]))
        batch = cell.batch or (8 if cell.preset in ("auto", "fast") else 4)
        factor = 1.0
        if cell.overrides.get("dtype") == "float32" and self.kind == "cuda":
            factor *= _SLOWER["float32"]
        if cell.overrides.get("attention") == "sliced":
            factor *= _SLOWER["sliced"]
        offloaded = cell.overrides.get("offload", "none") != "none" or (
            cell.preset == "notes" and cell.cap is not None and cell.cap < _OFFLOADED_BELOW
        )
        if offloaded:
            factor *= _SLOWER["sequential" if cell.overrides.get("offload") == "sequential" else "offload"]
        images = batch * (cell.repeats if cell.kind == "paint" else 2) * (1 if cell.beside is None else 2)
        steps = images * cell.steps + batch * cell.warm_ups * WARM_UP_STEPS
        load = _FOLDER if cell.from_folder and cell.kind == "paint" else _LOAD[self.kind]
        return load + factor * step * (steps + 3 * images)


def keep(
    cells: Sequence[Cell],
    seconds: float,
    costs: Costs,
    running: Iterable[str] = (),
    measured: Iterable[str] = (),
) -> set[str]:
    """The names of the cells that `seconds` are enough for: the most important first, whatever their order is.

    A cell that needs another one, which is neither `measured` nor among `cells`, is not kept; one that needs another of
    `cells` is kept together with it or not at all.
    """
    known = {cell.name: cell for cell in cells}
    started, there = set(running), set(measured)
    kept: set[str] = set()
    left = seconds
    for cell in sorted(cells, key=lambda one: -one.importance):
        together = [] if cell.name in kept else [cell]
        if cell.needs is not None and cell.needs not in kept | there:
            if cell.needs not in known:
                continue
            together.insert(0, known[cell.needs])
        processes = set(started)
        cost = 0.0
        for one in together:
            cost += costs.of(one, processes)
            processes.add(one.process)
        if cost <= left:
            left -= cost
            kept |= {one.name for one in together}
            started = processes
    return kept
