"""How the fields of a row and of its job become what its picture is finished by."""

from __future__ import annotations

from inpaint_ops import images
from inpaint_ops.protocol import Item, Job


def feather_when_read(item: Item) -> float:
    """The sigma by which the mask is feathered before the model sees it; `auto` decides after the painting."""
    return 0.0 if item.blend == "auto" else item.mask_blur


def join_options(item: Item, alpha: images.Alpha) -> images.JoinOptions:
    """How the row's patch shall be joined; its grain is seeded by the row's seed."""
    return images.JoinOptions(item.blend, item.mask_blur, item.match, item.grain, item.seed, alpha, item.sharpen)


def jpeg_options(job: Job) -> images.JpegOptions:
    """How the job's JPEGs are written."""
    return images.JpegOptions(job.jpeg_quality, job.jpeg_chroma, job.jpeg_progressive)


def avif_options(job: Job) -> images.AvifOptions:
    """How the job's AVIFs are written."""
    return images.AvifOptions(job.avif_quality, job.avif_chroma)
