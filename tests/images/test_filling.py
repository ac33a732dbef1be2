"""What the masked area of a canvas holds before it is encoded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.config import Fill
from inpaint_ops.images import Placement, Source, composite, fill_masked, place, to_working
from inpaint_ops.images import filling as filling_module
from inpaint_ops.images.reading import to_rgb
from tests.support.pictures import noise, smooth
from tests.support.random_masks import CROPS, NATIVES, RELAXED, masks

FILLS: list[Fill] = ["original", "noise", "mean", "telea"]
SEEDS = st.integers(0, 2**63 - 1)
KINDS = st.sampled_from([(3, np.uint8), (3, np.uint16), (4, np.uint8), (2, np.uint16)])


def hole(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def whole(mask: np.ndarray) -> Placement:
    height, width = mask.shape
    return Placement((0, 0, width, height), (width, height), (0, 0, width, height))


@RELAXED
@given(masks(), NATIVES, CROPS, st.sampled_from(FILLS), SEEDS, KINDS)
def test_whatever_fills_the_mask_nothing_outside_it_changes(
    mask: np.ndarray, native: int, crop: int, fill: Fill, seed: int, kind: tuple[int, type]
) -> None:
    channels, dtype = kind
    pixels = noise(*mask.shape, channels, dtype=dtype)
    source = Source(pixels, to_rgb(pixels), None, "png", ())
    placement = place(source.size, mask, native=native, crop=crop)
    rgb, working = to_working(source, mask, placement)
    before = rgb.copy()
    filled, _ = fill_masked(rgb, working, placement, fill, seed)
    assert np.array_equal(rgb, before), "the canvas that came in is left alone"
    assert filled.shape == rgb.shape and filled.dtype == np.uint8
    assert np.array_equal(filled[working == 0], rgb[working == 0])
    again, _ = fill_masked(rgb, working, placement, fill, seed)
    assert np.array_equal(filled, again)
    if fill == "original":
        assert np.array_equal(filled, rgb)
    finished = composite(source, mask, placement, filled)
    assert np.array_equal(finished[mask == 0], pixels[mask == 0])


@settings(deadline=None, max_examples=60)
@given(masks(), NATIVES, st.sampled_from(FILLS[1:]), SEEDS)
def test_what_lies_under_the_mask_has_no_part_in_its_fill(mask: np.ndarray, native: int, fill: Fill, seed: int) -> None:
    placement = place(mask.shape[::-1], mask, native=native)
    plain = np.full((*mask.shape, 3), 90, np.uint8)
    rgb, working = to_working(Source(plain, plain, None, "png", ()), mask, placement)
    other = np.where(working[..., None] > 0, np.uint8(255), rgb)
    one = fill_masked(rgb, working, placement, fill, seed)
    two = fill_masked(other, working, placement, fill, seed)
    assert np.array_equal(one[0], two[0]) and one[1] == two[1]


def test_noise_is_the_seeds_and_covers_all_levels() -> None:
    rgb, mask = smooth(128, 128), hole(128, 128, (32, 32, 96, 96))
    one, other = (fill_masked(rgb, mask, whole(mask), "noise", seed)[0] for seed in (1, 2))
    inside = one[mask > 0]
    assert inside.min() < 8 and inside.max() > 247 and abs(inside.mean() - 127.5) < 3
    assert (one[mask > 0] != other[mask > 0]).mean() > 0.9


def test_the_mean_is_that_of_the_ring_alone() -> None:
    rgb = np.full((128, 128, 3), 250, np.uint8)
    rgb[28:100, 28:100] = (10, 20, 30)
    mask = hole(128, 128, (48, 48, 80, 80))
    rgb[48:80, 48:80] = 199
    filled, notes = fill_masked(rgb, mask, whole(mask), "mean", 0)
    assert not notes and (filled[mask > 0] == (10, 20, 30)).all()


@pytest.mark.parametrize("most", [1 << 18, 500], ids=["at full size", "every third pixel"])
def test_telea_carries_the_surroundings_on(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling_module, "TELEA_PIXELS", most)
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None] * 2, (128, 128, 3)).copy()
    mask = hole(128, 128, (40, 40, 88, 88))
    damaged = ramp.copy()
    damaged[mask > 0] = 255
    filled, notes = fill_masked(damaged, mask, whole(mask), "telea", 0)
    error = np.abs(filled.astype(int) - ramp)[mask > 0]
    assert not notes and error.max() < 60 and error.mean() < 20, "a mean would be off by up to 48, on average 24"
    assert np.array_equal(filled[mask == 0], ramp[mask == 0])


def test_a_large_hole_costs_no_more_than_one_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    inpaint = filling_module.cv2.inpaint

    def counted(picture: np.ndarray, part: np.ndarray, *more: int) -> np.ndarray:
        seen.append(int(np.count_nonzero(part)))
        result: np.ndarray = inpaint(picture, part, *more)
        return result

    monkeypatch.setattr(filling_module.cv2, "inpaint", counted)
    rgb = noise(1024, 1024)
    for box in ((0, 0, 1024, 1016), (8, 8, 520, 520), (8, 8, 528, 528), (8, 0, 1024, 1024)):
        mask = hole(1024, 1024, box)
        filled, _ = fill_masked(rgb, mask, whole(mask), "telea", 0)
        assert np.array_equal(filled[mask == 0], rgb[mask == 0])
        assert (filled[mask > 0] != rgb[mask > 0]).mean() > 0.8
    assert len(seen) == 4 and max(seen) <= filling_module.TELEA_PIXELS * 1.02 and min(seen) > 1 << 16


@pytest.mark.parametrize("fill", ["mean", "telea"])
def test_a_mask_that_leaves_nothing_around_it_is_filled_with_gray_and_says_so(fill: Fill) -> None:
    rgb, mask = smooth(96, 96), hole(96, 96, (0, 0, 96, 96))
    filled, notes = fill_masked(rgb, mask, whole(mask), fill, 0)
    assert (filled == 128).all() and notes == (f"fill {fill} is gray: nothing is left around the mask",)


def test_the_padding_of_a_canvas_decides_no_colour() -> None:
    """It repeats the picture's edge, which may be masked."""
    rgb = np.full((64, 128, 3), 200, np.uint8)
    rgb[:, 32:96] = 40
    mask = hole(64, 128, (32, 0, 88, 64))
    placement = Placement((0, 0, 64, 64), (128, 64), (32, 0, 96, 64))
    for fill in FILLS[2:]:
        filled, _ = fill_masked(rgb, mask, placement, fill, 0)
        assert np.abs(filled[mask > 0].astype(int) - 40).max() <= 16, "OpenCV's Telea drifts a little by itself"
        assert np.array_equal(filled[mask == 0], rgb[mask == 0])
