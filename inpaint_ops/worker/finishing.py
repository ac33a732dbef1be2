"""How the fields of a row and of its job become what its picture is finished by, and what it says of its making."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inpaint_ops import __version__, images
from inpaint_ops.protocol import Item, Job
from inpaint_ops.records import ModelIdentity

if TYPE_CHECKING:
    from inpaint_ops.engine import PaintResult


def join_options(item: Item, alpha: images.Alpha) -> images.JoinOptions:
    """How the row's patch shall be joined; its grain is seeded by the row's seed."""
    return images.JoinOptions(item.blend, item.mask_blur, item.match, item.grain, item.seed, alpha, item.sharpen)


def jpeg_options(job: Job) -> images.JpegOptions:
    """How the job's JPEGs are written."""
    return images.JpegOptions(job.jpeg_quality, job.jpeg_chroma, job.jpeg_progressive)


def avif_options(job: Job) -> images.AvifOptions:
    """How the job's AVIFs are written."""
    return images.AvifOptions(job.avif_quality, job.avif_chroma)


def making(
    item: Item, model: ModelIdentity, size: tuple[int, int], result: PaintResult, scheduler: str
) -> images.Making:
    """What the row's picture says of its making: painted at `size` (width, height), with the result's steps."""
    return images.Making(
        tool=f"inpaint-ops {__version__}",
        model=_model_and_loras(model, item),
        digest=model.digest,
        prompt=_both(item.prompt, item.prompt_2),
        negative_prompt=_both(item.negative_prompt or "", item.negative_prompt_2) or None,
        seed=item.seed,
        steps=result.steps,
        guidance_scale=item.guidance_scale,
        unguided_steps=result.unguided_steps,
        strength=item.strength,
        scheduler=scheduler,
        size=size,
    )


def loras_in_use(item: Item) -> tuple[tuple[str, float], ...]:
    """What the row is painted with: of weight 0 is as if it were not there."""
    return tuple(sorted((name, weight) for name, weight in item.loras.items() if weight))


def _both(first: str, second: str | None) -> str:
    """A text as an image's marks show it, with the second text encoder's where it has another."""
    return first if second in (None, first) else f"{first} (second text encoder: {second})"


def _model_and_loras(model: ModelIdentity, item: Item) -> str:
    digests = {one.name: one.digest[:16] for one in model.loras}
    name = f"{model.name}@{model.revision}" if model.revision else model.name
    return name + "".join(f" + LoRA {one} {weight:g} ({digests.get(one, '')})" for one, weight in loras_in_use(item))
