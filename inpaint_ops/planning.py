"""Rows to shards, and what each row will be painted with: pure, so that a plan can be shown before a GPU is used."""

from __future__ import annotations

import hashlib
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from inpaint_ops.config import (
    EXTENSIONS,
    FILL_MODEL_CURE,
    Blend,
    FewStep,
    Fill,
    Grain,
    Match,
    PromptSyntax,
    RowFormat,
    Scheduler,
    Settings,
    Sharpen,
    SideProduct,
    list_side_products,
)
from inpaint_ops.errors import ConfigError, did_you_mean
from inpaint_ops.layout import MAX_RETRIES, SHARD_NAME, retry_of, shard_name, variant_name
from inpaint_ops.locations import has_scheme, parse
from inpaint_ops.manifest import (
    MAX_SEED,
    STEPS,
    AcceptedRow,
    Quality,
    RowDefaults,
    check_template,
    fields_of,
    why_no_name,
)
from inpaint_ops.manifest.rows import constructed
from inpaint_ops.records import (
    MAX_VARIANTS,
    Count,
    Forecast,
    Loras,
    Model,
    Moment,
    check_names,
    parse_row_lora,
)

GUIDANCE_SCALE = 7.5
"""The inpainting pipeline's own default."""

STRENGTH = 0.9999
"""The inpainting pipeline's own default. It drops one step: 29 of 30 run, and the record says 29."""


PROJECT = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$"
"""What a project may be called."""

NO_FILL_MODEL = f"it needs a network, which this package does not have: {FILL_MODEL_CURE}, or choose another fill"
"""Why `lama` cannot be had."""


class JobOptions(Model):
    """What the person who starts a run may choose; rows may override quality, steps, guidance and strength."""

    model: str
    model_revision: str | None = None
    vae: str | None = None
    tokenizer: str | None = None
    loras: Loras = Field(default=(), description="What rows that name none are painted with; rows may choose of them.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tuning: str = "auto"
    tuning_overrides: dict[str, Any] = Field(default_factory=dict)
    use_xformers: bool | None = None
    scheduler: Scheduler = "model"
    few_step: FewStep | None = Field(default=None, description="What set scheduler, steps, guidance and strength.")
    prompt: str | None = Field(default=None, description="For rows that have none; `{color}` is a field of the row.")
    negative_prompt: str | None = Field(default=None, description="For rows that have none, as `prompt`.")
    prompt_2: str | None = Field(default=None, description="For the second text encoder, as `prompt`.")
    negative_prompt_2: str | None = Field(default=None, description="For the second text encoder, as `prompt`.")
    prompt_syntax: PromptSyntax = "plain"
    quality: Quality = "high"
    steps: int | None = Field(default=None, ge=1, le=500)
    guidance_scale: float = Field(default=GUIDANCE_SCALE, ge=0, le=50)
    strength: float = Field(default=STRENGTH, gt=0, le=1)
    blend: Blend = "hard"
    match: Match = "none"
    grain: Grain = "none"
    sharpen: Sharpen = "none"
    format: RowFormat = Field(default="png", description="What images are written as, of rows that do not say it.")
    names: str | None = Field(
        default=None, description="What images are called: `{folder}/{stem}.{ext}`, for example; None: `{id}.{ext}`."
    )
    fill: Fill = "original"
    fill_model: str | None = Field(default=None, description="The ONNX file of the network that fill `lama` needs.")
    clip_model: str | None = Field(default=None, description="The folder of the model of each image's CLIP score.")
    lpips_model: str | None = Field(default=None, description="The ONNX file of each image's LPIPS distance.")
    side_products: tuple[SideProduct, ...] = Field(default=(), description="Files beside each image.")
    variants: int = Field(default=1, ge=1, le=MAX_VARIANTS, description="Images of each row that names no number.")
    pick: Literal["first", "best"] = Field(default="first", description="Which variant is its row's image.")
    profile: bool = Field(default=False, description="Workers leave a trace of their threads, operators and kernels.")
    row_limit: int | None = Field(default=None, ge=1)
    sample: int | None = Field(
        default=None, ge=1, description="Only so many rows, spread over those that can be painted."
    )
    shard_rows: int | None = Field(
        default=None, ge=1, description="Rows per shard. None: chosen when the run is planned; a plan always has it."
    )
    failure_threshold: float = Field(default=0.0, ge=0, le=1)
    project: str | None = Field(
        default=None, pattern=PROJECT, description="What the run belongs to, for the page of cost and trends."
    )

    @field_validator("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
    @classmethod
    def _is_a_template(cls, value: str | None) -> str | None:
        if value is not None:
            fields_of(value)
        return value

    @field_validator("names")
    @classmethod
    def _makes_names(cls, value: str | None) -> str | None:
        return None if value is None else check_template(value)

    @field_validator("side_products", mode="before")
    @classmethod
    def _are_listed(cls, value: object) -> object:
        return list_side_products(value) if isinstance(value, str | list | tuple) else value

    @field_validator("loras")
    @classmethod
    def _have_names_of_their_own(cls, value: Loras) -> Loras:
        check_names(value)
        return value

    @model_validator(mode="after")
    def _has_what_it_fills_with(self) -> JobOptions:
        if self.fill == "lama" and self.fill_model is None:
            raise ValueError(f"fill lama: {NO_FILL_MODEL}")
        return self

    def row_defaults(self) -> RowDefaults:
        """What rows get that do not say it themselves."""
        own = None if self.format == "png" else self.format  # what a row has that says nothing
        return RowDefaults(self.prompt, self.negative_prompt, self.prompt_2, self.negative_prompt_2, own)

    def identity(self) -> dict[str, Any]:
        """The choices that change images or rows: two runs of one name must agree on them."""
        fields = {
            "model", "model_revision", "vae", "tokenizer", "loras", "scheduler", "few_step", "prompt",
            "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_syntax", "quality", "steps", "guidance_scale",
            "strength", "blend", "match", "grain", "sharpen", "format", "names", "fill", "fill_model", "clip_model",
            "lpips_model", "side_products", "variants", "pick", "row_limit", "sample",
        }  # fmt: skip
        return self.model_dump(mode="json", include=fields)


_OPTIONS = (*JobOptions.model_fields, "batch_size")


def job_options(
    settings: Settings,
    *,
    batch_size: int | None = None,
    tuning_overrides: Mapping[str, Any] | None = None,
    **chosen: Any,
) -> JobOptions:
    """A job from what was chosen (None: not chosen) over what the settings say. Raises ConfigError naming the field.

    `few_step` sets the scheduler, and what was not chosen of steps, guidance and strength.
    For a field of the tuning, strongest first: `tuning_overrides` (the command line's --set, the DAG's parameter);
    `batch_size`; INPAINT_TUNING_SET; INPAINT_BATCH_SIZE.
    """
    overrides: dict[str, Any] = {}
    if settings.batch_size is not None:
        overrides["batch_size"] = settings.batch_size
    overrides |= settings.tuning_set
    if batch_size is not None:
        overrides["batch_size"] = batch_size
    overrides |= tuning_overrides or {}
    fields: dict[str, Any] = {
        "model": settings.model,
        "model_revision": settings.model_revision,
        "vae": settings.vae,
        "tokenizer": settings.tokenizer,
        "loras": settings.loras,
        "device": settings.device,
        "tuning": settings.tuning,
        "scheduler": settings.scheduler,
        "prompt_syntax": settings.prompt_syntax,
        "blend": settings.blend,
        "match": settings.match,
        "grain": settings.grain,
        "sharpen": settings.sharpen,
        "format": settings.format,
        "names": settings.names,
        "fill": settings.fill,
        "fill_model": settings.fill_model,
        "clip_model": settings.clip_model,
        "lpips_model": settings.lpips_model,
        "side_products": settings.side_products,
        "use_xformers": settings.use_xformers,
        "shard_rows": settings.shard_rows,
        "failure_threshold": settings.failure_threshold,
        "tuning_overrides": overrides,
    }
    if (few_step := chosen.get("few_step")) is not None:
        fields |= _few_step_fields(few_step, chosen, fields)
    try:
        return JobOptions.model_validate(fields | {name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"a job has no option {name!r}{did_you_mean(name, _OPTIONS)}; leave it out") from None
        raise ConfigError(f"{name and f'{name}: '}{first['msg'].removeprefix('Value error, ')}") from None


FEW_STEPS: dict[str, Scheduler] = {"lcm": "lcm", "lightning": "euler_trailing", "hyper": "ddim_trailing"}
"""The scheduler that each way asks for: the cards of latent-consistency/lcm-lora-sdxl, ByteDance/SDXL-Lightning and
ByteDance/Hyper-SD."""

_STEPS_IN_NAME = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)


def _few_step_fields(few_step: str, chosen: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Scheduler, steps, guidance and strength as the authors of `few_step` ask. Raises ConfigError.

    The steps are those that a LoRA's name says (`sdxl_lightning_8step_lora`), else 4. Guidance is off (1), but for
    LoRAs that keep it (`…-CFG-lora`). The strength is 1: the pipeline's own 0.9999 would drop one of few steps.
    """
    if few_step not in FEW_STEPS:
        raise ConfigError(f"few_step is one of {', '.join(FEW_STEPS)}, not {few_step!r}")
    if chosen.get("scheduler") not in (None, "model", FEW_STEPS[few_step]):
        raise ConfigError(
            f"few_step {few_step} sets the scheduler {FEW_STEPS[few_step]}: leave out {chosen['scheduler']}"
        )
    named = [str(getattr(one, "place", one)) for one in chosen.get("loras") or fields.get("loras") or ()]
    steps = next((int(found[1]) for found in map(_STEPS_IN_NAME.search, named) if found), 4)
    if steps == 1 and chosen.get("steps") is None:
        raise ConfigError(
            f"few_step {few_step}: a LoRA of one step needs a sampling of its own, which is not built in: "
            "use one of 2, 4 or 8 steps"
        )
    keeps_guidance = any(re.search(r"(?i)(?<![a-z])cfg(?![a-z])", one) for one in named)
    guidance = {} if keeps_guidance else {"guidance_scale": 1.0}
    return {"scheduler": FEW_STEPS[few_step], "steps": steps, "strength": 1.0, **guidance}


class Shard(Model):
    """The rows that one task instance paints."""

    name: str = Field(pattern=rf"^{SHARD_NAME}$")
    rows: int = Field(ge=1, le=2**31 - 1)
    first_row: int = Field(ge=1, le=2**31 - 1)
    last_row: int = Field(ge=1, le=2**31 - 1)


class Plan(Model):
    """`plan.json`: what was decided before any GPU was used. Put if absent: it owns the run's name."""

    schema_version: Literal[1] = 1
    run: str
    manifest: str
    manifest_sha256: str
    job: JobOptions
    rows: Count
    rejected: Count
    rejected_rows: tuple[Count, ...]
    shards: tuple[Shard, ...]
    shard_basis: str = Field(default="", description="Why a shard has so many rows.")
    forecast: Forecast | None = Field(default=None, description="What the run is expected to take.")
    warnings: tuple[str, ...] = Field(default=(), description="What reading the manifest changed or left out.")
    created_at: Moment

    @model_validator(mode="after")
    def _adds_up(self) -> Plan:
        """Shards are what `split_rows` makes, and every row is in one of them or rejected."""
        numbers = [one for shard in self.shards for one in (shard.first_row, shard.last_row)]
        if [shard.name for shard in self.shards] != [shard_name(at) for at in range(len(self.shards))]:
            raise ValueError("shards are numbered from 00000, without a gap")
        if numbers != sorted(numbers) or any(one.rows > 1 + one.last_row - one.first_row for one in self.shards):
            raise ValueError("shards follow each other, and none has more rows than lines")
        rejected = len(set(self.rejected_rows))
        if not rejected == len(self.rejected_rows) == self.rejected:
            raise ValueError("the rejected rows are not as many as the plan says")
        if sum(shard.rows for shard in self.shards) + rejected != self.rows:
            raise ValueError("the shards' rows and the rejected ones are not all rows")
        return self


class RetryPlan(Model):
    """The plan of one retry: which rows of a run are done again. Put if absent: it owns its number."""

    schema_version: Literal[1] = 1
    run: str
    number: int = Field(ge=1, le=MAX_RETRIES)
    asked: str = Field(description="Which rows, as it was asked: `failed`, `rejected`, `unchanged`, ids.")
    request: str = Field(default="", description="What asked, where it may ask again: a DAG run's id.")
    manifest: str
    manifest_sha256: str
    job: JobOptions
    shards: tuple[Shard, ...] = Field(min_length=1)
    created_at: Moment

    @property
    def rows(self) -> int:
        """How many rows are done again."""
        return sum(shard.rows for shard in self.shards)

    @model_validator(mode="after")
    def _shards_are_its_own(self) -> RetryPlan:
        if any(retry_of(shard.name) != self.number for shard in self.shards):
            raise ValueError("a shard is not of this retry")
        numbers = [one for shard in self.shards for one in (shard.first_row, shard.last_row)]
        if numbers != sorted(numbers):
            raise ValueError("shards follow each other")
        return self


def every_shard(plan: Plan, retries: Iterable[RetryPlan]) -> list[Shard]:
    """The run's own shards, then those of its retries."""
    return [*plan.shards, *(shard for retry in retries for shard in retry.shards)]


class PaintParameters(Model):
    """What one row is painted with: its own values where it has any, else the job's. The bounds are those of a row."""

    seed: int = Field(ge=0, le=MAX_SEED)
    steps: int = Field(ge=1, le=500, description="Requested; see `steps_that_run`.")
    guidance_scale: float = Field(ge=0, le=50)
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


def split_rows(
    rows: Sequence[AcceptedRow], *, shard_rows: int, max_shards: int
) -> list[tuple[Shard, Sequence[AcceptedRow]]]:
    """Cut rows into shards of at most `shard_rows`, in order; more where there would be over `max_shards`.

    A shard's rows are a slice of `rows`: of those of a ParsedManifest, none is unpacked before it is looked at.
    """
    size = max(shard_rows, math.ceil(len(rows) / max_shards))
    shards = []
    for index, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        shard = Shard(name=shard_name(index), rows=len(part), first_row=part[0].row, last_row=part[-1].row)
        shards.append((shard, part))
    return shards


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
        "guidance_scale": row.guidance_scale if row.guidance_scale is not None else job.guidance_scale,
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


def strength_of(row: AcceptedRow, job: JobOptions) -> float:
    """The row's own, else the job's."""
    return row.strength if row.strength is not None else job.strength


def steps_that_run(steps: int, strength: float) -> int:
    """The steps left of `steps` at `strength`: StableDiffusionXLInpaintPipeline.get_timesteps, diffusers 0.42.1."""
    return min(int(steps * strength), steps)
