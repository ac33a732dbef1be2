"""What each row will be painted with: its own values, else the job's."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

from pydantic import Field, field_validator

from inpaint_ops.config import EXTENSIONS, Blend, Fill, Grain, Match, Sharpen, SideProduct
from inpaint_ops.layout import variant_name
from inpaint_ops.locations import has_scheme, parse
from inpaint_ops.manifest import MAX_SEED, STEPS, AcceptedRow, why_no_name
from inpaint_ops.manifest.rows import constructed
from inpaint_ops.planning.options import JobOptions
from inpaint_ops.records import MAX_VARIANTS, Model, parse_row_lora


class PaintParameters(Model):
    """What one row is painted with: its own values where it has any, else the job's. The bounds are those of a row."""

    seed: int = Field(ge=0, le=MAX_SEED)
    steps: int = Field(ge=1, le=500, description="Requested; see `steps_that_run`.")
    guidance_scale: float = Field(ge=0, le=50)
    guidance_cutoff: float = Field(
        default=1.0,
        gt=0,
        le=1,
        exclude_if=lambda cutoff: cutoff == 1,
        description="The share of the steps after which guidance is off.",
    )
    strength: float = Field(gt=0, le=1)
    blend: Blend = "hard"
    match: Match = "none"
    grain: Grain = "none"
    sharpen: Sharpen = Field(default="none", exclude_if=lambda sharpen: sharpen == "none")
    fill: Fill = Field(default="original", exclude_if=lambda fill: fill == "original")
    side_products: tuple[SideProduct, ...] = Field(default=(), exclude_if=operator.not_)
    variants: int = Field(default=1, ge=1, le=MAX_VARIANTS, exclude_if=lambda variants: variants == 1)
    loras: dict[str, float] = Field(
        default_factory=dict, exclude_if=operator.not_, description="By name, how strongly; 0: as if it were not there."
    )


class PlannedRow(AcceptedRow):
    """A row as its shard's file holds it: what it is painted with is settled, once, when the run is planned."""

    parameters: PaintParameters
    names: tuple[str, ...] = Field(
        default=(), description="What its images are called below images/, without their endings; empty: by its id."
    )

    @field_validator("names")
    @classmethod
    def _name_images(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if why := why_no_name(name + EXTENSIONS["png"]):
                raise ValueError(f"{name!r} is no name of an image: {why}")
        return value

    def image_name(self, variant: int | None = None) -> str:
        """What its image, or that of one of its variants, is called below images/, without its ending."""
        return self.names[variant or 0] if self.names else variant_name(self.id, variant)

    def as_manifest_row(self) -> dict[str, Any]:
        """The row as a manifest anywhere would state it: what its author left to the job stays open."""
        return self.as_lines()[0]

    def _fields(self) -> dict[str, Any]:
        return self.model_dump(
            mode="json", exclude={"row", "parameters", "names"}, exclude_defaults=True, exclude_none=True
        )

    def as_shard_line(self) -> dict[str, Any]:
        """The row as the shard's file holds it."""
        return self.as_lines()[1]

    def as_lines(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The row as a manifest states it, and as its shard's file holds it."""
        fields = self._fields()
        places = {name: _full_uri(getattr(self, name)) for name in ("image", "mask")}
        named = {"names": self.names} if self.names else {}
        return fields | places, fields | {"row": self.row, "parameters": self.parameters.model_dump(), **named}


def _full_uri(place: str) -> str:
    return place if has_scheme(place) else parse(place).full_uri


def planned(row: AcceptedRow, job: JobOptions, names: tuple[str, ...] = ()) -> PlannedRow:
    """The row with what it will be painted with, and what its images will be called; empty: by its id."""
    return constructed(PlannedRow, {**vars(row), "parameters": parameters(row, job), "names": names})


def parameters(row: AcceptedRow, job: JobOptions) -> PaintParameters:
    """What the row itself asks for first, then the job's choice. A row without a seed gets one from its id, so that a
    second run, or a run of the failed rows alone, paints the same image.

    Called when a run is planned; afterwards the shard's file says it (`PlannedRow.parameters`).
    """
    values = {
        "seed": row.seed if row.seed is not None else int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:4]),
        "steps": steps_of(row, job),
        "guidance_scale": guidance_of(row, job),
        "guidance_cutoff": cutoff_of(row, job),
        "strength": strength_of(row, job),
        "blend": row.blend or ("feather" if row.mask_blur else job.blend),
        "match": row.match or job.match,
        "grain": row.grain or job.grain,
        "sharpen": row.sharpen or job.sharpen,
        "fill": row.fill or job.fill,
        "side_products": job.side_products if row.side_products is None else tuple(row.side_products),
        "variants": row.variants or job.variants,
        "loras": _loras(row, job),
    }
    return constructed(PaintParameters, values)


def _loras(row: AcceptedRow, job: JobOptions) -> dict[str, float]:
    weights = {one.name: one.weight for one in job.loras}
    if row.loras is None:
        return weights
    named = map(parse_row_lora, row.loras)
    return {name: weights.get(name, 0.0) if weight is None else weight for name, weight in named}


def steps_of(row: AcceptedRow, job: JobOptions) -> int:
    """The denoising steps that are asked for: the row's own, else the job's."""
    if row.steps is not None:
        return row.steps
    if row.quality is not None:
        return STEPS[row.quality]
    return job.steps if job.steps is not None else STEPS[job.quality]


def guidance_of(row: AcceptedRow, job: JobOptions) -> float:
    """The row's own scale, else the job's; at 1 or below guidance is off."""
    return row.guidance_scale if row.guidance_scale is not None else job.guidance_scale


def cutoff_of(row: AcceptedRow, job: JobOptions) -> float:
    """The row's own, else the job's, which is not for rows that are painted without guidance."""
    if row.guidance_cutoff is not None:
        return row.guidance_cutoff
    return job.guidance_cutoff if guidance_of(row, job) > 1 else 1.0


def strength_of(row: AcceptedRow, job: JobOptions) -> float:
    """The row's own, else the job's."""
    return row.strength if row.strength is not None else job.strength


def steps_that_run(steps: int, strength: float) -> int:
    """The steps left of `steps` at `strength`: StableDiffusionXLInpaintPipeline.get_timesteps, diffusers 0.42.1."""
    return min(int(steps * strength), steps)
