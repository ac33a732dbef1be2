"""The canvases of a row: one, or one for each region of its mask (`crop: regions`), painted and joined one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from inpaint_ops import images
from inpaint_ops.manifest import MAX_SEED
from inpaint_ops.protocol import Item
from inpaint_ops.records import Joining, PaintedRegion, PaintedTile, Timings
from inpaint_ops.worker.finishing import join_options

if TYPE_CHECKING:
    from inpaint_ops.engine import PaintItem, PaintResult
    from inpaint_ops.worker.painter import Painter


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One canvas of a row."""

    placement: images.Placement
    paint: PaintItem


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A row's picture, joined from all of its canvases."""

    pixels: np.ndarray
    weights: np.ndarray
    joining: Joining | None
    regions: tuple[PaintedRegion, ...]
    notes: tuple[str, ...]
    tiles: tuple[PaintedTile, ...] = ()
    pieces: tuple[images.Piece, ...] = ()
    """What was laid down, where the row wants its patch alone."""


def regions_of(item: Item, source: images.Source, mask: np.ndarray, native: int) -> images.Regions | None:
    """The regions that the row is painted in; None where it has one canvas."""
    if item.crop != "regions" or images.fits_the_canvas(source.size, images.place(source.size, mask, native=native)):
        return None
    found = images.find_regions(mask, native=native)
    return found if len(found.boxes) > 1 else None


def placements_of(
    item: Item, source: images.Source, mask: np.ndarray, native: int, regions: images.Regions | None
) -> list[images.Placement]:
    """Where each canvas of the row lies. A mask of one region is cropped as `auto` does."""
    if regions is not None:
        return [regions.place(mask, number, native=native) for number in range(len(regions.boxes))]
    crop: images.Crop = "auto" if item.crop == "regions" or item.crop == "tiles" else item.crop
    return [images.place(source.size, mask, native=native, crop=crop)]


def seed_of(item: Item, number: int) -> int:
    """The seed of a canvas: the row's own for the first, one more for each further one."""
    return (item.seed + number) % (MAX_SEED + 1)


def paint_parts(painter: Painter, parts: Sequence[Part]) -> list[PaintResult]:
    """Paint the canvases of one row, those of one shape together; one result each, in order."""
    results: dict[int, PaintResult] = {}
    by_key = sorted(range(len(parts)), key=lambda at: (parts[at].paint.key, at))
    for _, group in groupby(by_key, key=lambda at: parts[at].paint.key):
        numbers = list(group)
        results |= dict(zip(numbers, painter.paint([parts[at].paint for at in numbers]), strict=True))
    return [results[at] for at in range(len(parts))]


def summed(results: Sequence[PaintResult]) -> PaintResult:
    """The results of a row's canvases as one: it fails with the first failure; else the batches' seconds are added up.

    No other row shares these batches, so they count as one, as large as the row has canvases.
    """
    failed = next((one for one in results if one.error is not None), None)
    last = failed or results[-1]
    distinct = {one.batch.id: one for one in results if one.batch is not None}.values()
    memories = [one.memory for one in results if one.memory is not None]
    return replace(
        last,
        timings=_total([one.timings for one in distinct]),
        batch=last.batch and last.batch.model_copy(update={"size": len(results)}),
        memory=max(memories, key=lambda one: (one.peak_reserved, one.peak_allocated), default=None),
        notes=tuple(dict.fromkeys(note for one in results for note in one.notes)),
    )


def finish_parts(
    item: Item,
    source: images.Source,
    mask: np.ndarray,
    parts: Sequence[Part],
    results: Sequence[PaintResult],
    regions: images.Regions | None,
    alpha: images.Alpha,
) -> Finished:
    """Join the canvases, one after another, each into what the ones before have made of the source."""
    options = join_options(item, alpha)
    if regions is None:
        assert results[0].image is not None
        one = images.join(source, mask, parts[0].placement, results[0].image, options)
        return Finished(one.pixels, one.weights, one.how, (), one.notes, pieces=pieces_of(item, one))
    weights, done = np.zeros_like(mask), source
    painted: list[PaintedRegion] = []
    pieces: list[images.Piece] = []
    notes = [f"the mask's {len(parts)} far regions were painted one by one (crop regions)"]
    for number, (part, result) in enumerate(zip(parts, results, strict=True)):
        assert result.image is not None
        own = regions.weights(mask, number)
        one = images.join(done, own, part.placement, result.image, replace(options, seed=seed_of(item, number)))
        done = replace(done, pixels=one.pixels)
        weights = np.maximum(weights, one.weights)
        pieces += pieces_of(item, one)
        painted.append(
            PaintedRegion(
                box=part.placement.box,
                working_size=part.placement.working,
                batch=result.batch,
                timings=result.timings,
                joining=one.how,
            )
        )
        notes += [f"region {number + 1}: {note}" for note in one.notes]
    return Finished(done.pixels, weights, None, tuple(painted), tuple(notes), pieces=tuple(pieces))


def pieces_of(item: Item, joined: images.Joined) -> tuple[images.Piece, ...]:
    """What a canvas laid down, where the row wants its patch alone."""
    if "patch" not in item.side_products or joined.patch is None:
        return ()
    x0, y0, x1, y1 = joined.box
    return ((joined.box, joined.patch, joined.weights[y0:y1, x0:x1]),)


def _total(timings: Sequence[Timings]) -> Timings:
    def added(name: str) -> Iterator[float]:
        return (value for one in timings if (value := getattr(one, name)) is not None)

    return Timings(**{name: sum(added(name)) for name in Timings.model_fields if any(True for _ in added(name))})
