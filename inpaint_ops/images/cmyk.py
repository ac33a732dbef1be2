"""CMYK -> sRGB: by the file's own profile, else by the plain formula, and recorded in `conversions`."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms


def to_srgb(image: Image.Image, icc: bytes | None, conversions: list[str]) -> tuple[np.ndarray, bytes]:
    """Load a CMYK picture as sRGB.

    Without a profile that can be read: R = 255 - min(255, C + K), and so on, as Pillow does, which makes colours more
    vivid than a press would. Adobe's inverted CMYK and YCCK are undone by Pillow.

    Returns:
        (H, W, 3) uint8, and the sRGB profile that belongs to it.
    """
    image.load()
    if icc is not None:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            converted = ImageCms.profileToProfile(
                image, profile, _srgb(), renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )  # fmt: skip
        except ImageCms.PyCMSError:
            conversions.append("the CMYK profile cannot be used")
        else:
            assert converted is not None  # not in place
            conversions.append("CMYK became sRGB by the file's profile: unmasked pixels are the converted ones")
            return np.asarray(converted), _srgb_bytes()
    conversions.append("CMYK became RGB without a profile, by the plain formula: colours may differ from print")
    return np.asarray(image.convert("RGB")), _srgb_bytes()


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _srgb_bytes() -> bytes:
    """The profile without the time of its making (bytes 24 to 35): the same picture gives the same file."""
    made = _srgb().tobytes()
    return made[:24] + bytes(12) + made[36:]
