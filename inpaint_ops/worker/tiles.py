"""A row whose mask is painted in overlapping tiles (`crop: tiles`), each of which sees what the ones before made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from inpaint_ops import images
from inpaint_ops.protocol import Item
from inpaint_ops.records import PaintedTile
from inpaint_ops.worker.finishing import join_options
from inpaint_ops.worker.parts import Finished, Part, pieces_of

if TYPE_CHECKING:
    from inpaint_ops.engine import PaintResult
    from inpaint_ops.worker.painter import Painter

Prepare = Callable[[int, images.Placement, np.ndarray, np.ndarray], tuple[Part, tuple[str, ...]]]
"""The canvas of a number, of its placement, colours and mask, as it is painted; and what could not be as asked."""


@dataclass(slots=True, eq=False)
class TiledRow:
    """The tiles of one row, first planned, then painted by `paint`, then joined to the source by `finish`."""

    row: int
    painting: images.TilePainting
    prepare: Prepare
    notes: tuple[str, ...] = field(default=())
    tiles: list[PaintedTile] = field(default_factory=list)

    @property
    def first(self) -> list[images.Placement]:
        """The placement of the first tile: canvases of all have its size."""
        return [self.painting.tiling.placements[0]]

    def paint(self, painter: Painter) -> list[PaintResult]:
        """Paint the tiles in order: one result each, up to the first that failed."""
        from inpaint_ops.engine import PaintResult

        results: list[PaintResult] = []
        for number, placement in enumerate(self.painting.tiling.placements):
            try:
                part = self._prepared(number, placement)
            except Exception as error:  # of this row alone, as if it had been read so
                results.append(PaintResult(self.row, None, error))
                break
            if part is None:
                self.painting.add(number, None)
                continue
            [result] = painter.paint([part.paint])
            results.append(result)
            if result.error is not None:
                break
            self.painting.add(number, result.image)
            self.tiles.append(
                PaintedTile(
                    box=placement.box,
                    working_size=placement.working,
                    number=number,
                    batch=result.batch,
                    timings=result.timings,
                )
            )
            results[-1] = replace(result, image=None)  # it is in the patch: a row of many tiles need not hold them all
        return results

    def _prepared(self, number: int, placement: images.Placement) -> Part | None:
        """A tile as it is painted, with what those before made of it; None where nothing of it is masked."""
        rgb, working = self.painting.see(number)
        if not working.any():
            return None
        part, notes = self.prepare(number, placement, rgb, working)
        self.notes += tuple(one for one in notes if one not in self.notes)
        return part

    def finish(self, item: Item, source: images.Source, mask: np.ndarray, alpha: images.Alpha) -> Finished:
        """Join what was painted to the source, as one patch."""
        tiling = self.painting.tiling
        options = replace(join_options(item, alpha), enlarged=max(1.0, tiling.reduced))
        one = images.join(source, mask, self.painting.placement, self.painting.patch, options)
        notes = [f"the mask was painted in {len(self.tiles)} overlapping tiles, one by one (crop tiles)"]
        if tiling.wanted > len(tiling.placements):
            notes.append(
                f"full detail would have taken {tiling.wanted} tiles, and {images.MOST_TILES} are the most: each shows "
                f"{tiling.reduced:.2f} source pixels as one"
            )
        return Finished(
            one.pixels, one.weights, one.how, (), (*notes, *self.notes, *one.notes), tuple(self.tiles),
            pieces_of(item, one),
        )  # fmt: skip


def tiles_of(item: Item, source: images.Source, mask: np.ndarray, native: int, prepare: Prepare) -> TiledRow | None:
    """The tiles that the row is painted in; None where it has no more than one canvas, or wants no tiles."""
    tiling = images.find_tiles(mask, native=native) if item.crop == "tiles" else None
    return None if tiling is None else TiledRow(item.row, images.TilePainting(source, mask, tiling), prepare)
