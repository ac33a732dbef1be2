"""Records and worker reports -> RunSummary: the verdict, and every number that `run.json` and the pages show."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import Any

from inpaint_ops.records import (
    BATCH_STAGES,
    STAGES,
    ColdStart,
    DeviceInfo,
    Fault,
    Forecast,
    LedgerEntry,
    LoadTimes,
    ModelIdentity,
    Pace,
    Record,
    RetryCounts,
    RunSummary,
    WorkerReport,
    cost_of,
)
from inpaint_ops.report.accounting import Accounting, account, kept_records
from inpaint_ops.report.choices import choices_of
from inpaint_ops.report.faults import faults_in_words, merge_faults
from inpaint_ops.report.slow import slow_stages
from inpaint_ops.report.workers import WorkerTime, add_cold_starts, times_of, unreported
from inpaint_ops.tallies.spread import mostly_masked
from inpaint_ops.tallies.tally import Tally, find_among, higher
from inpaint_ops.tallies.timeline import workers_at_once
from inpaint_ops.wording import counted

_MOST = 1e15
"""The highest rate that is reported: a forged time may be close to zero."""

RANDOM_WEIGHTS = "The weights are random: the images mean nothing."
DEMO_MODEL = "Painted by the demo model, which is small and trained at 256 pixels: prompts and guidance have no effect."


def summarize(
    *,
    run: str,
    manifest: str,
    manifest_sha256: str,
    job: dict[str, Any],
    rows: int,
    failure_threshold: float,
    records: Sequence[Record],
    workers: Sequence[WorkerReport],
    row_numbers: Collection[int] | None = None,
    forecast: Forecast | None = None,
    shard_basis: str = "",
    faults: Iterable[Fault] = (),
    left_out: Sequence[str] = (),
    images_checked: int | None = None,
    idle_seconds: float = 0.0,
    retries: tuple[RetryCounts, ...] = (),
    gpu_hour_price: float | None = None,
) -> RunSummary:
    """Summarise a run.

    `rows` is how many rows the manifest has; `row_numbers` are their line numbers: with them, missing rows are named
    and not only counted. `failure_threshold` is a share, 0 to 1. `shard_basis` is the plan's. `faults` are what
    attempts recovered from, the oldest first. `left_out` names the objects of the store that were left out, one line
    for each; `images_checked` is how many images were read to compare their digests. `idle_seconds` lie between the
    run and its retries: they count for no pace.

    The verdict is VALID if every row has exactly one record and the share of failed and rejected rows is not above the
    threshold; else INVALID, with reasons.

    `images_per_second` is images, each variant of a row one, over the wall clock, from the first worker's start to the
    last row's end, and so has every cold start and every pause between attempts. `images_per_second_warm` is the pace
    without them: images over the workers' summed painting seconds (without the excess of each first batch) is the pace
    of one worker, and that times the mean number of workers that painted at once (from each one's first batch to its
    last) is the run's. Time that failed rows took counts in both. `gpu_seconds_per_image` is the workers' summed
    lifetimes over images.
    """
    kept = kept_records(records)
    return summary_of(
        Tally.of(kept),
        account(records, rows=rows, row_numbers=row_numbers),
        find_among(kept),
        run=run,
        manifest=manifest,
        manifest_sha256=manifest_sha256,
        job=job,
        failure_threshold=failure_threshold,
        workers=workers,
        forecast=forecast,
        shard_basis=shard_basis,
        faults=faults,
        left_out=left_out,
        images_checked=images_checked,
        idle_seconds=idle_seconds,
        retries=retries,
        gpu_hour_price=gpu_hour_price,
    )


def summary_of(
    tally: Tally,
    accounting: Accounting,
    find: Callable[[int], Record],
    *,
    run: str,
    manifest: str,
    manifest_sha256: str,
    job: dict[str, Any],
    failure_threshold: float,
    workers: Sequence[WorkerReport],
    forecast: Forecast | None = None,
    shard_basis: str = "",
    faults: Iterable[Fault] = (),
    left_out: Sequence[str] = (),
    images_checked: int | None = None,
    idle_seconds: float = 0.0,
    retries: tuple[RetryCounts, ...] = (),
    trace_rows: int | None = None,
    gpu_hour_price: float | None = None,
) -> RunSummary:
    """The same of records that were added up one by one; `find` gives a row's record. `trace_rows`: how many rows the
    trace shows, where that is not all. `gpu_hour_price` is what an hour of a worker costs, if that is known.
    """
    counts, reasons = accounting.counts, accounting.reasons(failure_threshold)
    stages, stage_seconds = tally.stats(), tally.stage_seconds()
    times = times_of(tally.workers, workers)
    total = sum(times.values(), WorkerTime())
    started, finished = _first_start(tally, workers), tally.finished
    seconds = max(0.0, (finished - started).total_seconds() - idle_seconds) if started and finished else 0.0
    at_once = workers_at_once(tally.windows.values())
    ledger = merge_ledgers(report.ledger for report in workers)
    recovered_faults = merge_faults(faults)
    fault_sentences = faults_in_words(recovered_faults, recovered=not reasons)
    slow = slow_stages(tally, stages, find)
    pace = _pace(tally, stage_seconds, total)
    return RunSummary(
        run=run,
        verdict="INVALID" if reasons else "VALID",
        reasons=reasons,
        warnings=(*left_out, *_warnings(tally, workers, ledger, slow, fault_sentences)),
        faults=recovered_faults,
        manifest=manifest,
        manifest_sha256=manifest_sha256,
        job=job,
        model=workers[0].model if workers else None,
        versions=_versions(workers),
        devices=_devices(workers),
        workers=len(times),
        counts=counts,
        cold_start=_mean_cold_start(workers),
        load=_mean_load([report.load for report in workers if report.load is not None]),
        seconds=seconds,
        images=tally.images,
        images_per_second=_ratio(tally.images, seconds),
        images_per_second_warm=_ratio(tally.images * at_once, total.painting) if tally.images else None,
        gpu_seconds_per_image=_ratio(total.lifetime, tally.images) if times else None,
        gpu_seconds=total.lifetime if times else None,
        cost=cost_of(total.lifetime, gpu_hour_price) if times else None,
        stages=stages,
        stage_seconds=stage_seconds,
        peak_memory=reduce(higher, (report.peak_memory for report in workers), tally.peak),
        ledger=ledger,
        images_checked=images_checked,
        retries=retries,
        failures=dict(Counter({name: group.count for name, group in tally.failures.items()}).most_common()),
        started_at=started,
        finished_at=finished,
        measures={one.measure.name: found for one in tally.spreads if (found := one.summary()) is not None},
        flags=dict(tally.flags.most_common()),
        flagged=tally.flagged,
        pace=pace,
        profiles=tuple(report.profile for report in workers if report.profile),
        choices=choices_of(tally, workers, stage_seconds, pace),
        forecast=forecast,
        shard_basis=shard_basis,
        trace_rows=trace_rows,
    )


def _pace(tally: Tally, seconds: Mapping[str, float], total: WorkerTime) -> Pace | None:
    """What an image took. The excess of first batches belongs to the cold start, so it is taken out in proportion."""
    images, steps = tally.images_with_steps, tally.steps
    denoise = seconds.get("denoise", 0.0)
    shared = sum(seconds.get(stage, 0.0) for stage in STAGES if stage in BATCH_STAGES)
    if not images or denoise <= 0 or total.painting <= 0:
        return None
    warm = min(1.0, total.painting / shared)
    return Pace(
        images=images,
        steps=steps / images,
        step_seconds=warm * denoise / tally.canvas_steps,
        other_seconds=warm * (shared - denoise) / tally.canvases,
        waiting_seconds=total.waiting / images,
        canvases={
            crop: found["canvases"] / found["images"] for crop, found in tally.cropped.items() if found["images"]
        },
    )


def merge_ledgers(ledgers: Iterable[Sequence[LedgerEntry]]) -> tuple[LedgerEntry, ...]:
    """One ledger for a run: equal entries of several workers become one, with the mean of what each measured.

    Workers whose entries differ, such as those on another GPU, keep one entry each.
    """
    same: dict[tuple[str, str, str, bool, str], list[LedgerEntry]] = {}
    for entry in (entry for ledger in ledgers for entry in ledger):
        same.setdefault((entry.name, entry.requested, entry.effective, entry.matches, entry.reason), []).append(entry)
    merged = []
    for entries in same.values():
        names = dict.fromkeys(name for entry in entries for name in entry.measured)
        measured = {
            name: statistics.fmean(entry.measured[name] for entry in entries if name in entry.measured)
            for name in names
        }
        merged.append(entries[0].model_copy(update={"measured": measured}))
    return tuple(merged)


def _warnings(
    tally: Tally,
    workers: Sequence[WorkerReport],
    ledger: Sequence[LedgerEntry],
    slow: Sequence[str],
    faults: Sequence[str],
) -> tuple[str, ...]:
    found = []
    if any(report.model.random_weights for report in workers):
        found.append(RANDOM_WEIGHTS)
    if any(report.model.demo_model for report in workers):
        found.append(DEMO_MODEL)
    models = dict.fromkeys(_model_name(report.model) for report in workers)
    if len(models) > 1:
        found.append(f"The workers painted with different weights: {', '.join(models)}.")
    for entry in ledger:
        if not entry.matches:
            why = f": {entry.reason}" if entry.reason else ""
            found.append(f"{entry.name}: {entry.requested} was requested, {entry.effective} took effect{why}.")
    found += faults
    unclean = [report for report in workers if report.exit != "clean"]
    if unclean:
        ends = "; ".join(f"{report.worker.host}/{report.worker.pid}: {report.exit}" for report in unclean[:10])
        more = f"; and {len(unclean) - 10:,} more" if len(unclean) > 10 else ""
        found.append(f"{len(unclean):,} of {len(workers):,} workers did not exit clean ({ends}{more}).")
    silent = unreported(tally.workers, workers)
    if not workers and tally.done:
        found.append("No worker left a report: only the records say that this program painted the images.")
    if silent:
        left = counted(len(silent), "worker left", "workers left")
        found.append(f"{left} no report; the lifetimes count only until the last record.")
    found += slow
    if failed := tally.failed_variants:
        rows = tally.rows_with_failed_variants
        found.append(
            f"{counted(failed, 'variant')} of {counted(rows, 'done row')} "
            "have no image: results.jsonl says why (variants)."
        )
    if missing := tally.without_side_products.total():
        why = tally.without_side_products.most_common(1)[0][0]
        found.append(
            f"{counted(missing, 'image misses', 'images miss')} files that were asked for beside "
            f"(side_product_problem): {why}."
        )
    if missing := tally.without_scores.total():
        why = tally.without_scores.most_common(1)[0][0]
        found.append(f"{counted(missing, 'image misses', 'images miss')} a score (measures.score_problem): {why}.")
    for one in tally.spreads:
        if one.measure.name == "mask_share":
            found += mostly_masked(one.above(0.5), one.count)
        if len(one.models) > 1:
            found.append(
                f"{one.measure.label}: rows were scored by different models ({', '.join(one.models)}). Their values "
                "say nothing about each other, so no row is flagged by them."
            )
    if converted := tally.converted:
        kinds = dict(tally.conversions.most_common())
        shown = ", ".join(f"{text} ({count:,})" for text, count in list(kinds.items())[:5])
        more = f", and {len(kinds) - 5:,} more kinds" if len(kinds) > 5 else ""
        found.append(f"{counted(converted, 'image was', 'images were')} converted: {shown}{more}.")
    reported = dict.fromkeys((report.attempt, text) for report in workers for text in report.warnings)
    times = Counter(text for _, text in reported)  # later workers of an attempt repeat the warnings of earlier ones
    found += [f"{text} (in {count:,} attempts)" if count > 1 else text for text, count in times.most_common()]
    return tuple(found)


def _model_name(model: ModelIdentity) -> str:
    revision = f"@{model.revision}" if model.revision else ""
    digest = f" ({model.digest[:12]})" if model.digest else ""
    vae = f" with the VAE {model.vae} ({model.vae_digest[:12]})" if model.vae else ""
    loras = "".join(f" with the LoRA {one.name} ({one.digest[:12]})" for one in model.loras)
    return f"{model.name}{revision}{digest}{vae}{loras}"


def _first_start(tally: Tally, workers: Iterable[WorkerReport]) -> datetime | None:
    """The first worker's start; without any worker, the first row's."""
    starts = [report.worker.started_at for report in workers]
    starts += [started for _, _, started in tally.workers if started is not None]
    return min(starts, default=tally.first_start)


def _versions(workers: Iterable[WorkerReport]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for report in workers:
        for name, version in report.versions.items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}


def _devices(workers: Iterable[WorkerReport]) -> tuple[DeviceInfo, ...]:
    """Each device once: its free memory differs from worker to worker, its identity does not."""
    found: dict[tuple[str, ...], DeviceInfo] = {}
    for report in workers:
        device = report.device
        host = "" if device.uuid else report.worker.host
        found.setdefault((device.kind, device.name, device.uuid, device.driver, host), device)
    return tuple(found.values())


def _mean_cold_start(workers: Sequence[WorkerReport]) -> ColdStart | None:
    if not workers:
        return None
    total = add_cold_starts(report.cold_start for report in workers)
    return ColdStart(**{name: seconds / len(workers) for name, seconds in total.model_dump().items()})


def _mean_load(parts: Sequence[LoadTimes]) -> LoadTimes | None:
    """The mean of each part; of the download, which workers of one cache share, the longest."""
    if not parts:
        return None
    names = [name for name in LoadTimes.model_fields if name != "download"]
    means = {name: statistics.fmean(getattr(part, name) for part in parts) for name in names}
    fetched = [part.download for part in parts if part.download is not None]
    return LoadTimes(download=max(fetched, default=None), **means)


def _ratio(over: float, under: float) -> float | None:
    return min(over / under, _MOST) if under > 0 else None
