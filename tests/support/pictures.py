"""Makes pictures for the tests: arrays, and files of every kind that is read or refused."""
# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from inpaint_ops.images import Source, decode_mask, decode_source

MAX_PIXELS = 4_000_000

Array = np.ndarray[Any, Any]


def noise(height: int, width: int, channels: int = 3, *, dtype: type = np.uint8, seed: int = 0) -> Array:
    """Random pixels, (H, W) for one channel; with an alpha channel, some pixels wholly transparent and some opaque."""
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(seed).integers(0, top, (height, width, channels), dtype=dtype, endpoint=True)
    if channels in (2, 4):
        pixels[::3, :, -1] = 0
        pixels[1::3, :, -1] = top
    return pixels[..., 0].copy() if channels == 1 else pixels


def smooth(height: int, width: int) -> Array:
    """A slow gradient, (H, W, 3) uint8: what survives resizing and JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 90)), -1).astype(
        np.uint8
    )


def file_of(image: Array | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file, written by Pillow."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def mask_file(height: int, width: int, box: tuple[int, int, int, int] | None = None, *, value: int = 255) -> bytes:
    """A black PNG with one (x0, y0, x1, y1) rectangle."""
    return file_of(mask_array(height, width, box, value=value))


def mask_array(height: int, width: int, box: tuple[int, int, int, int] | None = None, *, value: int = 255) -> Array:
    """(H, W) uint8 weights: one (x0, y0, x1, y1) rectangle."""
    mask = np.zeros((height, width), np.uint8)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = value
    return mask


@cache
def icc(space: str = "sRGB") -> bytes:
    """A small profile: sRGB, or a copy of it that claims to be for gray."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile if space == "sRGB" else profile[:16] + b"GRAY" + profile[20:]


def exif(orientation: int) -> bytes:
    """EXIF data with an orientation."""
    data = Image.Exif()
    data[274] = orientation
    return data.tobytes()


def stored(upright: Array, orientation: int) -> Array:
    """The pixels as a camera would store them under this orientation, so that a viewer shows `upright`."""
    return np.ascontiguousarray(
        {
            1: lambda a: a,
            2: lambda a: a[:, ::-1],
            3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1],
            5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a, 1),
            7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
            8: lambda a: np.rot90(a, -1),
        }[orientation](upright)
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


_ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))


def png(
    pixels: Array,
    *,
    bits: int = 8,
    colour_type: int | None = None,
    interlaced: bool = False,
    keep: float = 1.0,
    extra: bytes = b"",
    idats: int = 1,
) -> bytes:
    """A PNG made by hand: kinds that Pillow does not write, and ones with only a part of their rows.

    Args:
        pixels: (H, W) or (H, W, C); for `bits` below 8, (H, W) samples from 0 to 2^bits - 1.
        bits: 1, 2, 4, 8 or 16.
        colour_type: chosen by the channels when not given.
        interlaced: in Adam7 passes.
        keep: the share of the raw bytes that the IDAT stream holds; the stream itself is whole.
        extra: chunks to put before the pixels.
        idats: into how many chunks the stream is cut.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    cube = pixels.reshape(height, width, channels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels] if colour_type is None else colour_type

    def lines(part: Array) -> bytes:
        if not part.size:
            return b""
        if bits == 16:
            rows = [row.astype(">u2").tobytes() for row in part]
        elif bits == 8:
            rows = [row.astype(np.uint8).tobytes() for row in part]
        else:
            spread = (part[..., 0, None] >> np.arange(bits - 1, -1, -1)) & 1
            rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in spread]
        return b"".join(b"\0" + row for row in rows)

    passes = [cube[y::dy, x::dx] for x, dx, y, dy in _ADAM7] if interlaced else [cube]
    raw = b"".join(lines(part) for part in passes)
    stream = zlib.compress(raw[: int(len(raw) * keep)])
    step = -(-len(stream) // idats)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, int(interlaced))
    body = b"".join(chunk(b"IDAT", stream[at : at + step]) for at in range(0, len(stream), step))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def png_bomb(width: int, height: int) -> bytes:
    """A few bytes that claim to be a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def tiff(
    pixels: Array,
    *,
    photometric: int | None = None,
    extra_samples: int | None = None,
    planar: int = 1,
    orientation: int | None = None,
    byteorder: str = "<",
) -> bytes:
    """An uncompressed TIFF of one strip, made by hand: 16-bit colour and odd layouts. (H, W[, C]) uint8 or uint16."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = pixels.dtype.itemsize * 8
    cube = pixels.reshape(height, width, channels)
    data = (cube if planar == 1 else np.moveaxis(cube, 2, 0)).astype(pixels.dtype.newbyteorder(byteorder)).tobytes()
    strips = 1 if planar == 1 else channels
    per_strip = len(data) // strips
    entries: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * channels),
        (259, 3, [1]),
        (262, 3, [(1 if channels <= 2 else 2) if photometric is None else photometric]),
        (273, 4, [8 + at * per_strip for at in range(strips)]),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [per_strip] * strips),
        (284, 3, [planar]),
    ]
    if orientation is not None:
        entries.append((274, 3, [orientation]))
    if extra_samples is not None:
        entries.append((338, 3, [extra_samples]))
    body, directory = bytearray(data), bytearray(struct.pack(byteorder + "H", len(entries)))
    for tag, kind, values in sorted(entries):
        raw = struct.pack(f"{byteorder}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(raw) > 4:
            at, raw = 8 + len(body), raw
            body += raw
            raw = struct.pack(byteorder + "I", at)
        directory += struct.pack(byteorder + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    mark = b"II" if byteorder == "<" else b"MM"
    return mark + struct.pack(byteorder + "HI", 42, 8 + len(body)) + bytes(body + directory) + b"\0\0\0\0"


H, W = 23, 37
"""The size of most pictures of the tests that read and write files."""


def decode(data: bytes) -> Source:
    return decode_source(data, max_pixels=MAX_PIXELS)


def weights(data: bytes, size: tuple[int, int] = (W, H), **options: object) -> np.ndarray:
    return decode_mask(data, size=size, max_pixels=MAX_PIXELS, **options)  # type: ignore[arg-type]


def palette_file(transparent: bool) -> tuple[bytes, np.ndarray]:
    """A palette PNG, and the RGB or RGBA pixels that it means."""
    colours = noise(1, 16, 3, seed=3)[0]
    index = noise(H, W, 1) % 16
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel().tolist())
    image.putpalette(colours.tobytes())
    alphas = np.full(16, 255, np.uint8)
    if not transparent:
        return file_of(image), colours[index]
    alphas[:4] = [0, 10, 128, 200]
    return file_of(image, transparency=bytes(alphas)), np.dstack((colours[index], alphas[index]))


def latents_of(pipe: Any) -> Any:
    """What the pipeline itself paints, as a tensor: a small picture, its middle masked, three steps."""
    import torch

    image = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt="a red chair", image=image, mask_image=mask, width=64, height=64, num_inference_steps=3, strength=1.0,
        generator=torch.Generator().manual_seed(5), output_type="pt",
    ).images  # fmt: skip
