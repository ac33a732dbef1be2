"""The optimisation notes, measured on this machine's card in two calls, each of under nine minutes:
`python -m bench.gpu --part 1`, then `--part 2`.

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


def for_part(found: Sequence[Cell], part: int) -> list[Cell]:
    """Those of `found` that one call measures, in their order.

    Part 1 has what decides the product's defaults. Part 2 has torch.compile, which takes minutes per row, and in the
    time that is left what decides nothing. A cell that others need, and the ceilings, are in both.
    """
    mine = [cell for cell in found if _part(cell) == part]
    shared = {cell.name for cell in found if cell.kind == "ceilings"}
    shared |= {cell.needs for cell in mine if cell.needs}
    if part == 1:
        return [cell for cell in found if cell in mine or cell.name in shared]
    first = {cell.name for cell in found if cell.kind == "ceilings" or cell.name.endswith("/plain, again")}
    first |= {cell.needs for cell in mine if _compiles(cell) and cell.needs}
    ahead = [cell for cell in found if cell.name in first] + [cell for cell in mine if _compiles(cell)]
    rest = [cell for cell in found if cell not in ahead and (cell in mine or cell.name in shared)]
    return [*(cell.model_copy(update={"importance": cell.importance + 100}) for cell in ahead), *rest]


def _part(cell: Cell) -> int:
    later = (
        _compiles(cell)
        or cell.overrides.get("offload", "none") != "none"
        or (cell.part == "cold" and not cell.name.endswith("/made 1"))
        or (cell.part == "presets" and cell.preset == "fast" and not cell.name.endswith("/30 steps"))
        or (cell.part == "presets" and cell.preset == "notes" and cell.name.endswith(("/50 steps", "/own batch")))
        or cell.overrides.get("dtype") == "bfloat16"
        or cell.flips in ("attention_slicing", "guidance_cutoff")
        or cell.process == f"tiers/{cells.TIERS[0]}/notes"
    )
    return 2 if later else 1


def _compiles(cell: Cell) -> bool:
    return cell.flips == "compile"


def main() -> None:
    """Run, or list what would be run."""
    parser = program.arguments("gpu", SECONDS, MODEL)
    parser.add_argument(
        "--part", type=int, choices=[1, 2], help="one of the two calls; default: all, as the time allows"
    )
    given = parser.parse_args()
    device = "cpu" if given.device == "cpu" else "cuda"
    parts = program.chosen_parts(given.only)
    chosen = list(wanted(given.model, parts, device, given.steps or STEPS, given.repeats or 3))
    # Nobody knows how long compiling takes, so what does comes last: it can then take no time from the rest.
    chosen.sort(key=lambda cell: cell.process == "fast" or cell.process.startswith("alone"))
    if given.part is not None:
        chosen = for_part(chosen, given.part)
    chosen = program.named(chosen, given.cells)
    if given.dry_run:
        program.list_cells(chosen)
        sys.exit(0)
    program.run("gpu", chosen, given)


if __name__ == "__main__":
    main()
