"""What the person who starts a run may choose, and the defaults under it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from inpaint_ops.config import (
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
from inpaint_ops.manifest import Quality, RowDefaults, check_template, fields_of
from inpaint_ops.records import MAX_VARIANTS, Loras, Model, check_names

GUIDANCE_SCALE = 7.5
"""The inpainting pipeline's own default."""

STRENGTH = 0.9999
"""The inpainting pipeline's own default. It drops one step: 29 of 30 run, and the record says 29."""

PROJECT = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$"
"""What a project may be called."""

NO_FILL_MODEL = f"it needs a network, which this package does not have: {FILL_MODEL_CURE}, or choose another fill"
"""Why `lama` cannot be had."""


def no_guidance(scale: float, few_step: str | None) -> str:
    """Why guidance cannot be cut off, and the cure: the rest of a sentence that begins with the cutoff."""
    whose = f", few_step {few_step}" if few_step else ""
    return (
        f"would have no effect: guidance is off (guidance_scale {scale:g}{whose}): leave guidance_cutoff out, or "
        "choose a guidance_scale above 1"
    )


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
    guidance_cutoff: float = Field(
        default=1.0, gt=0, le=1, description="The share of the steps after which guidance is off; 1: it never is."
    )
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
    pick: Literal["first", "best", "clip"] = Field(default="first", description="Which variant is its row's image.")
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

    @model_validator(mode="after")
    def _has_what_it_picks_by(self) -> JobOptions:
        if self.pick == "clip" and self.clip_model is None:
            raise ValueError("pick clip: there is no model to score by: give the folder of a CLIP model (clip_model)")
        return self

    @model_validator(mode="after")
    def _has_guidance_to_cut(self) -> JobOptions:
        if self.guidance_cutoff < 1 and self.guidance_scale <= 1:
            raise ValueError(
                f"guidance_cutoff {self.guidance_cutoff:g} {no_guidance(self.guidance_scale, self.few_step)}"
            )
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
            "guidance_cutoff", "strength", "blend", "match", "grain", "sharpen", "format", "names", "fill",
            "fill_model", "clip_model", "lpips_model", "side_products", "variants", "pick", "row_limit", "sample",
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
