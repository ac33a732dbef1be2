"""What the readers of images and masks promise of foreign bytes, and what is placed and put back by them."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from PIL import Image

from inpaint_ops.errors import ImageError, MaskError
from inpaint_ops.images import (
    LOSSLESS,
    MaskChannel,
    Source,
    composite,
    decode_mask,
    decode_source,
    encode,
    place,
    to_working,
    working_sizes,
)
from inpaint_ops.images.metadata import NOTHING, Metadata, Policy
from inpaint_ops.images.png import SIGNATURE
from inpaint_ops.images.reading import read_pixels, to_rgb
from inpaint_ops.images.tiles import TILE
from inpaint_ops.previews import Job, split_parts
from inpaint_ops.previews.host import make as make_preview
from inpaint_ops.previews.messages import MAX_REPLY
from tests.fuzz.promises import check_line

MAX_PIXELS = 1 << 16


def _variants(data: bytes) -> Iterator[bytes]:
    """The file, and where it is a PNG the same with every checksum put right: else nothing mutated is ever decoded."""
    yield data
    if not data.startswith(SIGNATURE):
        return
    mended, at = bytearray(data), len(SIGNATURE)
    while at + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, at)
        end = at + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    if mended != data:
        yield bytes(mended)


def _size_in_header(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def source(data: bytes) -> None:
    """A source image."""
    for raw in _variants(data):
        try:
            decoded = decode_source(raw, max_pixels=MAX_PIXELS)
        except ImageError as error:
            check_line(str(error))
            continue
        width, height = decoded.size
        assert decoded.size in ((size := _size_in_header(raw)), size[::-1]), "the size is the header's"
        assert 0 < width * height <= MAX_PIXELS
        assert decoded.pixels.dtype in (np.uint8, np.uint16)
        assert decoded.pixels.shape[2:] in ((), (2,), (3,), (4,))
        assert decoded.rgb.shape == (height, width, 3) and decoded.rgb.dtype == np.uint8
        for said in decoded.conversions:
            check_line(said)
        _check_kept(decoded.pixels, decoded.icc, decoded.metadata)
        for policy in get_args(Policy):
            held = decode_source(raw, max_pixels=MAX_PIXELS, metadata=policy)
            for written in ("webp", "tiff", "jpeg", "avif"):
                encode(held.pixels, format=written, icc=held.icc, metadata=held.metadata)


def _check_kept(pixels: np.ndarray[Any, Any], icc: bytes | None, metadata: Metadata = NOTHING) -> None:
    back = decode_source(encode(pixels, format="png", icc=icc, metadata=metadata), max_pixels=MAX_PIXELS)
    assert back.pixels.dtype == pixels.dtype and np.array_equal(back.pixels, pixels), "a PNG holds every pixel"


CHANNELS = get_args(MaskChannel)


def mask(data: bytes) -> None:
    """A mask: four bytes that say how it is shaped, then the file."""
    if len(data) < 4:
        return
    invert, dilate, blur = bool(data[0] & 1), data[1] % 64, data[2] / 8
    read: dict[str, Any] = {
        "channel": CHANNELS[(data[0] >> 1) % len(CHANNELS)], "threshold": data[3] if data[0] & 0x80 else None
    }  # fmt: skip
    for raw in _variants(data[4:]):
        try:
            pixels = read_pixels(raw, what="mask", max_pixels=MAX_PIXELS).array
            size = (pixels.shape[1], pixels.shape[0])
            drawn = decode_mask(raw, size=size, max_pixels=MAX_PIXELS, invert=invert, **read)
            grown = decode_mask(raw, size=size, max_pixels=MAX_PIXELS, invert=invert, **read, dilate=dilate)
            soft = decode_mask(raw, size=size, max_pixels=MAX_PIXELS, invert=invert, **read, dilate=dilate, blur=blur)
        except ImageError as error:
            check_line(str(error))
            continue
        for weights in (drawn, grown, soft):
            assert weights.shape == size[::-1] and weights.dtype == np.uint8 and weights.any()
        assert (grown >= drawn).all(), "dilation only grows"
        assert np.array_equal(soft > 0, grown > 0) and (soft <= grown).all(), "blur never reaches outside"
        try:
            decode_mask(raw, size=(size[0] + 1, size[1]), max_pixels=MAX_PIXELS)
        except MaskError as error:
            check_line(str(error))
        else:
            raise AssertionError("a mask of another size is refused")


def pictures(data: bytes) -> None:
    """A file that a page or a report shows: a byte of what is asked for, then the file."""
    if not data:
        return
    kind, longest = ("picture", "mask")[data[0] & 1], (16, 256)[data[0] >> 1 & 1]
    job = Job(kind, longest, MAX_PIXELS, invert=bool(data[0] & 4))  # type: ignore[arg-type]
    for raw in _variants(data[1:]):
        try:
            size: tuple[int, int] | None = decode_source(raw, max_pixels=MAX_PIXELS).size
        except ImageError:
            size = None  # a preview may still show what is there
        try:
            small = make_preview(job, [raw])
        except ImageError as error:
            check_line(str(error))
            is_unclear = kind == "mask" and isinstance(error, MaskError)
            assert size is None or is_unclear, f"what can be painted can be shown: {error}"
            continue
        with Image.open(io.BytesIO(small)) as shown:
            shown.load()
            assert (shown.format, shown.mode) in ((("PNG", "RGBA"),) if kind == "mask" else (("JPEG", "RGB"),))
            if size is not None:
                scale = min(1.0, longest / max(size))
                assert shown.size == tuple(max(1, round(side * scale)) for side in size), "in proportion, upright"
            assert max(shown.size) <= longest
        if kind == "picture":
            overlay = make_preview(Job("overlay", longest, MAX_PIXELS), [small, small])
            assert overlay.startswith(b"\xff\xd8\xff") and len(overlay) < MAX_REPLY
            _zoomed(raw, size)


def _zoomed(raw: bytes, size: tuple[int, int] | None) -> None:
    """Its tiles, and its difference from itself."""
    for job, files in (
        (Job("size", 0, MAX_PIXELS), [raw]),
        (Job("picture", 0, MAX_PIXELS, block=(0, 0, 0)), [raw]),
        (Job("difference", 16, MAX_PIXELS), [raw, raw]),
    ):
        try:
            parts = split_parts(make_preview(job, files))
        except ImageError as error:
            check_line(str(error))
            assert size is None, f"what can be painted can be zoomed: {error}"
            continue
        match job.kind:
            case "size" if size is not None:
                assert json.loads(parts[0]) == {"width": size[0], "height": size[1]}
            case "picture" if size is not None:
                with Image.open(io.BytesIO(parts[0])) as tile:
                    assert tile.size == (min(TILE, size[0]), min(TILE, size[1])), "upright"
            case "difference":
                assert json.loads(parts[0])["changed"] == 0


def placing(data: bytes) -> None:
    """A mask of any shape, placed, painted and put back: sides, kind and crop come first, then boxes of the mask."""
    if len(data) < 12:
        return
    width, height, kind, crop, native, seed = struct.unpack("<HHBHBI", data[:12])
    width, height = 1 + width % 3000, 1 + height
    height = 1 + height % max(1, min(3000, MAX_PIXELS // width))
    channels, dtype = 1 + kind % 4, (np.uint8, np.uint16)[kind >> 2 & 1]
    weights = np.zeros((height, width), np.uint8)
    for at in range(12, min(len(data) - 8, 12 + 9 * 16), 9):
        x, y, w, h, value = struct.unpack("<HHHHB", data[at : at + 9])
        x, y = x % width, y % height
        weights[y : y + 1 + h % height, x : x + 1 + w % width] = value
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)
    pixels = pixels[..., 0].copy() if channels == 1 else pixels
    picture = Source(pixels, to_rgb(pixels), None, "png", ())
    chosen: Any = ("none", "auto")[crop] if crop < 2 else crop - 2
    size = (32, 64, 128, 256)[native % 4]
    try:
        placement = place(picture.size, weights, native=size, crop=chosen)
    except MaskError as error:
        assert not weights.any()
        check_line(str(error))
        return
    rgb, working = to_working(picture, weights, placement)
    assert placement.working in working_sizes(size)
    assert rgb.shape == (*placement.working[::-1], 3) and working.shape == placement.working[::-1]
    assert working.any() and set(np.unique(working)) <= {0, 255}
    painted = noise.integers(0, 255, rgb.shape, dtype=np.uint8, endpoint=True)
    out = composite(picture, weights, placement, painted)
    assert out.dtype == pixels.dtype and out.shape == pixels.shape
    assert np.array_equal(out[weights == 0], pixels[weights == 0]), "unmasked pixels are the source's own"
    if channels in (2, 4):
        assert (out[..., -1] >= pixels[..., -1]).all(), "alpha never falls"
        unit = np.iinfo(dtype).max // 255
        assert (out[..., -1] >= weights.astype(np.uint32) * unit).all(), "what is painted is as opaque as the mask"
        kept = composite(picture, weights, placement, painted, alpha="keep")
        assert np.array_equal(kept[..., -1], pixels[..., -1]), "or alpha is the source's own"
    assert "png" in LOSSLESS
    _check_kept(out, None)
