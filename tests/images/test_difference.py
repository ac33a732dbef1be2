"""The difference shows every pixel that is not the source's own, and no other."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inpaint_ops.errors import ImageError
from inpaint_ops.images import encode
from inpaint_ops.images.difference import difference
from inpaint_ops.images.tiles import SIDE, TILE, Block

MAX_PIXELS = 10_000_000
RNG = np.random.default_rng(5)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def png(pixels: np.ndarray) -> bytes:
    return encode(np.ascontiguousarray(pixels), format="png", icc=None)


def shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]),
       st.integers(1, 60), st.data())  # fmt: skip
def test_a_single_pixel_that_changed_is_counted_and_shown_at_any_size(
    width: int, height: int, channels: int, dtype: type, longest: int, draw: st.DataObject
) -> None:
    top = np.iinfo(dtype).max
    source = RNG.integers(0, top, (height, width, channels), dtype)
    source = source[..., 0] if channels == 1 else source
    result = source.copy()
    x, y = draw.draw(st.integers(0, width - 1)), draw.draw(st.integers(0, height - 1))
    assert difference(png(source), png(source), max_pixels=MAX_PIXELS).changed == 0
    pixel = result[y, x : x + 1] if channels == 1 else result[y, x]
    pixel[0] += 1 if pixel[0] < top else -1
    found = difference(png(source), png(result), max_pixels=MAX_PIXELS, box=(0, 0, x, height))
    assert (found.changed, int(found.levels.max()), found.levels[y, x]) == (1, 1, 1)
    assert found.outside == 1, "the box ends just left of it"
    inside = difference(png(source), png(result), max_pixels=MAX_PIXELS, box=(x, y, x + 1, y + 1))
    assert inside.outside == 0
    picture = shown(inside.picture(longest))
    assert max(picture.shape[:2]) <= longest
    assert np.count_nonzero(picture.any(axis=2)) == 1, "however small the picture is"
    assert picture.max() >= 32, "bright enough to be seen"


def test_what_changed_where_nothing_was_painted_is_red_and_the_rest_is_gray_on_black() -> None:
    source = RNG.integers(0, 200, (90, 120, 3), np.uint8)
    result = source.copy()
    result[10:20, 30:50] += 40
    result[70, 100] += 3
    found = difference(png(source), png(result), max_pixels=MAX_PIXELS, box=(30, 10, 50, 20))
    assert (found.changed, found.outside) == (201, 1)
    for picture in (shown(found.picture(400)), shown(found.tiles(Block(0, 0, 0))[0])):
        assert picture.shape == (90, 120, 3)
        inside = picture[10:20, 30:50]
        assert np.all(inside == inside[0, 0]) and inside[0, 0][0] > 130 and len(set(inside[0, 0])) == 1
        assert picture[70, 100][0] > 0 and not picture[70, 100][1:].any()
        picture = picture.copy()
        picture[10:20, 30:50] = picture[70, 100] = 0
        assert not picture.any(), "what did not change is black"
    assert difference(png(source), png(result), max_pixels=MAX_PIXELS).outside is None


def test_tiles_are_parts_of_the_difference() -> None:
    source = np.zeros((TILE + 300, 2 * TILE + 77), np.uint8)
    result = source.copy()
    result[TILE + 5, 2 * TILE + 9] = 200
    found = difference(png(source), png(result), max_pixels=MAX_PIXELS, box=(0, 0, 10, 10))
    tiles = found.tiles(Block(0, 0, 0))
    assert [bool(tile) for tile in tiles] == [True, True, True, False] * 2 + [False] * 8
    assert shown(tiles[SIDE + 2])[5, 9].tolist() == shown(found.picture(2 * TILE + 77))[TILE + 5, 2 * TILE + 9].tolist()
    assert not any(shown(tile).any() for tile in tiles[:3])
    half = shown(found.tiles(Block(1, 0, 0))[1])
    assert np.argwhere(half.any(axis=2)).tolist() == [[(TILE + 5) // 2, (2 * TILE + 9) // 2 - TILE]]
    with pytest.raises(ImageError, match="no such tile"):
        found.tiles(Block(0, 1, 0))


@pytest.mark.parametrize("kind", ["turned", "palette", "gray", "transparent", "jpeg"])
def test_files_are_compared_as_they_were_painted_from(kind: str) -> None:
    """The result of an untouched source is the source, upright; a decoder must not tell them apart."""
    from inpaint_ops.images import decode_source

    picture = Image.fromarray(RNG.integers(0, 255, (60, 90, 3), np.uint8))
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    match kind:
        case "turned":
            picture.save(sink, "PNG", exif=exif)
        case "palette":
            picture.quantize(200).save(sink, "PNG")
        case "gray":
            picture.convert("L").save(sink, "PNG")
        case "transparent":
            picture.save(sink, "PNG", transparency=picture.getpixel((3, 3)))
        case "jpeg":
            picture.save(sink, "JPEG", exif=exif)
    result = decode_source(sink.getvalue(), max_pixels=MAX_PIXELS).pixels.copy()
    assert difference(sink.getvalue(), png(result), max_pixels=MAX_PIXELS).changed == 0
    result[0, 0] ^= 1
    assert difference(sink.getvalue(), png(result), max_pixels=MAX_PIXELS).changed == 1


def test_pictures_of_different_kinds_are_compared_as_they_are_seen() -> None:
    gray = RNG.integers(0, 255, (30, 40), np.uint8)
    assert difference(png(gray), png(np.dstack([gray] * 3)), max_pixels=MAX_PIXELS).changed == 0
    clear = np.dstack([gray, gray, gray, np.zeros_like(gray)])
    assert difference(png(clear), png(np.full((30, 40, 3), 255, np.uint8)), max_pixels=MAX_PIXELS).changed == 0


def test_pictures_of_different_sizes_cannot_be_compared() -> None:
    with pytest.raises(ImageError, match=r"^the source is 4x3 and the result 3x3"):
        difference(png(np.zeros((3, 4), np.uint8)), png(np.zeros((3, 3), np.uint8)), max_pixels=MAX_PIXELS)
    with pytest.raises(ImageError, match="result"):
        difference(png(np.zeros((3, 4), np.uint8)), b"no picture", max_pixels=MAX_PIXELS)
