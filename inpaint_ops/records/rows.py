"""How one row ended: its record."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from inpaint_ops.errors import InpaintOpsError, one_line
from inpaint_ops.records.base import Bytes, Count, Model, Moment, Number
from inpaint_ops.records.measures import Measures
from inpaint_ops.records.painted import Batch, Measured, Memory, Painted

Status = Literal["done", "failed", "rejected"]

Stage = Literal["validate", "download", "decode", "encode_prompt", "denoise", "encode", "upload", "worker", "device"]


class ErrorInfo(Model):
    """Why a row has no image."""

    type: str = Field(description="The error's class.")
    stage: Stage = Field(description="Where it happened.")
    message: str = Field(description="One line: what is wrong and what to do.")
    permanent: bool = Field(description="Whether trying again would end the same way.")
    field: str | None = Field(default=None, description="The manifest field at fault, for a rejected row.")

    @classmethod
    def of(cls, error: BaseException, stage: Stage, *, field: str | None = None) -> ErrorInfo:
        """Describe `error`. Of errors that are not ours, those of the system (a full disk, no memory) count as
        transient; the rest as permanent, since a retry would repeat a bug.
        """
        permanent = (
            error.permanent if isinstance(error, InpaintOpsError) else not isinstance(error, OSError | MemoryError)
        )
        message = one_line(" ".join(str(error).split()) or type(error).__name__)
        return cls(type=type(error).__name__, stage=stage, message=message, permanent=permanent, field=field)


class Output(Model):
    """The image that a row produced."""

    uri: str
    sha256: str
    bytes: Bytes
    width: Count
    height: Count
    format: str
    name: str | None = Field(
        default=None, max_length=1024, exclude_if=lambda name: name is None,
        description="Where it lies below images/, if the job names images by a template.",
    )  # fmt: skip
    c2pa: str = Field(
        default="", max_length=256, exclude_if=operator.not_, description="The manifest it was signed with, if it was."
    )


class Thumbnail(Model):
    """A small WebP picture of a row's image, `size` pixels long at most; it lies where `RunLayout.thumbnail` says."""

    size: int = Field(ge=1, le=2**16)
    uri: str
    sha256: str
    bytes: Bytes


class SideProductFile(Model):
    """A file beside a row's image; it lies where `RunLayout.side_product` says."""

    kind: str = Field(max_length=32, description="patch, mask or preview.")
    uri: str
    sha256: str
    bytes: Bytes
    width: Count
    height: Count


class WorkerInfo(Model):
    """The process that painted the row."""

    pid: Count
    host: str
    device: str
    started_at: Moment


class MaskMeaning(Model):
    """How a row's mask was asked to be read."""

    mask_channel: str = "auto"
    mask_threshold: int | None = None
    mask_invert: bool = False


Crop = Literal["none", "auto", "regions", "tiles"] | Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What of a source the model was asked to see: a number is a margin around the mask, in pixels."""


class EarlierAttempt(Model):
    """How a row ended before it was done again."""

    retry: Count = Field(default=0, description="0: in the run itself; n: in its nth retry.")
    attempt: str
    status: Status
    error: ErrorInfo | None = None
    output: Output | None = None
    finished_at: Moment


MAX_VARIANTS = 16
"""Images of one row, at most."""

PickedBy = Literal["first", "best", "clip", "review"]
"""What chose a row's image among its variants: the order, the score, the CLIP score, or a person."""


class Pick(Model):
    """Which of a row's variants is the row's image."""

    variant: int = Field(ge=0, lt=MAX_VARIANTS)
    by: PickedBy = "first"


class Variant(Measured):
    """One of a row's variants, as the row's record lists it; its own record has the rest."""

    variant: int = Field(ge=0, lt=MAX_VARIANTS)
    status: Literal["done", "failed"]
    seed: int | None = None
    score: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="How well it fits its surroundings: docs/measures.md. None: nothing was measured."
    )
    error: ErrorInfo | None = None
    output: Output | None = None
    thumbnails: tuple[Thumbnail, ...] = Field(default=(), max_length=8, exclude_if=operator.not_)
    side_products: tuple[SideProductFile, ...] = Field(default=(), max_length=8, exclude_if=operator.not_)
    side_product_problem: str = Field(default="", exclude_if=operator.not_)
    measures: Measures | None = Field(default=None, exclude_if=operator.not_)
    steps: Count | None = None
    batch: Batch | None = None
    memory: Memory | None = None
    worker: WorkerInfo | None = None
    started_at: Moment
    finished_at: Moment

    @model_validator(mode="after")
    def _ends_in_an_image_or_a_reason(self) -> Variant:
        if (self.status == "done") != (self.output is not None) or (self.status == "done") == (self.error is not None):
            raise ValueError("a done variant has an output and no error; a failed one has an error and no output")
        return self


class Record(Painted, MaskMeaning):
    """How one row ended. One object per row and retry, put if absent: the only commit point. The newest counts.

    Of a row with variants each has a record of its own, with `variant`; the row's record comes when all of them have
    ended, and has the fields of the picked one. Its seconds of stages that no batch shares are those of all variants.
    """

    schema_version: Literal[1] = 1
    id: str
    row: int = Field(
        ge=1, le=2**31 - 1, description="The row's line in the manifest (its index, from 1, in a Parquet one)."
    )
    status: Status
    attempt: str = Field(description="Unique to the attempt that wrote this record.")
    retry: Count = Field(
        default=0, exclude_if=operator.not_, description="n: written by the run's nth retry; absent: by the run itself."
    )
    earlier: tuple[EarlierAttempt, ...] = Field(
        default=(),
        exclude_if=operator.not_,
        description="The row's records before this one, the oldest first; in `results.jsonl`, where there are any.",
    )
    flags: tuple[str, ...] = Field(
        default=(),
        exclude_if=operator.not_,
        description="What the row is an outlier in, in its run; in `results.jsonl`, where it is in anything.",
    )
    error: ErrorInfo | None = None
    output: Output | None = None
    thumbnails: tuple[Thumbnail, ...] = Field(
        default=(), max_length=8, exclude_if=operator.not_, description="Small pictures of the output, for pages."
    )
    side_products: tuple[SideProductFile, ...] = Field(
        default=(),
        max_length=8,
        exclude_if=operator.not_,
        description="Files beside the output, as far as they were asked for.",
    )
    variant: int | None = Field(
        default=None,
        ge=0,
        lt=MAX_VARIANTS,
        exclude_if=lambda variant: variant is None,
        description="Of which of the row's variants this is the record; absent in a row's own record.",
    )
    variants: tuple[Variant, ...] = Field(
        default=(), max_length=MAX_VARIANTS, exclude_if=operator.not_, description="The row's variants, in order."
    )
    pick: Pick | None = Field(
        default=None,
        exclude_if=operator.not_,
        description="Which variant the row's image is, where it has any; a later choice is written here too.",
    )
    prompt: str = ""
    prompt_2: str | None = Field(default=None, exclude_if=operator.not_, description="The second text encoder's.")
    seed: int | None = None
    steps_requested: Count | None = None
    guidance_scale: Number | None = None
    guidance_cutoff: Number = Field(
        default=1.0,
        exclude_if=lambda cutoff: cutoff == 1,
        description="The share of the steps after which guidance was to be off; `unguided_steps` ran so.",
    )
    strength: Number | None = None
    fill: str = Field(
        default="original",
        exclude_if=lambda fill: fill == "original",
        description="What the masked area held before it was encoded.",
    )
    loras: dict[str, Number] = Field(
        default_factory=dict, exclude_if=operator.not_, description="What the row was painted with, and how strongly."
    )
    crop: Crop = Field(
        default="none", exclude_if=lambda crop: crop == "none", description="What the model was asked to see."
    )
    source: str | None = Field(default=None, description="The image's URI.")
    mask: str | None = Field(default=None, description="The mask's URI.")
    worker: WorkerInfo | None = None
    started_at: Moment
    finished_at: Moment
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ends_in_an_image_or_a_reason(self) -> Record:
        if (self.status == "done") != (self.output is not None) or (self.status == "done") == (self.error is not None):
            raise ValueError("a done row has an output and no error; any other has an error and no output")
        return self

    @model_validator(mode="after")
    def _is_that_of_its_pick(self) -> Record:
        if not self.variants:
            if self.pick is not None:
                raise ValueError("a row without variants has no pick")
            return self
        if [one.variant for one in self.variants] != list(range(len(self.variants))):
            raise ValueError("a row's variants are numbered from 0, without a gap")
        picked = next((one.output for one in self.variants if self.pick and one.variant == self.pick.variant), None)
        if self.output != picked or (self.status == "done") != any(one.status == "done" for one in self.variants):
            raise ValueError("a row is done where a variant is, and its output is that of its pick")
        return self

    def paintings(self) -> tuple[Record, ...]:
        """The record of each image that was to be painted: one for each variant, or this one."""
        return tuple(
            self.model_copy(
                update={name: getattr(one, name) for name in Variant.model_fields if name in Record.model_fields}
                | {"variants": (), "pick": None}
            )
            for one in self.variants
        ) or (self,)

    @property
    def weighed_steps(self) -> float:
        """Steps that ran, those without guidance counted as half: that is their share of the UNet's operations."""
        steps = self.steps or 0
        return steps - min(self.unguided_steps, steps) / 2

    @property
    def canvases(self) -> int:
        """On how many canvases its image was painted."""
        return max(1, len(self.tiles), len(self.regions))

    def outputs(self) -> tuple[tuple[int | None, Output], ...]:
        """Every image that the record names, with the variant that it is of; None in a row without variants."""
        if self.variants:
            return tuple((one.variant, one.output) for one in self.variants if one.output is not None)
        return () if self.output is None else ((self.variant, self.output),)
