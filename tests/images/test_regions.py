"""A mask is taken apart where its parts lie far from each other, and no pixel of it is lost or painted twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.images import find_regions, fits_the_canvas, place
from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.regions import MOST_REGIONS
from tests.support.pictures import Array


def mask_with(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Array:
    mask = np.zeros(shape, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    return mask


@st.composite
def masks(draw: st.DrawFn) -> Array:
    mask = np.zeros((draw(st.integers(1, 900)), draw(st.integers(1, 900))), np.uint8)
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 30))):
        y, x = dice.integers(mask.shape[0]), dice.integers(mask.shape[1])
        mask[y : y + dice.integers(1, 30), x : x + dice.integers(1, 30)] = draw(st.sampled_from([255, 200, 1]))
    return mask


@settings(deadline=None, max_examples=60)
@given(masks(), st.sampled_from([32, 64, 256]))
def test_each_masked_pixel_is_in_one_region(mask: Array, native: int) -> None:
    found = find_regions(mask, native=native)
    assert 1 <= len(found.boxes) <= MOST_REGIONS
    total = np.zeros_like(mask)
    for number, box in enumerate(found.boxes):
        own = found.weights(mask, number)
        assert mask_bounds(own) == box and not (total > 0)[own > 0].any()
        total += own
        placement = found.place(mask, number, native=native)
        x0, y0, x1, y1 = placement.box
        assert x0 <= box[0] and y0 <= box[1] and x1 >= box[2] and y1 >= box[3]
    assert np.array_equal(total, mask)


def test_far_parts_are_regions_and_near_ones_are_not() -> None:
    far = mask_with((600, 800), (20, 20, 40, 50), (700, 500, 730, 520))
    found = find_regions(far, native=128)
    assert found.boxes == ((20, 20, 40, 50), (700, 500, 730, 520))
    near = mask_with((600, 800), (20, 20, 40, 50), (60, 40, 80, 60))
    assert find_regions(near, native=128).boxes == ((20, 20, 80, 60),)
    three = mask_with((600, 800), (20, 20, 40, 50), (60, 40, 80, 60), (700, 500, 730, 520))
    assert len(find_regions(three, native=128).boxes) == 2
    assert len(find_regions(far, native=2048).boxes) == 1, "the model sees both at full detail"


def test_each_region_is_seen_at_more_detail_than_both_together() -> None:
    mask = mask_with((1200, 1600), (20, 20, 60, 60), (1500, 1100, 1540, 1150))
    together = place((1600, 1200), mask, native=128, crop="auto")
    found = find_regions(mask, native=128)
    for number in range(2):
        placement = found.place(mask, number, native=128)
        detail = placement.inner_size[0] / placement.box_size[0]
        assert detail == 1 and detail > 5 * together.inner_size[0] / together.box_size[0]


def test_very_many_parts_become_a_few_regions() -> None:
    mask = np.zeros((1000, 1000), np.uint8)
    mask[::20, ::20] = 255
    assert len(find_regions(mask, native=64).boxes) <= MOST_REGIONS


def test_a_large_mask_is_taken_apart_by_squares() -> None:
    mask = mask_with((3000, 5000), (11, 13, 95, 77), (4811, 2903, 4903, 2999), (4999, 0, 5000, 1))
    found = find_regions(mask, native=256)
    assert found.square > 1 and found.groups.size < 1_100_000
    assert set(found.boxes) == {(11, 13, 95, 77), (4811, 2903, 4903, 2999), (4999, 0, 5000, 1)}


@pytest.mark.parametrize(
    ("size", "fits"), [((64, 64), True), ((60, 50), True), ((640, 64), False), ((200, 200), False)]
)
def test_a_source_that_is_seen_whole_needs_no_regions(size: tuple[int, int], fits: bool) -> None:
    mask = mask_with((size[1], size[0]), (0, 0, 2, 2), (size[0] - 2, size[1] - 2, *size))
    assert fits_the_canvas(size, place(size, mask, native=64)) == fits
