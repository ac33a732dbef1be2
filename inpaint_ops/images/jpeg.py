"""JPEG, where Pillow is too kind: what libjpeg only warns of is damage.

Source of the format: ITU-T T.81 (1992), annex B.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import simplejpeg

from inpaint_ops.errors import ImageError
from inpaint_ops.images.png import AGAIN

_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_DAMAGE = ("corrupt", "premature")
"""How libjpeg's warnings of lost pixels begin; whatever else it says, the decoder proper decides."""


def check_complete(data: bytes, *, colours: int) -> None:
    """Raise ImageError for a file whose pixels libjpeg would make up: cut and closed, with blocks missing, without its
    last scans.

    Args:
        data: the whole file.
        colours: its components: 1, 3 or 4.

    The picture is decoded once more, at an eighth of its size, with every warning an error.
    """
    try:
        simplejpeg.decode_jpeg(
            data, colorspace="CMYK" if colours == 4 else "GRAY", fastdct=True, min_height=1, min_width=1, strict=True
        )
    except ValueError as error:
        if any(word in str(error).lower() for word in _DAMAGE):
            raise ImageError(f"lacks a part of its pixels: {AGAIN}") from error
    _check_scans(data)


def frame_marker(data: bytes) -> int | None:
    """The second byte of the first picture's frame header, which says how it is coded; None where there is none."""
    return next((marker for marker, _ in _segments(data) if marker in _FRAMES), None)


def _check_scans(data: bytes) -> None:
    """Raise ImageError where a progressive picture never got all bits of all coefficients.

    A scan is (first coefficient, last, bits before, bits left): what is left must come down to 0.
    """
    left: dict[int, list[int]] = {}
    for marker, body in _segments(data):
        if marker in _FRAMES:
            if marker not in _PROGRESSIVE:
                return
            left = {body[6 + 3 * at]: [99] * 64 for at in range(body[5])}
        elif marker == 0xDA:
            count = body[0]
            first, last, bits = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
            for at in range(count):
                component = left.get(body[1 + 2 * at])
                if component is not None and first <= last < 64:
                    component[first : last + 1] = [bits] * (last + 1 - first)
    if any(bits for component in left.values() for bits in component):
        raise ImageError(f"lacks its last scans, so it is blurred or blocky: {AGAIN}")


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers up to the end of the first picture, with what stands behind their length. Stops at a cut."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF):
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            return
        at += 2
        if marker in _NO_LENGTH:
            continue
        if at + 2 > len(data):
            return
        (length,) = struct.unpack(">H", data[at : at + 2])
        yield marker, data[at + 2 : at + length]
        at += max(2, length)
