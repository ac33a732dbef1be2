"""The small pictures that are written while painting: small, never enlarged, of any pixels that we write."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from inpaint_ops.images import THUMBNAIL_BYTES, thumbnails


def made(pixels: np.ndarray, **options: Any) -> dict[int, Image.Image]:
    return {size: Image.open(BytesIO(data)) for size, data in thumbnails(pixels, **options)}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3000, 1500), {256: (256, 128), 1600: (1600, 800)}),
        ((1500, 3000), {256: (128, 256), 1600: (800, 1600)}),
        ((400, 300), {256: (256, 192), 1600: (400, 300)}),
        ((256, 10), {256: (256, 10)}),
        ((1, 1), {256: (1, 1)}),
        ((5000, 1), {256: (256, 1), 1600: (1600, 1)}),
    ],
)
def test_sizes_are_as_asked_and_nothing_is_enlarged(size: tuple[int, int], expected: dict[int, Any]) -> None:
    found = made(np.zeros((size[1], size[0], 3), np.uint8))
    assert {longest: image.size for longest, image in found.items()} == expected
    assert {image.format for image in found.values()} == {"WEBP"}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_any_pixels_that_we_write_are_shown(kind: type, channels: int | None) -> None:
    """A gray of half the range stays that; what is transparent is white."""
    half = np.iinfo(kind).max // 2
    pixels = np.full((300, 400) if channels is None else (300, 400, channels), half, kind)
    if channels in (2, 4):
        pixels[:, :200, -1], pixels[:, 200:, -1] = np.iinfo(kind).max, 0
    shown = np.asarray(made(pixels)[256].convert("RGB")).astype(int)
    assert abs(shown[96, 60] - 127).max() <= 2
    if channels in (2, 4):
        assert shown[96, 200].min() >= 253


def test_noise_stays_below_the_limit_that_the_supervisor_sets() -> None:
    noise = np.random.default_rng(7).integers(0, 256, (1600, 1600, 3), np.uint8)
    for size, data in thumbnails(noise):
        assert len(data) <= THUMBNAIL_BYTES[size]


def test_a_small_profile_is_kept_and_one_of_gray_or_a_large_one_is_not() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.zeros((300, 400, 3), np.uint8)
    assert {image.info.get("icc_profile") for image in made(pixels, icc=profile).values()} == {profile}
    gray = profile[:16] + b"GRAY" + profile[20:]
    for other in (gray, profile + bytes(5000), None):
        assert {image.info.get("icc_profile") for image in made(pixels, icc=other).values()} == {None}
