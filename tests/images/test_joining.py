"""How a patch meets its source: outside bit-exact whatever is asked for, and each option does what it says."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.images import JoinOptions, composite, join, measure, place
from inpaint_ops.images.grain import MOST_GRAIN, with_grain
from inpaint_ops.images.joining import UNSEEN, feather_of
from inpaint_ops.images.matching import MOST_SHIFT
from tests.support.patches import BOX, WAYS, boxed, joined, masks, photo, source_of
from tests.support.pictures import Array, noise


def shifted(pixels: Array, *levels: int) -> Array:
    return np.clip(pixels.astype(int) + np.array(levels), 0, 255).astype(np.uint8)


@settings(deadline=None, max_examples=200)
@given(masks(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]), WAYS,
       st.sampled_from(["none", "auto", 0, 5]), st.sampled_from([32, 64, 128]))  # fmt: skip
def test_outside_is_exact_and_the_same_twice_whatever_is_asked_for(
    mask: Array, channels: int, dtype: type, options: JoinOptions, crop: Any, native: int
) -> None:
    source = source_of(noise(*mask.shape, channels, dtype=dtype, seed=3))
    placement = place(source.size, mask, native=native, crop=crop)
    painted = noise(placement.working[1], placement.working[0], 3, seed=4)
    before = source.pixels.copy(), mask.copy(), painted.copy()
    one = join(source, mask, placement, painted, options)
    assert one.pixels.shape == source.pixels.shape and one.pixels.dtype == dtype
    assert np.array_equal(one.pixels[mask == 0], source.pixels[mask == 0])
    assert not one.weights[mask == 0].any() and (one.weights <= mask).all()
    if options.alpha == "keep" and channels in (2, 4):
        assert np.array_equal(one.pixels[..., -1], source.pixels[..., -1])
    two = join(source, mask, placement, painted, options)
    assert np.array_equal(one.pixels, two.pixels) and one.how == two.how and one.notes == two.notes
    assert all(np.array_equal(a, b) for a, b in zip(before, (source.pixels, mask, painted), strict=True))
    assert one.how.blend in ("hard", "feather", "poisson") and (
        options.blend == "auto" or one.how.blend == options.blend
    )
    measure(one.pixels, one.weights)


@settings(deadline=None, max_examples=40)
@given(
    masks(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]), st.sampled_from(["fill", "keep"])
)
def test_by_default_it_is_the_composite(mask: Array, channels: int, dtype: type, alpha: Any) -> None:
    source = source_of(noise(*mask.shape, channels, dtype=dtype))
    placement = place(source.size, mask, native=64)
    painted = noise(placement.working[1], placement.working[0], 3, seed=4)
    expected = composite(source, mask, placement, painted, alpha=alpha)
    found = join(source, mask, placement, painted, JoinOptions(alpha=alpha))
    assert np.array_equal(found.pixels, expected) and found.weights is mask
    assert found.how.model_dump(exclude_defaults=True) == {} and found.notes == ()
    given_width = join(source, mask, placement, painted, JoinOptions(blend="feather", feather=3.0, alpha=alpha))
    assert np.array_equal(given_width.pixels, expected), "the mask was feathered when it was read"


# ------------------------------------------------------------------------------------------------------------ blend


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("blend", ["feather", "poisson", "auto"])
def test_a_shifted_patch_has_less_of_a_seam(blend: Any, dtype: type) -> None:
    pixels = photo()
    painted = shifted(pixels, 30, -20, 25)
    deep = pixels.astype(dtype) * (257 if dtype == np.uint16 else 1)
    before = measure(joined(deep, boxed(), painted, JoinOptions()).pixels, boxed()).seam_contrast
    one = joined(deep, boxed(), painted, JoinOptions(blend=blend))
    after = measure(one.pixels, one.weights).seam_contrast
    assert before and after and before > 3 and after < 1.5


def test_poisson_takes_a_shift_back_and_keeps_16_bits() -> None:
    ramp = np.linspace(0, 3000, 224)[:, None, None].astype(np.uint16)
    pixels = photo(grain=0).astype(np.uint16) * 257 + ramp
    painted = shifted(photo(grain=0), 25, -15, 10)
    found = joined(pixels, boxed(), painted, JoinOptions(blend="poisson")).pixels
    error = np.abs(found.astype(int) - pixels)[BOX]
    assert error.max() <= 2 * 257 and len(np.unique(found[BOX] % 257)) > 100, "more than 8 bits' worth of values"


def test_poisson_keeps_the_patchs_own_edges() -> None:
    pixels, painted = np.full((224, 224, 3), 100, np.uint8), np.full((224, 224, 3), 130, np.uint8)
    painted[95:115, 90:120] = 200
    found = joined(pixels, boxed(), painted, JoinOptions(blend="poisson")).pixels
    assert (found[BOX].min(), found[BOX].max()) == (100, 170), "the square stands out by as much as it was painted"


def test_poisson_meets_no_colour_that_is_transparent() -> None:
    pixels = np.dstack([photo(grain=0), np.full((224, 224), 255, np.uint8)])
    pixels[:60] = (255, 0, 255, 0)  # a garish colour that nobody sees, along the mask's upper edge
    painted = shifted(photo(grain=0), 20, 20, 20)
    found = joined(pixels, boxed(), painted, JoinOptions(blend="poisson")).pixels
    assert np.abs(found[BOX][..., :3].astype(int) - photo(grain=0)[BOX]).max() <= 3


def test_poisson_without_an_edge_changes_nothing_and_says_so() -> None:
    pixels, mask = photo(), np.full((224, 224), 255, np.uint8)
    painted = photo(seed=2)
    found = joined(pixels, mask, painted, JoinOptions(blend="poisson"))
    assert np.array_equal(found.pixels, painted)
    assert len(found.notes) == 1 and found.notes[0].startswith("blend poisson changed nothing")


def test_auto_takes_the_first_edge_that_is_not_seen() -> None:
    pixels = photo()
    same = joined(pixels, boxed(), pixels, JoinOptions(blend="auto")).how
    assert same.blend == "hard" and list(same.seams) == ["hard"] and same.seams["hard"] <= UNSEEN
    other = shifted(pixels, 30, 30, 30)
    found = joined(pixels, boxed(), other, JoinOptions(blend="auto")).how
    assert found.blend == "poisson" and found.seams["hard"] > 3 and found.seams["poisson"] <= UNSEEN
    whole = np.full((224, 224), 255, np.uint8)
    assert joined(pixels, whole, other, JoinOptions(blend="auto")).how.model_dump(exclude_defaults=True) == {}


def test_a_feather_has_the_width_that_is_given_or_one_of_the_masks_area() -> None:
    pixels, painted = np.zeros((224, 224, 3), np.uint8), np.full((224, 224, 3), 200, np.uint8)
    found = joined(pixels, boxed(), painted, JoinOptions(blend="feather"))
    assert found.how.feather == feather_of(boxed()) == pytest.approx((90 * 110) ** 0.5 / 24)
    row = found.pixels[105, 50:105, 0].astype(int)
    assert row[0] < 40 and row[-1] == 200 and (np.diff(row) >= 0).all()
    assert np.array_equal(found.weights > 0, boxed() > 0)
    assert feather_of(np.full((9, 9), 255, np.uint8)) == 2 and feather_of(np.full((999, 999), 255, np.uint8)) == 24


# ------------------------------------------------------------------------------------------------------------ match


@pytest.mark.parametrize("match", ["mean", "histogram"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tint_is_taken_out_and_recorded(match: Any, dtype: type) -> None:
    level = 257 if dtype == np.uint16 else 1
    pixels = photo(seed=1)
    painted = shifted(pixels, 12, -9, 15)
    one = joined(pixels.astype(dtype) * level, boxed(), painted, JoinOptions(match=match))
    tinted = measure(joined(pixels, boxed(), painted, JoinOptions()).pixels, boxed()).colour_shift
    own = measure(pixels, boxed()).colour_shift
    found = measure(one.pixels, boxed()).colour_shift
    assert tinted and own is not None and found is not None and found < 1.5 < tinted
    assert one.how.match == match and one.how.shift is not None and len(one.how.shift) == 3
    assert (np.sign(one.how.shift) == (-1, 1, -1)).sum() >= 2 and one.notes == ()


@pytest.mark.parametrize("match", ["mean", "histogram"])
def test_another_colour_is_moved_by_the_limit_and_no_more(match: Any) -> None:
    pixels, painted = np.full((224, 224, 3), 40, np.uint8), np.full((224, 224, 3), 180, np.uint8)
    found = joined(pixels, boxed(), painted, JoinOptions(match=match))
    assert (found.pixels[BOX] == 180 - MOST_SHIFT).all() and found.how.shift == (-MOST_SHIFT,) * 3
    assert found.notes == (f"match {match} was limited to 24 levels of 255",)


def test_histogram_matches_contrast_too() -> None:
    pixels = photo(grain=12)
    middle = pixels.mean(axis=(0, 1))
    painted = np.clip((pixels - middle) * 0.5 + middle, 0, 255).astype(np.uint8)
    spread = {
        match: joined(pixels, boxed(), painted, JoinOptions(match=match)).pixels[BOX].std()
        for match in ("mean", "histogram")
    }
    assert spread["histogram"] > 1.5 * spread["mean"]


@pytest.mark.parametrize(
    "options", [JoinOptions(match="mean"), JoinOptions(match="histogram"), JoinOptions(grain="match")]
)
def test_what_cannot_be_compared_is_left_out_and_said(options: JoinOptions) -> None:
    for mask in (np.full((224, 224), 255, np.uint8), np.pad(np.full((1, 1), 255, np.uint8), ((0, 223), (0, 223)))):
        found = joined(photo(), mask, photo(seed=5), options)
        assert np.array_equal(found.pixels, joined(photo(), mask, photo(seed=5), JoinOptions()).pixels)
        assert len(found.notes) == 1 and "was left out" in found.notes[0]


# ------------------------------------------------------------------------------------------------------------ grain


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_smooth_patch_gets_the_rings_grain(dtype: type, channels: int) -> None:
    level = 257 if dtype == np.uint16 else 1
    pixels, painted = photo(grain=5)[..., :channels], photo(grain=0.3)
    pixels = np.squeeze(pixels).astype(dtype) * level
    before = measure(joined(pixels, boxed(), painted, JoinOptions()).pixels, boxed()).grain_ratio
    one = joined(pixels, boxed(), painted, JoinOptions(grain="match", seed=9))
    after = measure(one.pixels, boxed()).grain_ratio
    assert before and after and before < 0.5 and 0.8 < after < 1.25
    assert one.how.grain_added and 2 < one.how.grain_added < 6
    other = joined(pixels, boxed(), painted, JoinOptions(grain="match", seed=10))
    assert not np.array_equal(one.pixels[BOX], other.pixels[BOX]), "the row's seed is the grain's"


def test_a_patch_with_more_grain_is_left_as_it_is() -> None:
    found = joined(photo(grain=1), boxed(), photo(grain=8), JoinOptions(grain="match"))
    assert found.how.grain_added == 0
    assert np.array_equal(found.pixels, joined(photo(grain=1), boxed(), photo(grain=8), JoinOptions()).pixels)


def test_much_grain_is_limited_and_said() -> None:
    found = joined(photo(grain=30), boxed(), photo(grain=0), JoinOptions(grain="match"))
    assert found.how.grain_added == MOST_GRAIN and found.notes == ("grain match was limited to 8 levels of 255",)


def test_grain_is_gray_and_of_the_deviation_that_is_asked_for() -> None:
    patch = np.full((300, 200, 3), 128, np.uint8)
    found = with_grain(patch, 4.0, 7).astype(int) - 128
    assert (found[..., 0] == found[..., 1]).all() and found.std() == pytest.approx(4.0, rel=0.05)
    assert abs(found.mean()) < 0.1
    assert np.array_equal(with_grain(patch[:64], 4.0, 7).astype(int) - 128, found[:64])


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (JoinOptions(), 10),
        (JoinOptions(blend="feather", feather=8.0), 10),
        (JoinOptions(blend="poisson"), 25),
        (JoinOptions(match="mean"), 12),
        (JoinOptions(match="histogram"), 12),
        (JoinOptions(grain="match", seed=1), 15),
        (JoinOptions(sharpen="match"), 15),
        (JoinOptions(blend="auto", match="histogram", grain="match", sharpen="match"), 29),
    ],
    ids="hard feather poisson mean histogram grain sharpen all".split(),
)
def test_a_large_frame_with_a_large_mask_is_never_whole_in_floats(options: JoinOptions, most: int) -> None:
    """16 megapixels, nearly all of them masked: bytes per pixel at the peak. The frame in floats would be 12 more.

    The result, the patch and the mask's window take 9; poisson has three grids of a quarter of the size in floats.
    """
    side = 4000
    pixels = np.tile(np.random.default_rng(1).integers(0, 256, (250, 250, 3), np.uint8), (16, 16, 1))
    mask = np.zeros((side, side), np.uint8)
    mask[60:-60, 60:-60] = 255
    source = source_of(pixels)
    placement = place((side, side), mask, native=256)
    painted = np.full((256, 256, 3), 120, np.uint8)
    tracemalloc.start()
    try:
        found = join(source, mask, placement, painted, options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found.pixels[mask == 0], pixels[mask == 0])
    assert peak < most * side * side, f"{peak / side / side:.1f} bytes per pixel"
