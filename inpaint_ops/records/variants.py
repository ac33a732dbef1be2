"""A row's variants -> the row's record: which of them is picked, and how well each fits. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inpaint_ops.records.measures import Measures
from inpaint_ops.records.painted import BATCH_STAGES, LOG_BYTES, LOG_LINES, STAGES, Timings
from inpaint_ops.records.rows import Pick, PickedBy, Record, Variant

_FREE_SEAM, _FREE_SHIFT = 1.25, 4.0
"""Up to here a seam contrast and a colour shift are not seen: the figures below which no row is flagged."""


def fit_score(measures: Measures | None) -> float | None:
    """How well a patch fits its surroundings, from 0 to 1: 1 / (1 + penalty). None: nothing was measured.

    The penalty is a sum of binary logarithms: of the seam contrast over 1.25, of 1 + the colour shift over 5, neither
    below 0, and half of those of sharpness and grain, whichever way they are off 1. A measure that is missing counts
    nothing: it is missing for all variants of a row, whose mask is one. The score sees no content: an image that
    ignores its prompt can have the best one.
    """
    if measures is None:
        return None
    parts = []
    if measures.seam_contrast is not None:
        parts.append(max(0.0, math.log2(max(measures.seam_contrast, 1e-9) / _FREE_SEAM)))
    if measures.colour_shift is not None:
        parts.append(max(0.0, math.log2((1 + measures.colour_shift) / (1 + _FREE_SHIFT))))
    for ratio in (measures.sharpness_ratio, measures.grain_ratio):
        if ratio is not None:
            parts.append(abs(math.log2(max(ratio, 1e-9))) / 2)
    return 1 / (1 + sum(parts)) if parts else None


def pick_of(variants: Sequence[Variant], by: PickedBy) -> Pick | None:
    """The first done variant, or of the done ones that with the best score or the highest CLIP score, the first of
    equals; None: none is done. Where none has a CLIP score, the best score counts, and the pick says so.
    """
    done = [one for one in variants if one.status == "done"]
    if not done:
        return None
    if by == "clip":
        scored = [one for one in done if one.measures is not None and one.measures.clip is not None]
        done, by = (scored, by) if scored else (done, "best")
    if by not in ("best", "clip"):
        return Pick(variant=done[0].variant, by=by)

    def rank(one: Variant) -> tuple[float, float, int]:
        clip = one.measures.clip if by == "clip" and one.measures is not None else None
        return clip or 0.0, -1.0 if one.score is None else one.score, -one.variant

    return Pick(variant=max(done, key=rank).variant, by=by)


def of_variant(record: Record, variant: int | None, by: PickedBy) -> Record | None:
    """The row's record with another of its variants as its image; None where that one has none, or is not there.

    What only the variant's own record has (its joining, conversions, memory) stays that of the one picked before.
    """
    if variant is None or (record.pick is not None and record.pick.variant == variant):
        return record
    found = next((one for one in record.variants if one.variant == variant and one.output is not None), None)
    if found is None:
        return None
    same = {
        name: getattr(found, name)
        for name in ("seed", "output", "thumbnails", "side_products", "side_product_problem", "measures", "batch")
    }
    return record.model_copy(update={**same, "pick": Pick(variant=variant, by=by)})


def row_record(records: Sequence[Record], by: PickedBy) -> Record:
    """The record of a row whose variants have ended, one record each, by their numbers from 0.

    It is done where one of them is, with the fields of the picked one; else failed, with those of the first.
    """
    variants = tuple(_variant(record) for record in sorted(records, key=lambda record: record.variant or 0))
    pick = pick_of(variants, by)
    of = {record.variant: record for record in records}
    shown = of[pick.variant if pick else 0]
    together = {stage: _sum(records, stage) for stage in STAGES if stage not in BATCH_STAGES}
    return shown.model_copy(
        update={
            "variant": None,
            "variants": variants,
            "pick": pick,
            "log": _log(records),
            "timings": Timings(**(shown.timings.model_dump() | together)),
            "started_at": min(record.started_at for record in records),
            "finished_at": max(record.finished_at for record in records),
        }
    )


def _variant(record: Record) -> Variant:
    same = {name: getattr(record, name) for name in Variant.model_fields if name != "score"}
    return Variant(**same, score=fit_score(record.measures) if record.status == "done" else None)


def _log(records: Sequence[Record]) -> tuple[str, ...]:
    """The lines of all variants, less those of the first where a record does not take as many."""
    lines: list[str] = []
    for text in reversed([text for record in records for text in record.log]):
        if len(lines) == LOG_LINES or sum(len(one.encode()) for one in (text, *lines)) > LOG_BYTES:
            break
        lines.append(text)
    return tuple(reversed(lines))


def _sum(records: Sequence[Record], stage: str) -> float | None:
    values = [value for record in records if (value := getattr(record.timings, stage)) is not None]
    return sum(values) if values else None
