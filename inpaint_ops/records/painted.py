"""What a worker measures of a row: parts that its events and the row's record share."""

from __future__ import annotations

import operator
from typing import Annotated

from pydantic import Field

from inpaint_ops.records.base import Bytes, Count, Model, Seconds
from inpaint_ops.records.measures import Levels, Measures, Ratio

STAGES: tuple[str, ...] = (
    "download", "decode", "encode_prompt", "vae_encode", "denoise", "vae_decode", "composite", "encode", "upload",
)  # fmt: skip
"""The stages of a row, in the order in which it passes them."""

BATCH_STAGES = frozenset({"encode_prompt", "vae_encode", "denoise", "vae_decode"})
"""Stages that a whole batch shares: each of its rows carries the batch's full duration, never a share of it."""


class Batch(Model):
    """The batch that a row was painted in."""

    id: str
    size: int = Field(ge=1, le=2**31 - 1)


class Timings(Model):
    """Seconds by stage; None where the row did not get that far. Batch stages carry the batch's duration."""

    download: Seconds | None = None
    decode: Seconds | None = None
    encode_prompt: Seconds | None = None
    vae_encode: Seconds | None = None
    denoise: Seconds | None = None
    vae_decode: Seconds | None = None
    composite: Seconds | None = None
    encode: Seconds | None = None
    upload: Seconds | None = None


class Memory(Model):
    """Peak device memory while the row's batch was painted, in bytes; on a CPU the process's peak resident size."""

    peak_allocated: Bytes
    peak_reserved: Bytes


Shift = Annotated[float, Field(ge=-255, le=255)]


class Joining(Model):
    """How a painted patch was joined to its source."""

    blend: str = Field(default="hard", description="The edge that was made: hard, feather or poisson.")
    feather: Annotated[float, Field(ge=0, le=256)] | None = Field(
        default=None, description="The feather's sigma in pixels."
    )
    seams: dict[str, Ratio] = Field(
        default_factory=dict, description="The seam contrasts that `auto` compared, by blend.", max_length=8
    )
    match: str = "none"
    shift: Annotated[tuple[Shift, ...], Field(max_length=4)] | None = Field(
        default=None, description="By how many 8-bit levels each channel was shifted, over the ring."
    )
    grain: str = "none"
    grain_added: Levels | None = Field(
        default=None, description="The standard deviation of the noise that was added, in 8-bit levels."
    )
    sharpen: str = Field(default="none", exclude_if=lambda how: how == "none")
    sharpened: Annotated[float, Field(ge=0, le=16)] | None = Field(
        default=None,
        exclude_if=lambda amount: amount is None,
        description="How many times the patch's own fine detail was added.",
    )


Pixel = Annotated[int, Field(ge=0, le=2**31 - 1)]


class PaintedRegion(Model):
    """One of several regions of a row's mask that were painted one by one."""

    box: tuple[Pixel, Pixel, Pixel, Pixel] = Field(
        description="x0, y0, x1, y1 of what the model saw, in source pixels."
    )
    working_size: tuple[Count, Count]
    batch: Batch | None = Field(default=None, description="By the worker's own number. Regions of one shape share it.")
    timings: Timings = Field(default=Timings(), description="The batch's, in full.")
    joining: Joining = Joining()


class PaintedTile(Model):
    """One of the overlapping tiles that a row's mask was painted in."""

    box: tuple[Pixel, Pixel, Pixel, Pixel] = Field(
        description="x0, y0, x1, y1 of what the model saw, in source pixels."
    )
    working_size: tuple[Count, Count]
    number: Count = Field(
        description="Its place in the order of all tiles, from 0. Its seed is the row's and this more, modulo 2^63."
    )
    batch: Batch | None = Field(default=None, description="By the worker's own number. Each tile is one by itself.")
    timings: Timings = Timings()


class MaskArea(Model):
    """What of an image was painted: the bounding box of all pixels that the mask weighs, and their share of all."""

    box: tuple[Pixel, Pixel, Pixel, Pixel] = Field(description="x0, y0, x1, y1 in pixels of the image.")
    share: Annotated[float, Field(ge=0, le=1)]


LOG_LINES = 20
"""Of one row, at most."""
LOG_LINE_CHARS = 400
LOG_BYTES = 4000
"""Of all lines of one row together, as UTF-8."""

LogLine = Annotated[str, Field(max_length=LOG_LINE_CHARS)]


class Measured(Model):
    """What a worker measures of every row: part of its event and of the row's record."""

    change: Levels | None = Field(
        default=None, description="How much the masked part changed, as it is seen, in 8-bit levels (0 to 255)."
    )
    timings: Timings = Timings()
    log: tuple[LogLine, ...] = Field(
        default=(),
        max_length=LOG_LINES,
        exclude_if=operator.not_,
        description="The last warnings and errors that were logged of the row, where there were any.",
    )


class Painted(Measured):
    """What a worker measures of a row with an image. A new field is written here and where the worker measures it."""

    steps: Count | None = Field(default=None, description="Denoising steps that really ran.")
    unguided_steps: Count = Field(
        default=0,
        exclude_if=operator.not_,
        description="Of them the last ones, which ran without guidance: see `guidance_cutoff`.",
    )
    working_size: tuple[Count, Count] | None = Field(
        default=None, description="Width and height that the model painted."
    )
    conversions: tuple[str, ...] = Field(
        default=(), description="What the source, the mask or the output format did not keep or was taken for."
    )
    batch: Batch | None = None
    memory: Memory | None = None
    regions: Annotated[tuple[PaintedRegion, ...], Field(max_length=64)] = Field(
        default=(), exclude_if=operator.not_, description="Where the mask's regions were painted one by one: each."
    )
    tiles: Annotated[tuple[PaintedTile, ...], Field(max_length=64)] = Field(
        default=(), exclude_if=operator.not_, description="Where the mask was painted in overlapping tiles: each."
    )
    joining: Joining | None = Field(
        default=None, exclude_if=operator.not_, description="How the patch was joined to the source."
    )
    mask_area: MaskArea | None = Field(
        default=None, exclude_if=operator.not_, description="What of the image was painted."
    )
    measures: Measures | None = Field(
        default=None, exclude_if=operator.not_, description="How the painted patch fits its surroundings."
    )
    thumbnail_problem: str = Field(
        default="", exclude_if=operator.not_, description="Why thumbnails of the output are missing."
    )
    side_product_problem: str = Field(
        default="", exclude_if=operator.not_, description="Why files that were asked for beside the output are missing."
    )
