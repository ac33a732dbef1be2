"""The small picture of a mask shows what the mask means for painting, whatever it looks like."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.config import MaskChannel
from inpaint_ops.errors import MaskError
from inpaint_ops.images.preview import mask_layer, mask_overlay
from inpaint_ops.previews import Helper, Job
from inpaint_ops.previews.helper import Whole
from inpaint_ops.records import MaskMeaning
from tests.images.mask_kinds import EXACT, HEIGHT, WIDTH, drawn_shape, full
from tests.support.pictures import MAX_PIXELS, Array, png

OPACITY = 0.6


def shown(layer: bytes) -> Array:
    """What a layer paints: (H, W) uint8, 0 to 153."""
    with Image.open(BytesIO(layer)) as image:
        assert (image.format, image.mode) == ("PNG", "RGBA")
        return np.asarray(image)[..., 3]


def expected(weights: Array) -> Array:
    return np.round(weights * OPACITY).astype(np.uint8)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("invert", [False, True])
def test_a_layer_shows_what_is_painted(kind: str, invert: bool) -> None:
    rng = np.random.default_rng(3)
    data, weights = EXACT[kind](drawn_shape(rng), rng)
    layer = shown(mask_layer(data, 256, max_pixels=MAX_PIXELS, invert=invert))
    assert layer.shape == (HEIGHT, WIDTH)
    assert np.abs(layer.astype(int) - expected(255 - weights if invert else weights)).max() <= 1


def coloured(shape: Array) -> bytes:
    """A red shape on the left of a blue one of the same brightness, on white: what is meant must be asked for."""
    pixels = np.full((*shape.shape, 3), 255, np.uint8)
    pixels[shape] = (200, 0, 0)
    pixels[np.flip(shape, axis=1) & ~shape] = (0, 100, 10)
    return png(pixels)


def test_the_channel_and_the_threshold_of_the_row_decide() -> None:
    shape = np.zeros((40, 80), bool)
    shape[8:30, 6:30] = True
    data = coloured(shape)
    with pytest.raises(MaskError):
        mask_layer(data, 256, max_pixels=MAX_PIXELS)
    layer = shown(mask_layer(data, 256, max_pixels=MAX_PIXELS, channel="green", threshold=50, invert=True))
    assert np.array_equal(layer, expected(full(shape)))


@pytest.mark.parametrize(
    ("channel", "threshold", "invert"), [("green", 50, True), ("red", 100, False), ("no such channel", 200, False)]
)
def test_a_rows_record_becomes_the_job(channel: str, threshold: int, invert: bool) -> None:
    meaning = MaskMeaning(mask_channel=channel, mask_threshold=threshold, mask_invert=invert)
    job = Job.of_mask(meaning, 64, 10**6)
    known: MaskChannel = job.channel
    assert (known, job.threshold, job.invert) == (channel if " " not in channel else "auto", threshold, invert)


@pytest.mark.parametrize(("kind", "module"), [("AVIF", "PIL"), ("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_the_locked_process_shows_the_formats_of_plugins(kind: str, module: str) -> None:
    """It opens no file: what reads a picture has to be there before."""
    plugin = pytest.importorskip(module)
    sink, red_one = BytesIO(), Image.new("RGB", (64, 48), (200, 30, 30))
    if kind == "HEIF":
        plugin.from_pillow(red_one).save(sink)
    else:
        red_one.save(sink, kind)
    with (
        Helper() as helper,
        Image.open(BytesIO(helper.make(Job("picture", 32, 10**6), [Whole(sink.getvalue())]).data)) as image,
    ):
        assert image.size == (32, 24)
        red, green, _ = image.convert("RGB").getpixel((16, 12))  # type: ignore[misc]
    assert red > 170 and green < 60


def test_the_locked_process_makes_it_and_lays_it_over_the_source() -> None:
    shape = np.zeros((40, 80), bool)
    shape[8:30, 6:30] = True
    source = png(np.full((40, 80, 3), 90, np.uint8))
    asked: dict[str, Any] = {"mask_channel": "green", "mask_threshold": 50, "mask_invert": True}
    with Helper() as helper:
        layer = helper.make(Job.of_mask(MaskMeaning(**asked), 80, 10**6), [Whole(coloured(shape))]).data
        assert np.array_equal(shown(layer), expected(full(shape)))
        picture = helper.make(Job("overlay", 80, 10**6), [Whole(source), Whole(layer)]).data
        assert picture == mask_overlay(source, layer)
    with Image.open(BytesIO(picture)) as image:
        pixels = np.asarray(image).astype(int)
    red = pixels[..., 0] - pixels[..., 1]
    assert (red[10:28, 8:28] > 60).all() and (red[:, 40:] < 20).all()
