"""The square around a mask that scoring networks are shown."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.images import close_up


def boxed(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    weights = np.zeros((height, width), np.uint8)
    weights[box[1] : box[3], box[0] : box[2]] = 255
    return weights


@given(
    st.integers(1, 90), st.integers(1, 90), st.data(), st.sampled_from([1, 8, 32, 57]),
    st.sampled_from([(), (1,), (2,), (3,), (4,)]), st.sampled_from([np.uint8, np.uint16]),
)  # fmt: skip
def test_any_size_and_mask_of_one_colour_is_seen_in_that_colour(
    height: int, width: int, data: st.DataObject, side: int, channels: tuple[int, ...], kind: type
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    pixels = np.full((height, width, *(one for one in channels if one != 1)), 90, np.uint8)
    if channels in ((2,), (4,)):
        pixels[..., -1] = 255
    if kind is np.uint16:
        pixels = pixels.astype(np.uint16) * 257
    seen = close_up(pixels, boxed(height, width, (x0, y0, x1, y1)), side)
    assert seen.shape == (side, side, 3) and seen.dtype == np.uint8 and (seen == 90).all()


def test_it_is_the_square_with_an_eighth_around_the_box_moved_into_the_picture() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8)
    middle = close_up(pixels, boxed(400, 500, (200, 100, 296, 160)), 120)
    assert np.array_equal(middle, pixels[70:190, 188:308])
    corner = close_up(pixels, boxed(400, 500, (0, 352, 96, 400)), 120)
    assert np.array_equal(corner, pixels[280:400, 0:120])


def test_where_the_picture_is_too_low_its_mirror_image_goes_on() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 200, 3), np.uint8)
    seen = close_up(pixels, boxed(40, 200, (20, 10, 100, 30)), 100)
    assert np.array_equal(seen[30:70], pixels[:, 10:110])
    assert np.array_equal(seen[:30], pixels[29::-1, 10:110]) and np.array_equal(seen[70:], pixels[:9:-1, 10:110])


def test_alpha_lies_on_white() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    assert (close_up(pixels, boxed(64, 64, (16, 16, 48, 48)), 32) == 255).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_hundred_megapixels_cost_no_more_memory_than_what_is_seen_of_them(channels: int) -> None:
    pixels = np.broadcast_to(np.full(channels, 200, np.uint8), (10_000, 10_000, channels))
    weights = np.full((10_000, 10_000), 255, np.uint8)
    tracemalloc.start()
    seen = close_up(pixels, weights, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (seen >= 199).all() and peak < 40 * 2**20
