"""What a colour profile means, found by what it makes of colours, since the same space has many profiles."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_LEVELS = 1
"""Of 255: profiles of sRGB by different makers differ by rounding."""


def says_srgb(icc: bytes) -> bool:
    """Whether an ICC profile of RGB or gray makes the same colours of code values as sRGB, within a level of 255.

    What cannot be read does not.
    """
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        is_gray = profile.profile.xcolor_space.strip() == "GRAY"
        grid = np.arange(256, dtype=np.uint8)[None] if is_gray else np.stack(np.meshgrid(steps, steps, steps), -1)
        image = Image.fromarray(grid if is_gray else grid.reshape(1, -1, 3))
        made = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
    if made is None:
        return False
    return int(np.abs(np.asarray(made).astype(int) - np.asarray(image.convert("RGB"))).max()) <= _LEVELS
