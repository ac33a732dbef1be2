"""Files beside an image: the patch laid over the source is the image again, the mask is the one that was used."""

from __future__ import annotations

import json
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from inpaint_ops.images import (
    PREVIEW_BYTES,
    PREVIEW_SIZE,
    JoinOptions,
    Making,
    Metadata,
    Piece,
    find_regions,
    join,
    marked,
    mask_file,
    patch_file,
    patch_layer,
    place,
    preview_file,
)
from inpaint_ops.images.compositing import lay
from inpaint_ops.images.png import ancillary
from inpaint_ops.images.provenance import SOURCE_TYPE
from tests.support.patches import WAYS, masks, source_of
from tests.support.pictures import Array, noise


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


@settings(deadline=None, max_examples=150)
@given(masks(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]), WAYS)
def test_the_patch_laid_over_the_source_is_the_image(mask: Array, channels: int, dtype: type, way: JoinOptions) -> None:
    source = source_of(noise(*mask.shape, channels, dtype=dtype, seed=3))
    placement = place(source.size, mask, native=32)
    painted = noise(placement.working[1], placement.working[0], 3, seed=4)
    done = join(source, mask, placement, painted, way)
    assert done.patch is not None
    x0, y0, x1, y1 = done.box
    assert done.patch.shape[:2] == (y1 - y0, x1 - x0)
    box, layer = patch_layer(done.weights, [(done.box, done.patch, done.weights[y0:y1, x0:x1])], source.pixels)
    assert layer.dtype == dtype and layer.shape[2] == (2 if channels < 3 else 4)
    x0, y0, x1, y1 = box
    inside = done.weights[y0:y1, x0:x1]
    assert np.array_equal(layer[..., -1], inside.astype(dtype) * (257 if dtype == np.uint16 else 1))
    assert not layer[inside == 0].any(), "nothing of the source is in it"
    again = source.pixels.copy()
    lay(again[y0:y1, x0:x1], layer[..., :-1], inside, alpha=way.alpha)
    assert np.array_equal(again, done.pixels)


def test_several_pieces_become_one_layer() -> None:
    """Two far regions, each of which is painted by itself; the ring of one reaches over the other."""
    mask = np.zeros((200, 300), np.uint8)
    mask[10:30, 10:30], mask[20:25, 250:280], mask[28:32, 5:40] = 255, 128, 255
    source, done, pieces = source_of(noise(200, 300, 3)), source_of(noise(200, 300, 3)), list[Piece]()
    regions = find_regions(mask, native=32)
    assert len(regions.boxes) > 1
    weights = np.zeros_like(mask)
    for number in range(len(regions.boxes)):
        own, placement = regions.weights(mask, number), regions.place(mask, number, native=32)
        painted = noise(placement.working[1], placement.working[0], 3, seed=number)
        one = join(done, own, placement, painted, JoinOptions(blend="poisson"))
        assert one.patch is not None
        x0, y0, x1, y1 = one.box
        pieces.append((one.box, one.patch, one.weights[y0:y1, x0:x1]))
        done, weights = source_of(one.pixels), np.maximum(weights, one.weights)
    (x0, y0, x1, y1), layer = patch_layer(weights, pieces, source.pixels)
    assert (x0, y0, x1, y1) == (5, 10, 280, 32)
    again = source.pixels.copy()
    lay(again[y0:y1, x0:x1], layer[..., :-1], weights[y0:y1, x0:x1], alpha="fill")
    assert np.array_equal(again, done.pixels)


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_the_patchs_file_says_where_it_belongs(channels: int, mode: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    layer = noise(20, 30, channels)
    data = patch_file(layer, (7, 9, 37, 29), icc=profile)
    with opened(data) as image:
        assert (image.mode, image.size, image.info["icc_profile"]) == (mode, (30, 20), profile)
        assert np.array_equal(np.asarray(image), layer)
    [(_, offset)] = ancillary(data, {b"oFFs"})
    assert offset == (7).to_bytes(4, "big") + (9).to_bytes(4, "big") + b"\0"


@pytest.mark.parametrize("effort", ["fast", "small"])
def test_the_masks_file_is_its_weights(effort: Any) -> None:
    weights = noise(31, 17, 1)
    with opened(mask_file(weights, effort=effort)) as image:
        assert image.mode == "L" and np.array_equal(np.asarray(image), weights)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1200, 2400), (808, 800)), ((2400, 1200), (800, 808)), ((10, 10), (28, 10)), ((1, 1), (10, 1)),
     ((9000, 1), (800, 10)), ((1, 9000), (10, 800)), ((500, 400), (500, 808))],
)  # fmt: skip
def test_a_preview_shows_both_and_enlarges_nothing(size: tuple[int, int], expected: tuple[int, int]) -> None:
    before, after = np.zeros((size[1], size[0], 3), np.uint8), np.full((size[1], size[0], 3), 255, np.uint8)
    with opened(preview_file(before, after, icc=None)) as image:
        assert (image.format, image.size) == ("WEBP", expected) and max(image.size) <= PREVIEW_SIZE
        shown = np.asarray(image.convert("L")).astype(int)
        assert shown[0, 0] <= 40 and shown[-1, -1] >= 215


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_preview_of_noise_stays_below_the_limit_that_the_supervisor_sets(channels: int, kind: type) -> None:
    pixels = noise(900, 900, channels, dtype=kind)
    assert len(preview_file(pixels, pixels, icc=None)) <= PREVIEW_BYTES


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_opencv_opens_a_patch_and_a_mask_as_they_are(dtype: type) -> None:
    layer, weights = noise(20, 30, 4, dtype=dtype), noise(20, 30, 1)
    read = cv2.imdecode(np.frombuffer(patch_file(layer, (3, 4, 33, 24), icc=None), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read.dtype == dtype and np.array_equal(cv2.cvtColor(read, cv2.COLOR_BGRA2RGBA), layer)
    assert np.array_equal(cv2.imdecode(np.frombuffer(mask_file(weights), np.uint8), cv2.IMREAD_UNCHANGED), weights)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_a_patchs_place_and_the_mark_of_a_patch_and_a_preview(tmp_path: Path) -> None:
    making = Making("inpaint-ops", "studio/sdxl", "f" * 64, "a boat", None, 7, 29, 7.5, 1.0, "euler", (64, 64))
    pixels = noise(40, 60, 3)
    for name, data in (
        ("patch.png", patch_file(noise(20, 30, 4), (3, 4, 33, 24), icc=None, metadata=_mark(making, "png"))),
        ("preview.webp", preview_file(pixels, pixels, icc=None, metadata=_mark(making, "webp"))),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        out = subprocess.run(["exiftool", "-j", "-G1", "-all", path], capture_output=True, check=True).stdout
        found = json.loads(out)
        assert found[0]["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE and "ExifTool:Warning" not in found[0]
        assert name != "patch.png" or found[0]["PNG:ImageOffset"] == "3, 4 (pixels)"


def _mark(making: Making, kind: str) -> Metadata:
    return marked(Metadata(), making, policy="full", format=kind)[0]
