"""The optimisation notes, measured on this machine's card in one call of under nine minutes: `python -m bench.gpu`.

No network, no weights: the full-size architecture with random ones. See bench/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from bench import cells, program
from bench.cells import Cell

MODEL = "sdxl-random"
SECONDS = 540.0
STEPS = (20, 30, 50)
BATCHES = (1, 2, 4, 8)
SHORT = 20
"""Steps of the ablation and of the batches."""
TIER_STEPS = 4


def wanted(model: str, parts: Sequence[str], device: str, steps: Sequence[int], repeats: int) -> Iterator[Cell]:
    """The cells of `parts`; the ceilings always come first, since fractions are of them."""
    short = SHORT if tuple(steps) == STEPS else min(steps)
    native = {"tiny-random": 64, "mid-random": 256}.get(model, 1024)
    yield Cell(name=f"ceilings/{model}", part="ceilings", kind="ceilings", process="main", model=model, importance=200)
    if "presets" in parts:
        yield from cells.presets(model, steps, repeats)
    if "ablation" in parts:
        yield from cells.ablation(device, model, native, short, max(1, repeats - 1))
    if "batch" in parts:
        yield from cells.batches(model, BATCHES, short, repeats)
    if "cold" in parts:
        yield from cells.cold(model, steps[len(steps) // 2], 2)
    if "tiers" in parts:
        yield from cells.tiers(model, min(TIER_STEPS, *steps))


def main() -> None:
    """Run, or list what would be run."""
    given = program.arguments("gpu", SECONDS, MODEL).parse_args()
    device = "cpu" if given.device == "cpu" else "cuda"
    parts = program.chosen_parts(given.only)
    chosen = list(wanted(given.model, parts, device, given.steps or STEPS, given.repeats or 3))
    # Nobody knows how long compiling takes, so what does comes last: it can then take no time from the rest.
    chosen.sort(key=lambda cell: cell.process == "fast" or cell.process.startswith("alone"))
    if given.dry_run:
        program.list_cells(chosen)
        sys.exit(0)
    program.run("gpu", chosen, given)


if __name__ == "__main__":
    main()
