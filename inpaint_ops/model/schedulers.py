"""The schedulers that a job may name, made from the model's own noise schedule."""

from __future__ import annotations

from typing import Any

import diffusers

from inpaint_ops.config import Scheduler
from inpaint_ops.errors import ModelError
from inpaint_ops.records import LedgerEntry

_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    # Its own default cuts latents off at 1, where the model's configuration, saved by another scheduler, does not say.
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    # As the authors of Lightning, Hyper-SD and LCM-LoRA ask: few steps must begin where training did, at pure noise.
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "ddim_trailing": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
}

_NOT_FOR_SAMPLES = ("euler_a", "heun")
"""What diffusers 0.42.1 has no formula for where the UNet predicts the clean latents (prediction_type `sample`)."""


def apply(pipe: Any, name: Scheduler) -> None:
    """Give `pipe` the scheduler called `name`; `model` leaves the one that the model came with.

    Its betas, prediction type and spacing are those of the model's own scheduler (`from_config`). Raises ModelError for
    one that cannot serve the model.
    """
    if name in _NOT_FOR_SAMPLES and pipe.scheduler.config.get("prediction_type") == "sample":
        others = ", ".join(["model", *(other for other in _CLASSES if other not in _NOT_FOR_SAMPLES)])
        raise ModelError(f"the scheduler {name} cannot serve a model that predicts clean latents: use one of {others}")
    if name != "model":
        kind, options = _CLASSES[name]
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)


def inspect(pipe: Any, name: Scheduler) -> LedgerEntry:
    """What the pipeline steps with, read off the pipeline."""
    held = type(pipe.scheduler).__name__
    karras = bool(pipe.scheduler.config.get("use_karras_sigmas", False))
    if name == "model":
        found = (key for key, (kind, options) in _CLASSES.items()
                 if kind == held and bool(options.get("use_karras_sigmas")) == karras)  # fmt: skip
        return LedgerEntry(
            name="scheduler", requested=name, effective=next(found, held), matches=True, reason="the model's own"
        )
    kind, options = _CLASSES[name]
    matches = held == kind and all(pipe.scheduler.config.get(key) == value for key, value in options.items())
    return LedgerEntry(
        name="scheduler", requested=name, effective=name if matches else held, matches=matches,
        reason="" if matches else "another call has set it",
    )  # fmt: skip
