"""The same benchmark without a card: the tiny and the mid-size random model, about two minutes on two cores.

What it prints are ratios between settings on this machine. They say what each setting costs on a CPU, and that each
takes effect; they say nothing about a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from bench import cells, program
from bench.cells import Cell
from inpaint_ops.records import Model

SECONDS = 180.0
"""At most; two idle cores take about 120."""


class Size(Model):
    """One of the models, and how much of it is measured. `rows`: the ablation's fields, in their order."""

    model: str
    native: int
    steps: int
    repeats: int
    batches: tuple[int, ...]
    rows: tuple[str, ...]
    compiles: bool = False
    importance: int = 0


SIZES = (
    Size(
        model="tiny-random", native=64, steps=8, repeats=5, batches=(1, 2, 4), compiles=True,
        rows=("dtype", "attention", "attention_slicing", "vae_tiling", "vae_slicing", "channels_last", "fuse_qkv",
              "guidance_cutoff", "compile"),
    ),
    Size(
        model="mid-random", native=256, steps=2, repeats=2, batches=(),
        rows=("attention_slicing", "channels_last"), importance=-40,
    ),
)  # fmt: skip


def wanted(parts: Sequence[str], steps: int | None, repeats: int | None) -> Iterator[Cell]:
    """The cells of `parts` for both models. A CPU has no memory tiers, and one cold start is enough."""
    for size in SIZES:
        yield Cell(
            name=f"ceilings/{size.model}", part="ceilings", kind="ceilings", process="main", model=size.model,
            importance=200,
        )  # fmt: skip
    later: list[Cell] = []
    for size in SIZES:
        for cell in _of(size, parts, steps or size.steps, repeats or size.repeats):
            importance = 15 if cell.preset == "fast" else cell.importance + size.importance
            alone = cell.process != "main"
            cell = cell.model_copy(update={"importance": importance, "warm_ups": 2 if alone else 1})
            if alone:
                later.append(cell)
            else:
                yield cell
    if "cold" in parts:
        for cell in cells.cold(SIZES[0].model, steps or SIZES[0].steps, 1):
            if cell.kind == "cold" and not cell.from_folder:
                yield cell.model_copy(update={"importance": 79})
    yield from later


def _of(size: Size, parts: Sequence[str], steps: int, repeats: int) -> Iterator[Cell]:
    if "presets" in parts:
        for cell in cells.presets(size.model, (steps,), repeats, own_batch=False):
            if cell.preset != "fast" or size.compiles:
                yield cell
    if "ablation" in parts:
        found = list(cells.ablation("cpu", size.model, size.native, steps, repeats, in_turn=True))
        rows = [cell for cell in found if cell.flips in size.rows or (cell.off and not cell.flips)]
        partners = {cell.off for cell in rows}
        yield from (cell for cell in found if cell in rows or cell.name in partners)
    if "batch" in parts:
        yield from cells.batches(size.model, size.batches, steps, repeats)


def main() -> None:
    """Run, or list what would be run."""
    given = program.arguments("cpu", SECONDS, None).parse_args()
    parts = program.chosen_parts(given.only)
    chosen = list(wanted(parts, min(given.steps) if given.steps else None, given.repeats))
    chosen = program.named(chosen, given.cells)
    if given.dry_run:
        program.list_cells(chosen)
        sys.exit(0)
    program.run("cpu", chosen, given)


if __name__ == "__main__":
    main()
