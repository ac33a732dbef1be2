"""What the DAG is triggered with so that rows run again as their run did."""

from __future__ import annotations

from typing import Any, get_args

from inpaint_ops.browse import RunView
from inpaint_ops.records import LoraChoice
from inpaint_ops.records.loras import parse_lora
from inpaint_ops.tuning import Preset

_CHOSEN = (
    "model", "model_revision", "vae", "tokenizer", "tuning", "tuning_overrides", "use_xformers", "scheduler",
    "few_step", "prompt_syntax", "quality", "steps", "guidance_scale", "guidance_cutoff", "strength", "blend", "match",
    "grain", "sharpen", "format", "fill", "fill_model", "clip_model", "lpips_model", "side_products",
    "failure_threshold", "shard_rows", "project",
)  # fmt: skip
"""Of the job's options: all that change pixels or tuning. Texts are in the rows, since a manifest of rows has them;
names, variants and samples belong to the run that they were chosen for."""
_TUNINGS = get_args(Preset)


def rerun_conf(view: RunView, manifest: str) -> dict[str, Any]:
    """The DAG run's `conf` for a manifest of rows of this run, with the options of the run."""
    job = view.plan.job.model_dump(mode="json", include=set(_CHOSEN), exclude_none=True)
    if job.get("tuning") not in _TUNINGS:
        job.pop("tuning", None)
    for name in ("tuning_overrides", "side_products"):
        if not job[name]:
            job.pop(name)
    if view.plan.job.loras:  # as the DAG's form takes them
        job["loras"] = [_lora(one) for one in view.plan.job.loras]
    return {"manifest": manifest, **job}


def _lora(choice: LoraChoice) -> str:
    """The LoRA as `parse_lora` reads it; its name only where that is not the file's own."""
    whole = f"{choice.place}:{choice.weight:f}"
    parsed = LoraChoice.model_validate(parse_lora(whole))
    return whole if parsed.name == choice.name else f"{choice.name}={whole}"
