"""Tiles show what the whole picture shows, whatever kind of file it is and however it is turned."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.errors import ImageError
from inpaint_ops.images.preview import mask_layer, preview, upright_size
from inpaint_ops.images.tiles import MAX_LEVEL, SIDE, TILE, Block, mask_tiles, picture_tiles

MAX_PIXELS = 100_000_000
SPAN = TILE * SIDE


def photo(width: int, height: int) -> Image.Image:
    """Smooth, so that how it is scaled hardly matters, and different everywhere."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, (across + down) / 2], axis=2).astype(np.uint8))


def stored(picture: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def together(tiles: list[bytes]) -> np.ndarray:
    """A block's tiles side by side."""
    rows = []
    for row in range(SIDE):
        line = [np.asarray(Image.open(io.BytesIO(tile))) for tile in tiles[row * SIDE : (row + 1) * SIDE] if tile]
        if line:
            assert all(tile.shape[1] == TILE for tile in line[:-1])
            rows.append(np.concatenate(line, axis=1))
    return np.concatenate(rows)


def whole(data: bytes, level: int) -> np.ndarray:
    """The picture by all its blocks."""
    width, height = (-(-side // 2**level) for side in upright_size(data, max_pixels=MAX_PIXELS))
    rows = []
    for row in range(-(-height // SPAN)):
        blocks = [Block(level, column, row) for column in range(-(-width // SPAN))]
        line = [together(picture_tiles(data, block, max_pixels=MAX_PIXELS)) for block in blocks]
        rows.append(np.concatenate(line, axis=1))
    found = np.concatenate(rows)
    assert found.shape[:2] == (height, width)
    return found


def assert_alike(found: np.ndarray, data: bytes) -> None:
    shown = Image.open(io.BytesIO(preview(data, max(found.shape), max_pixels=MAX_PIXELS)))
    resized = np.asarray(shown.resize((found.shape[1], found.shape[0])))
    apart = np.abs(found.astype(int) - resized.astype(int))
    assert apart.max() <= 16 and apart.mean() <= 2, "two JPEGs of the same"


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_the_tiles_of_all_blocks_are_the_picture(kind: str, level: int) -> None:
    options = {"quality": 98} if kind == "JPEG" else {}
    data = stored(photo(4711, 1301), kind, **options)
    assert_alike(whole(data, level), data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_picture_that_is_turned_has_its_tiles_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(photo(4200, 601), kind, exif=exif)
    assert upright_size(data, max_pixels=MAX_PIXELS) == ((4200, 601) if orientation < 5 else (601, 4200))
    for level in (0, 1):
        assert_alike(whole(data, level), data)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_pixels_is_shown_as_the_small_picture_shows_it(mode: str) -> None:
    picture = photo(1501, 1100)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        picture.putalpha(picture.getchannel(0))
        picture = picture.convert(mode)
    elif mode == "1":
        picture = picture.convert("L").point(lambda level: 255 if level > 128 else 0).convert("1", dither=0)
    else:
        picture = picture.convert(mode)
    data = stored(picture, "TIFF" if mode == "CMYK" else "PNG")
    for level in (0, 1):
        found, shown = whole(data, level), preview(data, -(-1501 // 2**level), max_pixels=MAX_PIXELS)
        reference = np.asarray(Image.open(io.BytesIO(shown)).resize(found.shape[1::-1]))
        apart = np.abs(found.astype(int) - reference.astype(int))
        assert np.mean(apart > 24) < 0.01, "but for the edges of black and white"


def test_the_colour_profile_goes_along() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = stored(photo(1200, 300), "PNG", icc_profile=profile)
    tile = picture_tiles(data, Block(0, 0, 0), max_pixels=MAX_PIXELS)[0]
    for shown in (tile, preview(data, 256, max_pixels=MAX_PIXELS)):
        assert Image.open(io.BytesIO(shown)).info["icc_profile"] == profile


@pytest.mark.parametrize("block", [(0, 1, 0), (0, 0, 1), (1, 1, 0), (MAX_LEVEL + 1, 0, 0), (0, -1, 0), (-1, 0, 0)])
def test_a_block_that_the_picture_has_not_is_refused(block: tuple[int, int, int]) -> None:
    data = stored(photo(900, 500), "PNG")
    with pytest.raises(ImageError, match="has no such tile"):
        picture_tiles(data, Block(*block), max_pixels=MAX_PIXELS)


def test_a_masks_tiles_lie_where_the_mask_does() -> None:
    mask = np.zeros((900, 1400), np.uint8)
    mask[200:300, 1000:1300] = 255
    data = stored(Image.fromarray(mask), "PNG")
    found = together(mask_tiles(data, Block(0, 0, 0), (1400, 900), max_pixels=MAX_PIXELS))
    assert np.array_equal(found[..., 3] > 0, mask > 0)
    inverted = together(mask_tiles(data, Block(0, 0, 0), (1400, 900), max_pixels=MAX_PIXELS, invert=True))
    assert np.array_equal(inverted[..., 3] > 0, mask == 0)
    scaled = together(mask_tiles(data, Block(0, 0, 0), (2800, 1800), max_pixels=MAX_PIXELS))
    assert np.array_equal(scaled[..., 3] > 0, mask.repeat(2, axis=0).repeat(2, axis=1) > 0)
    small = np.asarray(Image.open(io.BytesIO(mask_layer(data, 1400, max_pixels=MAX_PIXELS))))
    assert np.array_equal(small, found), "the same at the mask's own size"


def test_noise_fits_into_an_answer() -> None:
    from inpaint_ops.previews.messages import MAX_REPLY, join_parts

    noise = np.random.default_rng(1).integers(0, 256, (SPAN, SPAN, 3), np.uint8)
    data = stored(Image.fromarray(noise), "BMP")
    assert len(join_parts(picture_tiles(data, Block(0, 0, 0), max_pixels=MAX_PIXELS))) < MAX_REPLY * 0.7
