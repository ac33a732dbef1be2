"""A row's two files as they are painted: what a worker reads, and whoever asks beforehand whether it can."""

from __future__ import annotations

from dataclasses import dataclass

from inpaint_ops.config import Blend, ImageFormat, MaskChannel
from inpaint_ops.images.encoding import check_output_size, check_profile, check_writable
from inpaint_ops.images.masks import Mask, read_mask
from inpaint_ops.images.metadata import Policy
from inpaint_ops.images.reading import Frames, Source, decode_source


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReading:
    """How a row's image and mask are read (see `decode_source` and `read_mask`), and what its result is written as."""

    max_pixels: int
    format: ImageFormat
    metadata: Policy = "safe"
    frames: Frames = "one"
    channel: MaskChannel = "auto"
    threshold: int | None = None
    invert: bool = False
    dilate: int = 0
    blur: float = 0.0
    blend: Blend = "hard"
    resize: bool = False

    def read(self, image: bytes, mask: bytes) -> tuple[Source, Mask]:
        """The source and its mask. Raises ImageError, MaskError among them, where the row cannot be painted."""
        source = decode_source(image, max_pixels=self.max_pixels, metadata=self.metadata, frames=self.frames)
        check_writable(self.format)
        check_profile(source.icc, self.format)
        check_output_size(source.size, self.format)
        return source, read_mask(
            mask,
            size=source.size,
            max_pixels=self.max_pixels,
            channel=self.channel,
            threshold=self.threshold,
            resize=self.resize,
            invert=self.invert,
            dilate=self.dilate,
            blur=0.0 if self.blend == "auto" else self.blur,  # it is decided after the painting
        )
