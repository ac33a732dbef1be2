"""What each row of a manifest has to do, found out in one pass, and the rows that cannot be painted as the job asks."""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections.abc import Iterable
from itertools import compress, islice
from typing import NamedTuple

from inpaint_ops.manifest import STEPS, AcceptedRow, ParsedManifest, RejectedRow
from inpaint_ops.planning import (
    NO_FILL_MODEL,
    JobOptions,
    cutoff_of,
    guidance_of,
    no_guidance,
    parameters,
    planned,
    steps_of,
    steps_that_run,
    strength_of,
)
from inpaint_ops.protocol import guided_steps
from inpaint_ops.records import ErrorInfo, parse_row_lora


def _unknown_loras(row: AcceptedRow, job: JobOptions) -> list[str]:
    """Names of LoRAs that the row asks for and the job does not have."""
    if not row.loras:
        return []
    known = {one.name for one in job.loras}
    return [name for name, _ in map(parse_row_lora, row.loras) if name not in known]


CROPS = ("", "regions", "tiles")
"""Values of `crop` of which a mask may be painted on several canvases, after that of all others."""


class RowWork(NamedTuple):
    """What each row of a manifest has to do, in the order of the rows."""

    steps: array[int]
    """Denoising steps of one image that will really run; 0 where the row cannot be painted."""
    images: array[int]
    """Its variants."""
    texts: array[int]
    """A number for its prompt: equal ones are one text."""
    chunks: array[int]
    """Chunks that its prompt has, by an estimate."""
    crops: array[int]
    """Its place in `CROPS`: whether its mask may be painted on several canvases."""
    unguided: array[int]
    """Of its steps the last ones, which run without guidance since its cutoff says so."""

    def part(self, which: slice) -> RowWork:
        """That of some of the rows."""
        return RowWork(*(column[which] for column in self))


def row_work(rows: Iterable[AcceptedRow], job: JobOptions) -> RowWork:
    """What the rows have to do; each is unpacked once."""
    work = RowWork(array("H"), array("B"), array("q"), array("B"), array("B"), array("H"))
    for row in rows:
        work.steps.append(steps := _steps_to_run(row, job))
        work.unguided.append(steps and steps - guided_steps(steps, cutoff_of(row, job)))
        work.images.append(row.variants or job.variants)
        work.texts.append(hash((row.prompt, row.prompt_2)))
        work.crops.append(CROPS.index(row.crop) if row.crop in CROPS else 0)
        work.chunks.append(max(chunks_estimated(row.prompt), chunks_estimated(row.prompt_2 or "")))
    return work


_TOKENS = re.compile(r"[^\W\d_]{1,8}|\d|[^\w\s]|_")
"""Pieces of about a token each: CLIP's tokenizer takes words, digits and signs apart, and long words too."""
_CHUNK_TOKENS, _MOST_CHUNKS = 75, 4


def chunks_estimated(text: str) -> int:
    """Chunks of 77 tokens that a text probably has: no tokenizer is at hand where a run is planned. At least 1."""
    if len(text) <= _CHUNK_TOKENS:  # a token has a character at least
        return 1
    tokens = sum(1 for _ in islice(_TOKENS.finditer(text), _MOST_CHUNKS * _CHUNK_TOKENS))
    return max(1, math.ceil(tokens / _CHUNK_TOKENS))


def _steps_to_run(row: AcceptedRow, job: JobOptions) -> int:
    return (
        0
        if _unknown_loras(row, job)
        or _asks_for_quality(row, job)
        or _lacks_network(row, job)
        or _lacks_guidance(row, job)
        else steps_that_run(steps_of(row, job), strength_of(row, job))
    )


def reject_rows_without_steps(parsed: ParsedManifest, job: JobOptions) -> tuple[ParsedManifest, RowWork]:
    """The manifest with those rows rejected whose steps and strength, theirs or the job's, leave nothing to denoise, or
    which name a LoRA that the job does not have.

    Beside it what each accepted row has to do, as `row_work` gives it: the rows are unpacked once for both.
    """
    work = row_work(parsed.accepted, job)
    if all(work.steps):
        return parsed, work
    without = (_unpaintable(row, job) for row in parsed.accepted if not _steps_to_run(row, job))
    kept = with_rejected(parsed, (row for row in parsed.accepted if _steps_to_run(row, job)), without)
    return kept, kept_work(work, map(bool, work.steps))


def kept_work(work: RowWork, kept: Iterable[bool]) -> RowWork:
    """That of the kept rows alone."""
    marks = list(kept)
    return RowWork(*(array(column.typecode, compress(column, marks)) for column in work))


def with_rejected(
    parsed: ParsedManifest, accepted: Iterable[AcceptedRow], rejected: Iterable[RejectedRow]
) -> ParsedManifest:
    """A manifest of these accepted rows, with further rejected ones, which are in order too."""
    return ParsedManifest.packed(
        accepted, heapq.merge(parsed.rejected, rejected, key=lambda row: row.row), parsed.notes
    )


def _asks_for_quality(row: AcceptedRow, job: JobOptions) -> bool:
    """Whether the row names a number of steps by its quality, which a job of few steps has another meaning for."""
    return job.few_step is not None and row.quality is not None


def _lacks_network(row: AcceptedRow, job: JobOptions) -> bool:
    """Whether the row is to be filled by a network that the job does not have."""
    return row.fill == "lama" and job.fill_model is None


def _lacks_guidance(row: AcceptedRow, job: JobOptions) -> bool:
    """Whether the row asks that guidance ends early, and has none."""
    return row.guidance_cutoff is not None and row.guidance_cutoff < 1 and guidance_of(row, job) <= 1


def _unpaintable(row: AcceptedRow, job: JobOptions) -> RejectedRow:
    settled, field = parameters(row, job), "steps"
    message = (
        f"row {row.row}: steps: {settled.steps} at a strength of {settled.strength:g} leave no denoising step: "
        "ask for more steps, or a strength of 1"
    )
    if unknown := _unknown_loras(row, job):
        known = ", ".join(one.name for one in job.loras) or "none"
        message = (
            f"row {row.row}: loras: the job has no LoRA called {unknown[0][:60]!r} (it has: {known}): "
            f"give it with --lora {unknown[0][:60]}=PATH, or correct the row"
        )
        field = "loras"
    elif _asks_for_quality(row, job):
        message = (
            f"row {row.row}: quality: {row.quality} means {STEPS[str(row.quality)]} steps, and the job paints in few "
            f"({job.few_step}): leave it out, or give steps"
        )
        field = "quality"
    elif _lacks_network(row, job):
        message, field = f"row {row.row}: fill: lama: {NO_FILL_MODEL}", "fill"
    elif _lacks_guidance(row, job):
        why = no_guidance(settled.guidance_scale, job.few_step if row.guidance_scale is None else None)
        message, field = f"row {row.row}: guidance_cutoff: {row.guidance_cutoff:g} {why}", "guidance_cutoff"
    error = ErrorInfo(type="RowError", stage="validate", message=message, permanent=True, field=field)
    return RejectedRow(row.row, row.id, error, row.prompt, planned(row, job).as_manifest_row())
