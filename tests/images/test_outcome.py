"""What painting did to the picture: transparent parts become seen, and unchanged ones are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.errors import UnchangedError
from inpaint_ops.images import (
    Source,
    alpha_conversions,
    check_changed,
    composite,
    decode_source,
    encode,
    place,
    visible_change,
)
from tests.support.pictures import MAX_PIXELS, Array, file_of, mask_array, noise, png

WHOLE = np.full((64, 64), 255, np.uint8)


def decode(data: bytes) -> Source:
    return decode_source(data, max_pixels=MAX_PIXELS)


def paint(source: Source, mask: Array, painted: Array, **options: Any) -> Array:
    return composite(source, mask, place(source.size, mask, native=64), painted, **options)


def source_of(pixels: Array) -> Source:
    bits = pixels.dtype.itemsize * 8
    return decode(png(pixels, bits=bits))


# ------------------------------------------------------------------------------------------------------------ alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_rises_to_the_masks_weight_where_the_source_is_transparent(channels: int, dtype: type) -> None:
    scale = np.iinfo(dtype).max // 255
    pixels = noise(64, 64, channels, dtype=dtype)
    pixels[..., -1] = 0
    mask = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    painted = np.full((64, 64, 3), 90, np.uint8)
    out = paint(source_of(pixels), mask, painted)
    assert np.array_equal(out[..., -1], mask.astype(dtype) * scale)
    assert (out[mask > 0][:, :-1] == 90 * scale).all(), "nothing of what was hidden shines through"
    assert np.array_equal(out[mask == 0], pixels[mask == 0])
    assert len(alpha_conversions(pixels, out)) == 1 and "alpha rose" in alpha_conversions(pixels, out)[0]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 99), st.sampled_from([2, 4]), st.sampled_from([np.uint8, np.uint16]))
def test_what_is_laid_over_is_what_a_viewer_would_see(seed: int, channels: int, dtype: type) -> None:
    """On any ground the result shows the painted over the source, each as opaque as it is."""
    draw = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    pixels = draw.integers(0, top, (64, 64, channels), dtype=dtype, endpoint=True)
    pixels[::5, :, -1], pixels[1::5, :, -1] = 0, top
    mask = draw.integers(0, 256, (64, 64), dtype=np.uint8)
    mask[:, ::3], mask[:, 1::3] = 0, 255
    painted = noise(64, 64, seed=seed)
    out = paint(source_of(pixels), mask, painted)
    assert np.array_equal(out[mask == 0], pixels[mask == 0])
    assert (out[..., -1] >= np.maximum(pixels[..., -1], mask.astype(dtype) * (top // 255))).all()
    opaque = pixels[..., -1] == top
    assert (out[opaque][:, -1] == top).all()
    kept = paint(source_of(pixels), mask, painted, alpha="keep")
    assert np.array_equal(out[opaque], kept[opaque]), "opaque pixels are blended as ever"
    colour = painted @ np.array([0.299, 0.587, 0.114]) if channels == 2 else painted
    colour = colour.reshape(64, 64, -1)
    weight = mask[..., None] / 255
    for ground in (0.0, 1.0):
        seen, was = ((p[..., :-1] / top) * (a := p[..., -1:] / top) + ground * (1 - a) for p in (out, pixels))
        expected = colour / 255 * weight + was * (1 - weight)
        assert np.abs(seen - expected).max() < (4 if channels == 2 else 2) / 255


def test_alpha_is_kept_where_that_is_wanted_and_nothing_is_said() -> None:
    pixels = noise(64, 64, 4)
    out = paint(source_of(pixels), WHOLE, noise(64, 64, seed=3), alpha="keep")
    assert np.array_equal(out[..., -1], pixels[..., -1]) and alpha_conversions(pixels, out) == ()
    opaque = noise(64, 64, 3)
    assert alpha_conversions(opaque, paint(source_of(opaque), WHOLE, noise(64, 64, seed=3))) == ()


def test_what_is_painted_on_a_transparent_ground_is_no_white_jpeg() -> None:
    cutout = np.zeros((64, 64, 4), np.uint8)
    painted = np.full((64, 64, 3), (200, 40, 90), np.uint8)
    held = decode(encode(paint(source_of(cutout), WHOLE, painted), format="jpeg", icc=None)).pixels
    assert np.abs(held.astype(int) - painted).max() < 6


# ----------------------------------------------------------------------------------------------------------- change


def test_the_change_is_the_mean_of_what_the_mask_covers() -> None:
    before = np.full((64, 64, 3), 100, np.uint8)
    mask = mask_array(64, 64, (8, 8, 24, 24))
    after = before.copy()
    after[mask > 0] = (100, 130, 90)
    assert visible_change(before, after, mask) == 30
    assert visible_change(before.astype(np.uint16) * 257, after.astype(np.uint16) * 257, mask) == 30
    after[8:16, 8:24] = 100
    assert visible_change(before, after, mask) == 15
    assert visible_change(before[..., 0], after[..., 1], mask) == 15


def test_a_large_picture_is_measured_as_a_small_one() -> None:
    before, mask = np.zeros((900, 1200), np.uint8), np.full((900, 1200), 255, np.uint8)
    after = before.copy()
    after[450:] = 50
    assert visible_change(before, after, mask) == 25


def test_soft_edges_do_not_thin_the_change_out() -> None:
    before, after = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    mask = np.full((64, 64), 10, np.uint8)
    mask[:8] = 255
    after[:8] = 80
    assert visible_change(before, after, mask) == 80


def test_an_almost_empty_mask_is_judged_by_its_largest_change() -> None:
    before, after = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    mask = mask_array(64, 64, (3, 3, 6, 6))
    after[4, 4] = 9
    assert visible_change(before, after, mask) == 9


def test_paint_under_transparent_pixels_changes_nothing_that_is_seen() -> None:
    pixels = noise(64, 64, 4)
    pixels[..., 3] = 0
    source, painted = source_of(pixels), noise(64, 64, seed=5)
    kept = paint(source, WHOLE, painted, alpha="keep")
    assert not np.array_equal(kept, pixels) and visible_change(pixels, kept, WHOLE) == 0
    assert visible_change(pixels, paint(source, WHOLE, painted), WHOLE) > 100


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_mask_that_hardly_paints_is_unchanged(level: int) -> None:
    pixels = noise(64, 64)
    faint = np.full((64, 64), level, np.uint8)
    change = visible_change(pixels, paint(source_of(pixels), faint, noise(64, 64, seed=5)), faint)
    with pytest.raises(UnchangedError, match=rf"differs from the source by {change:.2f} of 255 levels") as caught:
        check_changed(change, 2.0)
    assert caught.value.change == change and "INPAINT_UNCHANGED_THRESHOLD" in str(caught.value)
    check_changed(change, 0.0)


def test_a_change_at_the_threshold_passes() -> None:
    check_changed(2.0, 2.0)
    check_changed(0.0, 0.0)


def test_files_with_transparent_parts_keep_alpha_outside_the_mask() -> None:
    source = decode(file_of(noise(64, 64, 4)))
    mask = mask_array(64, 64, (8, 8, 40, 40))
    out = paint(source, mask, noise(64, 64, seed=5))
    assert np.array_equal(out[mask == 0], source.pixels[mask == 0])
    assert (out[..., 3][mask > 0] == 255).all()
