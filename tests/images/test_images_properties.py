"""Images, by property: whatever the sizes, the mask and the crop."""
# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inpaint_ops.errors import ImageError
from inpaint_ops.images import (
    Source,
    composite,
    decode_mask,
    decode_source,
    encode,
    place,
    to_working,
    working_sizes,
)
from tests.support.pictures import MAX_PIXELS, file_of, noise
from tests.support.random_masks import CROPS, NATIVES, RELAXED, masks


def source_like(mask: np.ndarray, channels: int = 3, dtype: type = np.uint8) -> Source:
    pixels = noise(*mask.shape, channels, dtype=dtype)
    rgb = np.broadcast_to(np.uint8(128), (*mask.shape, 3))
    return Source(pixels, rgb, None, "png", ())


@RELAXED
@given(masks(), NATIVES, CROPS)
def test_placements_fit_the_source_and_the_canvas(mask: np.ndarray, native: int, crop: int) -> None:
    height, width = mask.shape
    placement = place((width, height), mask, native=native, crop=crop)
    x0, y0, x1, y1 = placement.box
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert np.count_nonzero(mask[y0:y1, x0:x1]) == np.count_nonzero(mask)
    assert placement.working in working_sizes(native)
    left, top, right, bottom = placement.inner
    assert 0 <= left < right <= placement.working[0] and 0 <= top < bottom <= placement.working[1]
    assert left % 8 == top % 8 == 0
    # The aspect is kept, to the pixel that rounding takes; and one side fills the canvas.
    assert right - left == placement.working[0] or bottom - top == placement.working[1]
    scale = min(placement.working[0] / (x1 - x0), placement.working[1] / (y1 - y0))
    assert abs((right - left) - (x1 - x0) * scale) <= 1 and abs((bottom - top) - (y1 - y0) * scale) <= 1


@RELAXED
@given(masks(), NATIVES, CROPS)
def test_every_counted_pixel_falls_into_a_masked_cell(mask: np.ndarray, native: int, crop: int) -> None:
    source = source_like(mask)
    placement = place(source.size, mask, native=native, crop=crop)
    rgb, working = to_working(source, mask, placement)
    assert rgb.shape == (*placement.working[::-1], 3) and working.shape == placement.working[::-1]
    cells = working[::8, ::8]
    assert np.array_equal(cells.repeat(8, 0).repeat(8, 1), working) and set(np.unique(working)) <= {0, 255}
    x0, y0, x1, y1 = placement.box
    left, top, right, bottom = placement.inner
    counted = mask >= (128 if mask.max() >= 128 else 1)
    ys, xs = np.nonzero(counted)
    scale_x, scale_y = (right - left) / (x1 - x0), (bottom - top) / (y1 - y0)
    epsilon = 1e-6
    for fraction_x, fraction_y in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)):  # of the pixel's area
        cx = (left + (xs - x0 + np.clip(fraction_x, epsilon, 1 - epsilon)) * scale_x) // 8
        cy = (top + (ys - y0 + np.clip(fraction_y, epsilon, 1 - epsilon)) * scale_y) // 8
        assert (cells[cy.astype(int), cx.astype(int)] == 255).all()
    # And no more than that: a masked cell holds a part of a counted pixel.
    for cell_y, cell_x in zip(*np.nonzero(cells), strict=True):
        rows = [int(np.floor((cell_y * 8 - top) / scale_y)) + y0, int(np.ceil((cell_y * 8 + 8 - top) / scale_y)) + y0]
        columns = [
            int(np.floor((cell_x * 8 - left) / scale_x)) + x0,
            int(np.ceil((cell_x * 8 + 8 - left) / scale_x)) + x0,
        ]
        assert counted[max(0, rows[0]) : rows[1], max(0, columns[0]) : columns[1]].any()


@RELAXED
@given(
    masks(), NATIVES, CROPS, st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 99)
)
def test_composites_change_nothing_outside_the_mask(
    mask: np.ndarray, native: int, crop: int, channels: int, dtype: type, seed: int
) -> None:
    source = source_like(mask, channels, dtype)
    placement = place(source.size, mask, native=native, crop=crop)
    painted = noise(placement.working[1], placement.working[0], seed=seed)
    out = composite(source, mask, placement, painted)
    assert out.shape == source.pixels.shape and out.dtype == source.pixels.dtype
    assert np.array_equal(out[mask == 0], source.pixels[mask == 0])


@RELAXED
@given(st.sampled_from(working_sizes(64)), st.data())
def test_wholly_masked_pixels_are_the_painted_ones_where_nothing_is_resized(
    size: tuple[int, int], data: st.DataObject
) -> None:
    width, height = size
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).choice(
        np.array([0, 77, 255], np.uint8), (height, width)
    )
    mask[0, 0] = 255
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        source = source_like(mask, 3, dtype)
        placement = place(size, mask, native=64)
        assert placement.inner_size == placement.box_size == size
        painted = noise(height, width, seed=7)
        out = composite(source, mask, placement, painted)
        assert np.array_equal(out[mask == 255], painted[mask == 255].astype(dtype) * factor)


@RELAXED
@given(masks(), st.booleans(), st.integers(0, 30), st.floats(0, 30))
def test_effective_masks_only_grow_by_dilation_and_never_by_blur(
    mask: np.ndarray, invert: bool, dilate: int, blur: float
) -> None:
    if invert and mask.min() == 255:
        mask[0, 0] = 0
    assume(mask.any())  # black all over is refused, inverted too
    data, size = file_of(mask), mask.shape[::-1]
    drawn = decode_mask(data, size=size, max_pixels=MAX_PIXELS, threshold=0, invert=invert)
    assert np.array_equal(drawn, 255 - mask if invert else mask)
    grown = decode_mask(data, size=size, max_pixels=MAX_PIXELS, threshold=0, invert=invert, dilate=dilate)
    assert (grown >= drawn).all()
    soft = decode_mask(data, size=size, max_pixels=MAX_PIXELS, threshold=0, invert=invert, dilate=dilate, blur=blur)
    assert np.array_equal(soft > 0, grown > 0) and (soft <= grown).all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from(["png", "tiff"]),
    st.integers(0, 99),
)
def test_lossless_files_give_every_pixel_back(
    height: int, width: int, channels: int, dtype: type, format: str, seed: int
) -> None:
    pixels = noise(height, width, channels, dtype=dtype, seed=seed)
    back = decode_source(encode(pixels, format=format, icc=None), max_pixels=MAX_PIXELS)  # type: ignore[arg-type]
    if format == "tiff" and channels == 2 and dtype == np.uint16:
        pixels = pixels[..., [0, 0, 0, 1]]
    assert back.pixels.dtype == pixels.dtype and np.array_equal(back.pixels, pixels)


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM"])
)
def test_foreign_bytes_are_an_image_error_and_nothing_else(data: bytes, start: bytes) -> None:
    for raw in (start + data, b"RIFF" + data[:4].ljust(4, b"\0") + b"WEBP" + data):
        try:
            decode_source(raw, max_pixels=MAX_PIXELS)
        except ImageError as error:
            assert "\n" not in str(error)
