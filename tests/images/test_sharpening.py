"""A patch sharpened to its surroundings: nearer to their detail, never beyond it, within limits, and recorded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from inpaint_ops import images
from inpaint_ops.images import JoinOptions
from inpaint_ops.images import sharpening as sharpening
from inpaint_ops.images.sharpening import MOST_AMOUNT, MOST_CHANGE, Sharpening
from tests.support.patches import BOX, boxed, joined, photo
from tests.support.pictures import Array

MATCH = JoinOptions(sharpen="match")


def textured(seed: int = 0) -> Array:
    """Soft detail without noise, which blurring takes some of."""
    dice = np.random.default_rng(seed)
    small = cv2.resize(dice.uniform(80, 170, (90, 90, 3)), (224, 224), interpolation=cv2.INTER_CUBIC)
    return np.clip(small, 0, 255).astype(np.uint8)


def blurred(pixels: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma))


def sharpness(one: images.Joined) -> float:
    return images.measure(one.pixels, one.weights).sharpness_ratio or 0.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_soft_patch_gets_the_ring_s_detail_and_the_record_says_how_much_was_added(dtype: type) -> None:
    pixels = textured()
    deep = pixels.astype(dtype) * (257 if dtype == np.uint16 else 1)
    before = joined(deep, boxed(), blurred(pixels, 0.9), JoinOptions())
    after = joined(deep, boxed(), blurred(pixels, 0.9), MATCH)
    assert sharpness(before) < 0.7
    assert 0.9 < sharpness(after) < 1.1
    assert after.how.sharpen == "match" and after.how.sharpened is not None and 0.1 < after.how.sharpened < MOST_AMOUNT
    assert not after.notes and after.pixels.dtype == dtype
    assert np.array_equal(after.pixels[boxed() == 0], deep[boxed() == 0])
    assert "sharpen" not in before.how.model_dump() and "sharpened" not in before.how.model_dump()


def test_a_patch_that_is_as_sharp_is_left_as_it_is() -> None:
    pixels = textured()
    one = joined(blurred(pixels, 1.0), boxed(), pixels, MATCH)
    assert one.how.sharpened == 0
    plain = joined(blurred(pixels, 1.0), boxed(), pixels, JoinOptions())
    assert np.array_equal(one.pixels, plain.pixels)


def test_what_has_no_detail_gets_none_and_the_limit_is_said() -> None:
    pixels = photo(grain=6)
    one = joined(pixels, boxed(), blurred(pixels, 12), MATCH)
    assert one.how.sharpened == MOST_AMOUNT
    assert one.notes == (f"sharpen match was limited to {MOST_AMOUNT:g} times the patch's own fine detail",)


def test_no_value_is_changed_by_more_than_the_limit_and_colours_are_changed_alike() -> None:
    patch = np.full((80, 80, 3), 60, np.uint8)
    patch[:, 40:] = (190, 180, 200)
    made = Sharpening(MOST_AMOUNT, 2.0, is_limited=True).apply(patch).astype(int) - patch
    assert np.abs(made).max() == MOST_CHANGE
    assert (made == made[..., :1]).all()


def test_a_dot_of_a_mask_is_left_out_with_a_note() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[100:103, 100:103] = 255
    one = joined(photo(), mask, photo(seed=1), MATCH)
    assert one.how.sharpened is None
    assert one.notes == ("sharpen match was left out: the mask or its ring has too few pixels to measure detail",)


def test_a_large_patch_is_sharpened_in_stripes_that_no_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 64, 3), dtype=np.uint8)
    how = Sharpening(1.5, 3.0, is_limited=False)
    whole = how.apply(pixels)
    monkeypatch.setattr(sharpening, "_STRIPE", 64)
    assert np.array_equal(how.apply(pixels), whole)


def test_grain_after_sharpening_adds_what_is_left_missing() -> None:
    pixels = photo(grain=5)
    both = joined(pixels, boxed(), blurred(pixels, 1.5), JoinOptions(sharpen="match", grain="match", seed=3))
    grain = joined(pixels, boxed(), blurred(pixels, 1.5), JoinOptions(grain="match", seed=3))
    assert both.how.grain_added is not None and grain.how.grain_added is not None
    assert both.how.grain_added < grain.how.grain_added
    assert not np.array_equal(both.pixels[BOX], grain.pixels[BOX])
