"""Masks of every kind as weights, grown and feathered."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.errors import MaskError
from inpaint_ops.images import (
    place,
)
from tests.support.pictures import (
    H,
    W,
    exif,
    file_of,
    mask_array,
    mask_file,
    png,
    stored,
    weights,
)


def test_masks_of_every_kind_mean_the_same() -> None:
    gray = mask_array(H, W, (5, 6, 20, 15))
    rgb = np.dstack([gray] * 3)
    strokes = np.dstack((np.full_like(rgb, 255), gray))  # white everywhere, seen only where it was drawn
    kinds = [
        file_of(gray),
        file_of(rgb),
        file_of(strokes),
        file_of(np.dstack((np.full_like(gray, 255), gray))),
        file_of(Image.fromarray(gray).convert("1")),
        file_of(Image.fromarray(rgb).convert("P")),
        png(gray.astype(np.uint16) * 257, bits=16),
        png(rgb.astype(np.uint16) * 257, bits=16),
        file_of(gray, "BMP"),
        file_of(gray, "TIFF"),
        file_of(rgb, "WEBP", lossless=True),
    ]
    for data in kinds:
        assert np.array_equal(weights(data), gray)


def test_gray_levels_are_weights() -> None:
    levels = np.tile(np.arange(W, dtype=np.uint8) * 7, (H, 1))
    assert np.array_equal(weights(file_of(levels)), levels)
    assert np.array_equal(weights(file_of(levels), invert=True), 255 - levels)


def test_jpeg_noise_around_the_edge_of_a_mask_is_no_mask() -> None:
    drawn = mask_array(64, 64, (21, 19, 43, 40))
    data = file_of(drawn, "JPEG", quality=90)
    held, got = np.asarray(Image.open(BytesIO(data))), weights(data, (64, 64))
    noisy = (held > 0) & (held <= 16)
    assert noisy.any() and (got[noisy] == 0).all() and (got[held >= 239] == 255).all()
    assert np.array_equal(got > 127, drawn > 127)
    assert (got[:8] == 0).all() and (got[24:32, 24:40] == 255).all()


def test_the_orientation_of_a_mask_is_applied() -> None:
    gray = mask_array(H, W, (5, 6, 20, 15))
    assert np.array_equal(weights(file_of(stored(gray, 6), exif=exif(6))), gray)


def test_a_mask_that_masks_nothing_is_refused() -> None:
    for data, invert in ((mask_file(H, W), False), (file_of(np.full((H, W), 255, np.uint8)), True)):
        with pytest.raises(MaskError, match="masks nothing"):
            weights(data, invert=invert, dilate=3, blur=2)
    with pytest.raises(MaskError, match="masks nothing"):
        place((W, H), mask_array(H, W), native=64)


def test_a_mask_of_another_size_is_refused_and_both_sizes_are_named() -> None:
    with pytest.raises(MaskError, match=r"the mask is 20x10 and the image is 37x23: make"):
        weights(mask_file(10, 20, (0, 0, 5, 5)))
    with pytest.raises(MaskError, match=r"the mask is 23x37 and the image is 37x23 once upright.*EXIF orientation"):
        weights(mask_file(W, H, (0, 0, 5, 5)))


def test_dilation_grows_the_mask_in_a_circle() -> None:
    got = weights(mask_file(41, 41, (20, 20, 21, 21)), (41, 41), dilate=10)
    y, x = np.mgrid[0:41, 0:41]
    assert np.array_equal(got == 255, (x - 20) ** 2 + (y - 20) ** 2 <= 100)
    assert np.array_equal(got > 0, got == 255)


def test_dilation_reaches_the_frame_and_keeps_soft_weights() -> None:
    soft = mask_array(H, W, (0, 0, 3, 3), value=90)
    got = weights(file_of(soft), dilate=2, threshold=0)
    assert got.max() == 90 and (got > 0).sum() > 9
    faint_and_full = np.maximum(mask_array(H, W, (30, 3, 35, 9), value=40), mask_array(H, W, (1, 1, 4, 4)))
    grown = weights(file_of(faint_and_full), dilate=2)
    assert (grown >= faint_and_full).all() and (grown[3:9, 30:35] == 40).all() and grown[3, 36] == 0


@pytest.mark.parametrize("sigma", [0.5, 3.0, 20.0, 50.0])
def test_feathering_stays_inside_the_mask(sigma: float) -> None:
    drawn = mask_array(400, 420, (0, 30, 330, 370))
    got = weights(file_of(drawn), (420, 400), blur=sigma)
    assert np.array_equal(got > 0, drawn > 0)
    assert got[200, 100] == 255, "full in the middle"
    assert got[200, 0] == 255, "the frame's border is no edge"
    assert got[200, 329] < (80 if sigma >= 3 else 220), "faint at the mask's edge"
    assert (np.diff(got[200].astype(int)) <= 0).all(), "falls towards the edge, without waves"


@pytest.mark.parametrize(
    "options", [{"dilate": -1}, {"dilate": 513}, {"blur": -0.1}, {"blur": 257.0}, {"blur": float("nan")}]
)
def test_impossible_growth_and_feathers_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(MaskError, match="give mask_"):
        weights(mask_file(H, W, (1, 1, 5, 5)), **options)
