"""The commands to a worker: its job, and each of its rows."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from inpaint_ops.config import Settings
from inpaint_ops.manifest import Row
from inpaint_ops.planning import JobOptions, PaintParameters
from inpaint_ops.protocol import MAX_PROMPTS, Item, Job, Text, text_of
from inpaint_ops.records import LoraFile
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.supervisor.received import OUTPUT, Expected


def job_command(
    options: JobOptions,
    settings: Settings,
    files: Collection[RowFiles],
    folder: Path,
    loras: tuple[LoraFile, ...] = (),
) -> Job:
    """What to load and how, for the rows to come; `folder` is the worker's own, `loras` are on this machine."""
    return Job(
        model=options.model,
        revision=options.model_revision,
        vae=options.vae,
        tokenizer=options.tokenizer,
        fill_model=options.fill_model if any(one.row.parameters.fill == "lama" for one in files) else None,
        clip_model=options.clip_model,
        lpips_model=options.lpips_model,
        loras=loras,
        fuse_loras=_one_set(files) if loras else None,
        device=options.device,
        tuning=options.tuning,
        tuning_overrides=options.tuning_overrides,
        use_xformers=options.use_xformers,
        scheduler=options.scheduler,
        prompt_syntax=options.prompt_syntax,
        expected_rows=len(files),
        prompts=_prompts(files),
        max_pixels=settings.max_pixels,
        mask_resize=settings.mask_resize,
        alpha=settings.alpha,
        png=settings.png,
        jpeg_quality=settings.jpeg_quality,
        jpeg_chroma=settings.jpeg_chroma,
        jpeg_progressive=settings.jpeg_progressive,
        avif_quality=settings.avif_quality,
        avif_chroma=settings.avif_chroma,
        thumbnails=settings.thumbnails == "on",
        metadata=settings.metadata,
        provenance=settings.provenance,
        frames=settings.frames,
        profile=options.profile,
        unchanged_threshold=settings.unchanged_threshold,
        scratch=str(folder),
        cuda_wait=settings.cuda_wait,
        leases=settings.leases,
        lease_timeout=settings.lease_timeout,
    )


_OPTIONS = Item.model_fields.keys() & Row.model_fields.keys() - {"id", "image", "mask", "prompt", "negative_prompt"}
_OPTIONS -= PaintParameters.model_fields.keys() | {"format"}
"""The fields of a row that its worker gets as they are: those that Item has by the same name."""


def item_command(files: RowFiles) -> Item:
    """One row, whose files lie in its folder."""
    row = files.row
    return Item(
        row=files.number,
        id=row.id,
        image=str(files.folder / "image"),
        mask=str(files.folder / "mask"),
        output=str(files.folder / OUTPUT),
        prompt=row.prompt,
        negative_prompt=row.negative_prompt,
        **row.parameters.model_dump(exclude={"variants"}),
        format=row.output_format,
        as_source=row.format == "source",
        **{name: getattr(row, name) for name in _OPTIONS},
    )


def expected_output(files: RowFiles, settings: Settings, owner: int) -> Expected:
    """What the worker, which runs as the user `owner`, must leave in a row's folder."""
    return Expected(files.folder, files.row.output_format, settings.max_pixels, owner, files.size)


def _one_set(files: Collection[RowFiles]) -> dict[str, float] | None:
    """The LoRAs that every row to come is painted with; None where rows differ."""
    sets = ({name: weight for name, weight in one.row.parameters.loras.items() if weight} for one in files)
    first = next(sets, None)
    return None if any(other != first for other in sets) else first


def _prompts(files: Collection[RowFiles]) -> tuple[Text, ...] | None:
    """Every distinct prompt of the rows to come; None where they are too many to keep."""
    rows = [one.row for one in files]
    both = (
        text
        for row in rows
        for text in (text_of(row.prompt, row.prompt_2), text_of(row.negative_prompt, row.negative_prompt_2))
    )
    texts = dict.fromkeys(text for text in both if text is not None)
    return tuple(texts) if len(texts) <= MAX_PROMPTS else None
