"""Far regions of any mask, joined one by one: outside of all of them the source is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.engine import BatchKey, PaintItem, PaintResult
from inpaint_ops.images import find_regions
from inpaint_ops.protocol import Item
from inpaint_ops.worker.parts import Part, finish_parts
from tests.support.patches import WAYS, source_of
from tests.support.pictures import Array, noise


@st.composite
def far_masks(draw: st.DrawFn) -> Array:
    mask = np.zeros((draw(st.integers(1, 240)), draw(st.integers(1, 320))), np.uint8)
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 6))):
        y, x = dice.integers(mask.shape[0]), dice.integers(mask.shape[1])
        mask[y : y + dice.integers(1, 24), x : x + dice.integers(1, 24)] = draw(st.sampled_from([255, 200, 1]))
    return mask


@settings(deadline=None, max_examples=80)
@given(far_masks(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]), WAYS)
def test_outside_is_exact_whatever_is_asked_for(mask: Array, channels: int, dtype: type, ways: Any) -> None:
    pixels = noise(*mask.shape, channels, dtype=dtype)
    source, regions = source_of(pixels), find_regions(mask, native=32)
    item = Item(
        row=1, id="a", image="", mask="", output="", prompt="", seed=ways.seed, steps=1, guidance_scale=1, strength=1,
        crop="regions", blend=ways.blend, match=ways.match, grain=ways.grain, sharpen=ways.sharpen,
        mask_blur=ways.feather if ways.blend in ("feather", "auto") else 0.0, side_products=("patch",),
    )  # fmt: skip
    parts, results = [], []
    for number in range(len(regions.boxes)):
        placement = regions.place(mask, number, native=32)
        width, height = placement.working
        canvas = noise(height, width, 3, seed=number + 1)
        key = BatchKey(width, height, 1, 1.0, 1.0)
        parts.append(Part(placement, PaintItem(1, key, canvas, np.full((height, width), 255, np.uint8), "", None, 1)))
        results.append(PaintResult(1, canvas, None))
    found = finish_parts(item, source, mask, parts, results, regions, ways.alpha)
    assert found.pixels.shape == pixels.shape and found.pixels.dtype == pixels.dtype
    assert np.array_equal(found.pixels[found.weights == 0], pixels[found.weights == 0])
    if ways.blend in ("hard", "poisson"):
        assert np.array_equal(found.weights, mask), "only a feather weighs other pixels than the mask"
    assert len(found.regions) == len(regions.boxes) == len(found.pieces)
