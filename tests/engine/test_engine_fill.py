"""What the fill of the masked area changes: what is encoded, and what is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inpaint_ops.engine import Engine, PaintItem
from inpaint_ops.images import Placement, fill_masked
from inpaint_ops.model.random_weights import instantiate
from tests.support import single_files
from tests.support.engine_parts import KEY, LEVELS, difference, image, item, painting_model

FILLS = ("original", "noise", "mean", "telea")
WHOLE = Placement((0, 0, 64, 64), (64, 64), (0, 0, 64, 64))


def rows(strength: float) -> list[PaintItem]:
    one = item(1, key=KEY._replace(strength=strength))
    return [replace(one, row=n, rgb=fill_masked(one.rgb, one.mask, WHOLE, fill, 7)[0]) for n, fill in enumerate(FILLS)]


def painted(engine: Engine, strength: float) -> list[np.ndarray]:
    return [image(result) for result in engine.paint(rows(strength))]


def pairs(pictures: list[np.ndarray]) -> list[int]:
    return [difference(one, other) for at, one in enumerate(pictures) for other in pictures[:at]]


def test_each_fill_is_encoded_and_changes_the_result_below_strength_1(make: Callable[..., Engine], pipe: Any) -> None:
    encode, seen = pipe.vae.encode, []
    pipe.vae.encode = lambda x, *a, **k: (seen.append(x.clone()), encode(x, *a, **k))[1]
    pictures = painted(make(), 0.5)
    assert min(pairs(pictures)) > LEVELS
    encoded = [one[0] for one in seen[: len(FILLS)]]
    for at, (row, sent) in enumerate(zip(rows(0.5), encoded, strict=True)):
        pixels = ((sent.permute(1, 2, 0).float() / 2 + 0.5) * 255).round().numpy()
        assert np.array_equal(pixels, row.rgb), FILLS[at]


def test_a_filled_row_does_not_depend_on_its_batch(make: Callable[..., Engine]) -> None:
    together = painted(make(), 0.5)
    for row, one in zip(rows(0.5), together, strict=True):
        (single,) = make().paint([row])
        assert difference(image(single), one) <= LEVELS


def apart(pipe: Any, strength: float) -> list[float]:
    """By how much the final latents of each two fills differ, as a share of the largest."""
    decode, seen = pipe.vae.decode, []
    pipe.vae.decode = lambda latents, *a, **k: (seen.append(latents.clone()), decode(latents, *a, **k))[1]
    try:
        for row in rows(strength):
            list(Engine(painting_model(pipe)).paint([row]))
    finally:
        del pipe.vae.decode
    return [float((one - other).abs().max() / one.abs().max()) for at, one in enumerate(seen) for other in seen[:at]]


def test_a_model_of_nine_channels_does_not_see_the_fill_at_strength_1(pipe: Any) -> None:
    assert max(apart(pipe, 1.0)) == 0.0, "as STARTS_AT_NOISE in worker/decoding.py says"
    assert min(apart(pipe, 0.9999)) > 0, "the default is below 1"


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_model_of_four_channels_sees_it_at_any_strength(strength: float) -> None:
    assert min(apart(single_files.plain(instantiate("tiny-random")), strength)) > 1e-4
