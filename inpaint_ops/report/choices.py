"""What the choices of a job cost: LoRAs loaded, chunks of prompts encoded, further images of rows. Pure.

Nothing is measured for this: the figures are the workers' own, of their loading and their ledgers, and the pace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from inpaint_ops.records import ChoiceCost, LedgerEntry, Pace, WorkerReport
from inpaint_ops.tallies.tally import Tally
from inpaint_ops.wording import counted


def choices_of(
    tally: Tally, workers: Sequence[WorkerReport], stage_seconds: Mapping[str, float], pace: Pace | None
) -> tuple[ChoiceCost, ...]:
    """One for each choice that the run made; seconds are those of all workers together."""
    return (
        *_loras(workers),
        *_prompts(workers, stage_seconds),
        *_cutoffs(tally),
        *_fills(tally),
        *_side_products(tally),
        *_variants(tally, pace),
    )


def _loras(workers: Sequence[WorkerReport]) -> Iterator[ChoiceCost]:
    loaded = [report for report in workers if report.model.loras]
    if not loaded:
        return
    names = dict.fromkeys(one.name for report in loaded for one in report.model.loras)
    times = [report.load.loras for report in loaded if report.load is not None]
    yield ChoiceCost(
        choice="loras",
        count=len(names),
        seconds=sum(times) if times else None,
        what=f"LoRAs loaded ({', '.join(names)}), by {counted(len(loaded), 'worker')}",
    )


def _prompts(workers: Sequence[WorkerReport], stage_seconds: Mapping[str, float]) -> Iterator[ChoiceCost]:
    chunks = sum(measured(report.ledger, "chunks_encoded") for report in workers)
    texts = sum(measured(report.ledger, "texts_encoded") for report in workers)
    if not chunks:
        return
    before = sum(report.cold_start.prompts for report in workers)
    yield ChoiceCost(
        choice="prompts",
        count=round(chunks),
        seconds=before + stage_seconds.get("encode_prompt", 0.0),
        what=f"chunks of 77 tokens encoded, of {counted(round(texts), 'text')}",
    )


def measured(ledger: Sequence[LedgerEntry], name: str) -> float:
    """What a worker's ledger has measured under `name`, in whichever entry; 0 where nothing."""
    return next((entry.measured[name] for entry in ledger if name in entry.measured), 0.0)


def _cutoffs(tally: Tally) -> Iterator[ChoiceCost]:
    if tally.cut_images:
        steps = f"{tally.unguided_steps:,} of their {tally.cut_steps:,} steps"
        what = f"images whose guidance ended before their last step: {steps} ran without it"
        yield ChoiceCost(choice="guidance_cutoff", count=tally.cut_images, seconds=None, what=what)


def _fills(tally: Tally) -> Iterator[ChoiceCost]:
    if tally.fills:
        kinds = ", ".join(f"{fill} {count:,}" for fill, count in tally.fills.most_common())
        what = f"rows whose masked area was filled before it was encoded ({kinds})"
        yield ChoiceCost(choice="fill", count=tally.fills.total(), seconds=None, what=what)


def _side_products(tally: Tally) -> Iterator[ChoiceCost]:
    if tally.side_products:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in tally.side_products.most_common())
        what = f"files beside images ({kinds}), {tally.side_product_bytes / 1e6:,.1f} MB"
        yield ChoiceCost(choice="side_products", count=tally.side_products.total(), seconds=None, what=what)


def _variants(tally: Tally, pace: Pace | None) -> Iterator[ChoiceCost]:
    further = tally.further_images
    if not tally.rows_with_variants:
        return
    rows = counted(tally.rows_with_variants, "row")
    canvases = tally.canvases / tally.images_with_steps if tally.images_with_steps else 1.0
    seconds = further * canvases * (pace.steps * pace.step_seconds + pace.other_seconds) if pace else None
    yield ChoiceCost(
        choice="variants",
        count=further,
        seconds=seconds,
        what=f"{'image' if further == 1 else 'images'} beyond the first, of {rows} with variants; seconds by the run's "
        "mean image",
    )
