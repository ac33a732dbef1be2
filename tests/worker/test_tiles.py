"""Rows in overlapping tiles, through the real worker: each is painted, timed and seeded by itself, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint_ops import images
from inpaint_ops.engine.batching import BatchKey, PaintItem, PaintResult
from inpaint_ops.errors import NonFiniteImageError
from inpaint_ops.manifest import MAX_SEED
from inpaint_ops.protocol import Done, End, Failed, Item, Step
from inpaint_ops.records import Batch, Timings
from inpaint_ops.worker.parts import Part, seed_of, summed
from inpaint_ops.worker.tiles import TiledRow, tiles_of
from tests.support.patches import source_of
from tests.support.pictures import noise
from tests.support.worker_talk import Talk, fork, job, picture, pixels

__all__ = ["fork"]

BOX = (40, 30, 200, 170)


def with_mask(folder: Path, row: int, box: tuple[int, int, int, int] = BOX, **options: Any) -> Item:
    seed = {"seed": options.pop("seed")} if "seed" in options else {}
    item = picture(folder, row, (260, 200), **options).model_copy(update=seed)
    mask = np.zeros((200, 260), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(mask).save(item.mask)
    return item


def test_a_large_mask_is_painted_in_tiles_with_timings_and_seeds_of_their_own(
    fork: Callable[[], Talk], tmp_path: Path
) -> None:
    rows = [
        with_mask(tmp_path, 1, crop="tiles", side_products=("patch",)),
        with_mask(tmp_path, 2, (10, 10, 30, 30), crop="tiles"),
        with_mask(tmp_path, 3, (10, 10, 30, 30), crop="auto", seed=2),
        with_mask(
            tmp_path, 4, crop="tiles", seed=MAX_SEED, blend="poisson", match="mean", grain="match", sharpen="match",
            fill="noise", strength=0.8, steps=3,
        ),
        with_mask(tmp_path, 5, crop="tiles", seed=1),
    ]  # fmt: skip
    for copied, of in ((3, 2), (5, 1)):
        Path(rows[copied - 1].image).write_bytes(Path(rows[of - 1].image).read_bytes())
    talk = fork()
    talk.send(job(tmp_path), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == len(rows))
    assert not talk.all(Failed), talk.all(Failed)
    done = {event.row: event for event in talk.all(Done)}
    one = done[1]
    assert len(one.tiles) == 16 and one.regions == () and one.joining is not None
    assert [tile.number for tile in one.tiles] == list(range(len(one.tiles)))
    assert {tile.working_size for tile in one.tiles} == {one.working_size} == {(64, 64)}
    assert one.batch.size == len(one.tiles) == len({tile.batch.id for tile in one.tiles})
    assert one.timings.denoise == pytest.approx(sum(tile.timings.denoise for tile in one.tiles))
    assert all(tile.timings.vae_decode > 0 for tile in one.tiles)
    said = f"the mask was painted in {len(one.tiles)} overlapping tiles, one by one (crop tiles)"
    assert said in one.conversions and one.measures is not None
    assert len(talk.all(Step)) >= len(one.tiles), "the supervisor sees each tile go on"
    for row in (1, 4):
        before, after, masked = pixels(rows[row - 1].image), pixels(done[row].output), pixels(rows[row - 1].mask) > 0
        assert np.array_equal(before[~masked], after[~masked])
        changed = (before != after).any(axis=2)
        blocks = changed[30:170, 40:200].reshape(14, 10, 16, 10).mean(axis=(1, 3))
        assert blocks.min() > 0.8, "no part of the mask is left out"
    assert np.array_equal(pixels(done[1].output), pixels(done[5].output)), "the same row gives the same pixels"
    assert done[2].tiles == () and np.array_equal(pixels(done[2].output), pixels(done[3].output))
    assert [seed_of(rows[3], tile.number) for tile in done[4].tiles][:3] == [MAX_SEED, 0, 1]
    assert done[4].joining.blend == "poisson" and done[4].joining.grain_added is not None
    layer = pixels(str(tmp_path / "side-product-patch"))
    assert np.array_equal(layer[..., :3], pixels(one.output)[30:170, 40:200])


class Painter:
    """Paints each canvas in one colour, and fails at a tile."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.seen: list[PaintItem] = []
        self.fails_at = fails_at

    def paint(self, batch: Sequence[PaintItem]) -> Iterator[PaintResult]:
        [item] = batch
        self.seen.append(item)
        if len(self.seen) == self.fails_at:
            yield PaintResult(item.row, None, ValueError("bad"))
            return
        canvas = np.full(item.rgb.shape, 10 * len(self.seen), np.uint8)
        batch_of = Batch(id=str(len(self.seen)), size=1)
        yield PaintResult(item.row, canvas, None, steps=2, batch=batch_of, timings=Timings(denoise=1.0))


def tiled(**options: Any) -> TiledRow:
    mask = np.full((100, 300), 255, np.uint8)
    item: Any = SimpleNamespace(row=1, crop="tiles", seed=5, **options)

    def prepare(number: int, at: images.Placement, rgb: np.ndarray, working: np.ndarray) -> Any:
        key = BatchKey(*at.working, 2, 1.0, 1.0, loras=(("brand", 0.5),))
        note = ("the ring is empty",) if number else ()
        return Part(at, PaintItem(1, key, rgb, working, "x", None, seed_of(item, number))), note

    row = tiles_of(item, source_of(noise(100, 300, 3)), mask, 64, prepare)
    assert row is not None
    return row


def test_a_tile_that_fails_ends_its_row_and_no_further_one_is_painted() -> None:
    row, painter = tiled(), Painter(fails_at=3)
    results = row.paint(painter)  # type: ignore[arg-type]
    assert len(results) == len(painter.seen) == 3 and len(row.tiles) == 2
    assert isinstance(summed(results).error, ValueError)


def test_a_tile_that_cannot_be_prepared_fails_its_row_and_ends_no_worker() -> None:
    row, painter = tiled(), Painter()
    prepare = row.prepare

    def broken(number: int, *args: Any) -> Any:
        if number == 2:
            raise NonFiniteImageError("fill lama: the network's result has NaN or infinity: use another fill")
        return prepare(number, *args)

    row.prepare = broken
    results = row.paint(painter)  # type: ignore[arg-type]
    assert len(painter.seen) == 2 and len(results) == 3 and {one.row for one in results} == {1}
    assert isinstance(summed(results).error, NonFiniteImageError)


def test_tiles_are_painted_in_order_and_their_notes_are_said_once() -> None:
    row, painter = tiled(), Painter()
    results = row.paint(painter)  # type: ignore[arg-type]
    count = len(row.painting.tiling.placements)
    assert len(results) == count > 5 and [item.seed for item in painter.seen] == [5 + n for n in range(count)]
    assert {item.key for item in painter.seen} == {painter.seen[0].key} and painter.seen[0].key.loras
    assert row.notes == ("the ring is empty",) and all(one.image is None for one in results)
    assert summed(results).timings.denoise == count
    assert (painter.seen[1].rgb == 10).all(axis=2).mean() > 0.1, "the second sees what the first has painted"
