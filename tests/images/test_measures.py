"""The measures of a finished picture say what a viewer would: a step, another colour, a flat, soft or smooth patch."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.images import measure
from inpaint_ops.images.measures import MEASURED_PIXELS, RING, _stripes, seam_contrast
from inpaint_ops.images.noise import noise_histogram, noise_of, noise_values
from inpaint_ops.records import Measures
from tests.support.pictures import Array, noise

BOX = (slice(60, 140), slice(50, 160))


def photo(seed: int = 0, grain: float = 3.0) -> Array:
    """Soft shapes with grain on them, away from black and white."""
    dice = np.random.default_rng(seed)
    shapes = cv2.resize(dice.uniform(70, 180, (10, 10, 3)), (200, 200), interpolation=cv2.INTER_CUBIC)
    return np.clip(shapes + dice.normal(0, grain, shapes.shape), 40, 215).astype(np.uint8)


def boxed(shape: tuple[int, int] = (200, 200)) -> Array:
    mask = np.zeros(shape, np.uint8)
    mask[BOX] = 255
    return mask


def test_a_photo_that_was_not_painted_fits_itself() -> None:
    found = measure(photo(), boxed())
    assert 0.9 < (found.seam_contrast or 0) < 1.1 and 0.9 < (found.grain_ratio or 0) < 1.1
    assert 0.8 < (found.sharpness_ratio or 0) < 1.25 and (found.flatness or 0) < 0.1


def test_a_step_at_the_edge_is_a_seam_and_another_colour() -> None:
    pixels = photo()
    before = measure(pixels, boxed())
    pixels[BOX][..., 1] += 40
    after = measure(pixels, boxed())
    assert (after.seam_contrast or 0) > 3 * (before.seam_contrast or 9)
    assert (after.colour_shift or 0) > 25 and (before.colour_shift or 99) < 20


def test_the_figures_of_flat_pictures_are_exact() -> None:
    pixels = np.full((200, 200), 100, np.uint8)
    assert measure(pixels, boxed()) == Measures(
        seam_contrast=1, colour_shift=0, flatness=1, sharpness_ratio=1, grain_ratio=1
    )
    pixels[BOX] = 131
    found = measure(pixels, boxed())
    assert (found.seam_contrast, found.colour_shift, found.flatness) == (32, 31, 1)
    assert found.sharpness_ratio == found.grain_ratio == 1, "the step itself is neither sharpness nor grain"


def test_a_flat_a_soft_and_a_smooth_patch_are_told_apart() -> None:
    flat, soft, smooth = (photo(grain=6) for _ in range(3))
    flat[BOX] = 120
    soft[BOX] = cv2.GaussianBlur(soft, (0, 0), 6)[BOX]
    smooth[BOX] = cv2.medianBlur(smooth, 5)[BOX]
    assert measure(flat, boxed()).flatness == 1 and (measure(soft, boxed()).flatness or 1) < 0.6
    assert (measure(soft, boxed()).sharpness_ratio or 1) < 0.5
    assert (measure(smooth, boxed()).grain_ratio or 1) < 0.5


NAMES = {"seam_contrast", "colour_shift", "flatness", "sharpness_ratio", "grain_ratio"}


@pytest.mark.parametrize("sigma", [1.0, 3.0, 10.0])
def test_the_noise_of_a_picture_is_found_beside_its_edges(sigma: float) -> None:
    pixels = np.full((256, 256), 128.0) + np.random.default_rng(1).normal(0, sigma, (256, 256))
    pixels[:, 100:110] += 60
    values = noise_values(np.rint(pixels).astype(np.uint8))
    assert noise_of(noise_histogram(values, np.full_like(values, 255))) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize(
    ("mask", "undefined"),
    [
        (np.full((40, 50), 255, np.uint8), {"seam_contrast", "colour_shift", "sharpness_ratio", "grain_ratio"}),
        (np.pad(np.full((1, 1), 255, np.uint8), 20), NAMES),
        (np.pad(np.full((2, 2), 255, np.uint8), 20), NAMES - {"seam_contrast"}),
        (np.pad(np.full((40, 47), 255, np.uint8), ((0, 0), (0, 1))), {"sharpness_ratio", "grain_ratio"}),
    ],
    ids=["covers the frame", "a dot", "four pixels", "a ring of one column"],
)
def test_what_too_few_pixels_decide_is_undefined(mask: Array, undefined: set[str]) -> None:
    found = measure(noise(*mask.shape, 3), mask).model_dump()
    assert {name for name, value in found.items() if value is None} >= undefined
    if undefined != NAMES - {"seam_contrast"}:
        assert {name for name, value in found.items() if value is None} == undefined


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]),
    st.data(),
)  # fmt: skip
def test_any_picture_and_mask_can_be_measured(
    height: int, width: int, channels: int, dtype: type, data: st.DataObject
) -> None:
    dice = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pixels = dice.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    mask = (dice.integers(0, 256, (height, width)) * (dice.random((height, width)) < dice.random())).astype(np.uint8)
    mask[dice.integers(height), dice.integers(width)] = data.draw(st.sampled_from([1, 127, 128, 255]))
    found = measure(pixels[..., 0] if channels == 1 else pixels, mask)  # its model refuses what is out of range
    assert found == measure(pixels[..., 0] if channels == 1 else pixels, mask)
    assert found.seam_contrast == seam_contrast(pixels[..., 0] if channels == 1 else pixels, mask)


def test_depth_gray_and_alpha_change_no_figure() -> None:
    pixels, mask = photo(), boxed()
    found = measure(pixels, mask)
    assert measure(pixels.astype(np.uint16) * 257, mask) == found
    assert measure(np.dstack([pixels, np.full((200, 200), 255, np.uint8)]), mask) == found
    gray = pixels[..., 0]
    assert measure(gray, mask) == measure(np.repeat(gray[..., None], 3, axis=2), mask)


def test_what_lies_beyond_the_ring_changes_no_figure() -> None:
    pixels, mask = photo(), boxed()
    near = cv2.dilate(mask, np.ones((2 * RING + 5, 2 * RING + 5), np.uint8))
    other = np.where(near[..., None] > 0, pixels, noise(200, 200, 3))
    assert measure(other, mask) == measure(pixels, mask)


def test_a_large_picture_costs_no_more_than_a_small_one() -> None:
    """Work and memory are those of the stripes, which are at most about twice `MEASURED_PIXELS` with their context."""
    pixels, mask = np.zeros((4000, 3000, 3), np.uint8), np.full((4000, 3000), 255, np.uint8)
    mask[:, 1400:1500] = 0
    assert sum(stripe.patch.size for stripe in _stripes(pixels, mask)) < 3 * MEASURED_PIXELS
    tracemalloc.start()
    try:
        measure(pixels, mask)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16_000_000, "less than half of the picture"
