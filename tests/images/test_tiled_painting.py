"""A mask in overlapping tiles: all of it is painted, nothing else is, and each tile goes on from what is there."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.images import JoinOptions, TilePainting, Tiling, find_tiles, join, measure, place
from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.measures import RING
from inpaint_ops.images.tiled_painting import MOST_TILES
from tests.support.patches import WAYS, source_of
from tests.support.pictures import Array, noise, smooth


@st.composite
def large_masks(draw: st.DrawFn) -> Array:
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 4))):
        y, x = dice.integers(height), dice.integers(width)
        mask[y : y + dice.integers(1, 600), x : x + dice.integers(1, 600)] = draw(st.sampled_from([255, 255, 128, 1]))
    if draw(st.booleans()):
        mask[dice.integers(0, 2, mask.shape) > 0] = 0
    return mask if mask.any() else np.full((height, width), 255, np.uint8)


def painted(painting: TilePainting, colour: Any = None) -> TilePainting:
    """Each tile in one colour, or as noise."""
    for number, placement in enumerate(painting.tiling.placements):
        width, height = placement.working
        rgb, working = painting.see(number)
        assert rgb.shape == (height, width, 3) and working.shape == (height, width)
        canvas = noise(width, height, 3, seed=number) if colour is None else np.full((height, width, 3), colour(number))
        painting.add(number, canvas.astype(np.uint8) if working.any() else None)
    return painting


@settings(deadline=None, max_examples=60)
@given(large_masks(), st.sampled_from([32, 64, 128]))
def test_tiles_cover_the_mask_each_in_the_frame_and_never_too_many(mask: Array, native: int) -> None:
    tiling = find_tiles(mask, native=native)
    size = mask.shape[1], mask.shape[0]
    whole = place(size, mask, native=native, crop="auto")
    if tiling is None:
        assert whole.box_size[0] <= whole.inner_size[0] and whole.box_size[1] <= whole.inner_size[1]
        return
    assert 1 <= len(tiling.placements) <= MOST_TILES and tiling.bounds == mask_bounds(mask)
    assert len({(one.working, one.box_size) for one in tiling.placements}) == 1, "one canvas, one size"
    left = mask > 0
    for placement in tiling.placements:
        x0, y0, x1, y1 = placement.box
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]
        assert left[y0:y1, x0:x1].any(), "each has something that none before it has"
        left[y0:y1, x0:x1] = False
    assert not left.any()
    assert tiling.wanted > MOST_TILES or tiling.reduced <= 1.01, "full detail"


@settings(deadline=None, max_examples=60)
@given(large_masks(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]), WAYS,
       st.sampled_from([32, 64]))  # fmt: skip
def test_outside_is_exact_whatever_is_asked_for(
    mask: Array, channels: int, dtype: type, way: JoinOptions, native: int
) -> None:
    tiling = find_tiles(mask, native=native)
    if tiling is None:
        return
    source = source_of(noise(*mask.shape, channels, dtype=dtype, seed=3))
    before = source.pixels.copy(), source.rgb.copy(), mask.copy()
    painting = painted(TilePainting(source, mask, tiling))
    done = join(source, mask, painting.placement, painting.patch, way)
    assert np.array_equal(done.pixels[mask == 0], source.pixels[mask == 0]) and done.pixels.dtype == dtype
    measure(done.pixels, done.weights)
    assert all(np.array_equal(a, b) for a, b in zip(before, (source.pixels, source.rgb, mask), strict=True))


def test_a_wholly_masked_pixel_is_a_tiles_own_and_seams_between_tiles_fade() -> None:
    mask = np.full((200, 300), 255, np.uint8)
    tiling = find_tiles(mask, native=64)
    assert tiling is not None and len(tiling.placements) > 10
    source = source_of(np.zeros((200, 300, 3), np.uint8))
    painting = painted(TilePainting(source, mask, tiling), lambda number: 100 if number % 2 else 140)
    assert painting.patch.min() >= 100 and painting.patch.max() <= 140, "nothing of the source is left"
    steps = [np.abs(np.diff(painting.patch.astype(int), axis=axis)).max() for axis in (0, 1)]
    assert 0 < max(steps) <= 16, "40 levels from tile to tile are spread over an eighth of a tile, 8 pixels"


def test_a_tile_sees_what_the_ones_before_have_painted_and_does_not_paint_it_again() -> None:
    mask = np.zeros((64, 200), np.uint8)
    mask[8:56, 4:196] = 255
    tiling = find_tiles(mask, native=64)
    assert tiling is not None and [one.box for one in tiling.placements] == [
        (0, 0, 64, 64), (34, 0, 98, 64), (68, 0, 132, 64), (102, 0, 166, 64), (136, 0, 200, 64),
    ]  # fmt: skip
    painting = TilePainting(source_of(np.full((64, 200, 3), 7, np.uint8)), mask, tiling)
    first, to_paint = painting.see(0)
    assert (first == 7).all() and (to_paint[8:56, 8:] == 255).all() and not to_paint[:8].any()
    painting.add(0, np.full((64, 64, 3), 90, np.uint8))
    second, to_paint = painting.see(1)
    assert (second[8:56, :30] == 90).all(), "the part that the first has painted"
    assert (second[8:56, 30:] == 7).all() and (second[:8] == 7).all()
    assert not to_paint[:, :8].any(), "what lies far enough from the rest is context, and stays"
    assert (to_paint[8:56, 24:] == 255).all()
    painting.add(1, np.full((64, 64, 3), 190, np.uint8))
    x0, y0 = painting.box[:2]
    across = painting.patch[30 - y0, :, 0]
    assert (across[: 46 - x0] == 90).all() and (across[57 - x0 : 98 - x0] == 190).all(), "the end is painted anew"
    assert (np.diff(across[46 - x0 : 57 - x0].astype(int)) >= 0).all(), "and before it one fades into the other"


def test_a_soft_mask_shows_through_between_tiles_as_it_will_in_the_end() -> None:
    mask = np.full((64, 200), 128, np.uint8)
    tiling = find_tiles(mask, native=64)
    assert tiling is not None
    painting = TilePainting(source_of(np.full((64, 200, 3), 0, np.uint8)), mask, tiling)
    painting.add(0, np.full((64, 64, 3), 200, np.uint8))
    assert abs(int(painting.see(1)[0][30, 4, 0]) - 100) <= 1


def test_what_is_much_fainter_than_the_rest_is_not_painted_and_keeps_what_is_there() -> None:
    mask = np.full((64, 400), 20, np.uint8)
    mask[:, :20] = 255
    tiling = find_tiles(mask, native=64)
    assert tiling is not None
    painting = TilePainting(source_of(np.full((64, 400, 3), 50, np.uint8)), mask, tiling)
    assert painting.see(0)[1].any() and not painting.see(len(tiling.placements) - 1)[1].any()
    painting = painted(painting, lambda _: 200)
    assert (painting.patch[:, -40:] == 50).all() and (painting.patch[:, :20] == 200).all()


def test_a_mask_that_one_canvas_shows_in_full_needs_no_tiles() -> None:
    mask = np.zeros((900, 900), np.uint8)
    mask[10:60, 10:60] = 255
    assert find_tiles(mask, native=128) is None
    assert find_tiles(np.full((100, 100), 255, np.uint8), native=128) is None
    assert find_tiles(np.full((900, 900), 255, np.uint8), native=128) is not None


@pytest.mark.parametrize("size", [(3000, 2000), (20_000, 30), (30, 20_000)])
def test_very_large_masks_are_tiled_at_less_detail(size: tuple[int, int]) -> None:
    tiling = find_tiles(np.full(size[::-1], 255, np.uint8), native=64)
    assert tiling is not None and tiling.wanted > MOST_TILES >= len(tiling.placements) and tiling.reduced > 1
    assert len(tiling.placements) > MOST_TILES / 4, "and at no less than needed"


def test_thin_lines_of_a_large_frame_take_no_empty_tiles() -> None:
    mask = np.zeros((1500, 1500), np.uint8)
    mask[700:703] = 255
    tiling = find_tiles(mask, native=128)
    assert tiling is not None and len(tiling.placements) == 19 and tiling.reduced <= 1


def test_a_frame_narrower_than_a_tile_is_enlarged_to_the_canvas() -> None:
    mask = np.full((2000, 40), 255, np.uint8)
    tiling = find_tiles(mask, native=128)
    assert tiling is not None and tiling.placements[0].box_size == (40, 128)
    painting = painted(TilePainting(source_of(noise(2000, 40, 3)), mask, tiling), lambda _: 33)
    assert (painting.patch == 33).all()


def test_a_large_frame_is_held_a_few_times_in_bytes_and_never_in_floats() -> None:
    """30 megapixels, all of them masked: the patch, what is done, and one tile's own arrays."""
    height, width = 5000, 6000
    source = source_of(np.broadcast_to(smooth(1, 1), (height, width, 3)))
    mask = np.full((height, width), 255, np.uint8)
    tracemalloc.start()
    try:
        tiling = find_tiles(mask, native=1024)
        assert isinstance(tiling, Tiling) and len(tiling.placements) > 30
        painting = TilePainting(source, mask, tiling)
        canvas = np.zeros((*tiling.placements[0].working[::-1], 3), np.uint8)
        for number in range(4):
            painting.see(number)
            painting.add(number, canvas)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6.5 * height * width, "as floats the frame alone would be 12 bytes per pixel"


def test_the_patch_reaches_beyond_the_mask_as_far_as_joining_looks() -> None:
    mask = np.zeros((300, 300), np.uint8)
    mask[50:250, 60:240] = 255
    tiling = find_tiles(mask, native=64)
    assert tiling is not None
    source = source_of(noise(300, 300, 3))
    painting = TilePainting(source, mask, tiling)
    assert painting.box == (60 - RING, 50 - RING, 240 + RING, 250 + RING)
    x0, y0, x1, y1 = painting.box
    assert np.array_equal(painting.patch, source.rgb[y0:y1, x0:x1])
