"""The third call: a run's records become its summary, tables, trace and page."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from inpaint_ops import report
from inpaint_ops.errors import (
    ConfigError,
    RunNotGoodError,
    StorageError,
    one_line,
)
from inpaint_ops.layout import retry_of
from inpaint_ops.machine.garbage import only_new_garbage
from inpaint_ops.planning import Plan, every_shard
from inpaint_ops.records import SCORES, ErrorInfo, RunSummary, ShardProgress, duration_in_words
from inpaint_ops.run_files.digests import Compared, compare_digests
from inpaint_ops.run_files.ended import take_back
from inpaint_ops.runs.attempts import read_notes, read_workers, recovered_faults, stopped, why_unfinished
from inpaint_ops.runs.forecasting import experience, experience_key
from inpaint_ops.runs.gallery import make_gallery
from inpaint_ops.runs.preparing import _JSON, _JSONL
from inpaint_ops.runs.results import Results, read_results
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.wording import counted

log = logging.getLogger(__name__)


@only_new_garbage()
def finish(workspace: Workspace, run: str) -> RunSummary:
    """Read a run's records and write its summary, tables, trace and page anew; `run.json` last.

    The rows go by once and are not kept (see `results`). Should an image turn out to be another than its record says,
    they go by once more, without that record.

    Raises ConfigError if there is no such run, StorageError.
    """
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: it was never planned, or its plan failed")
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-report-") as folder:
        results = read_results(workspace, plan, Path(folder, "first"))
        compared = compare_digests(
            workspace.storage, workspace.layout(run), results.sums.images, results.file.find,
            workspace.settings.check_image_bytes,
        )  # fmt: skip
        if compared.swapped:
            results = read_results(workspace, plan, Path(folder, "second"), swapped=compared.swapped)
        return _report(workspace, plan, results, compared)


def _report(workspace: Workspace, plan: Plan, results: Results, compared: Compared) -> RunSummary:
    layout, storage, left = workspace.layout(plan.run), workspace.storage, results.left
    for line in compared.lines:
        left.add(line)
    shards = {shard.name for shard in every_shard(plan, results.retries)}
    workers = read_workers(storage, layout, shards, left)
    unfinished, undone = results.unfinished(plan), results.undone()
    stops = read_notes(storage, layout.stop_notes, ErrorInfo, shards, left)
    faults = [*recovered_faults(storage, layout, shards, left), *stopped(stops, [*unfinished, *undone])]
    progress = read_notes(storage, layout.progress, ShardProgress, shards, left) if unfinished or undone else {}
    summary = report.summary_of(
        results.sums.tally,
        results.accounting(plan.rows),
        results.file.find,
        run=plan.run,
        shard_basis=plan.shard_basis,
        manifest=plan.manifest,
        manifest_sha256=plan.manifest_sha256,
        job=plan.job.model_dump(mode="json"),
        failure_threshold=plan.job.failure_threshold,
        workers=workers,
        forecast=plan.forecast,
        faults=faults,
        left_out=(*(f"manifest: {note}" for note in plan.warnings), *left.lines()),
        images_checked=compared.checked,
        idle_seconds=results.sums.history.idle_seconds(workers),
        retries=results.sums.history.counts(results.retries),
        trace_rows=results.trace.shown_rows,
        gpu_hour_price=workspace.settings.gpu_hour_price,
    )
    if undone:
        lost = (
            f"retry {retry_of(name)}: {count} of its rows have no new record, so their earlier records count; shard "
            f"{name} is unfinished: {why_unfinished(name, stops, progress.get(name))}"
            for name, count in undone.items()
        )
        summary = summary.model_copy(update={"warnings": (*summary.warnings, *lost)})
    for name in unfinished:
        take_back(storage, layout, name)
    if unfinished:
        lost = (f"shard {name} is unfinished: {why_unfinished(name, stops, progress.get(name))}" for name in unfinished)
        summary = summary.model_copy(update={"reasons": (*summary.reasons, *lost), "verdict": "INVALID"})
    for place, path, content_type in (
        (layout.results, results.file.path, _JSONL),
        (layout.failed, results.failed, _JSONL),
        (layout.timings, results.timings, "application/vnd.apache.parquet"),
        (layout.trace, results.written_trace(workers), _JSON),
    ):
        storage.put(place, path, content_type=content_type)
    gallery = make_gallery(
        storage, workspace.settings, [results.file.find(row) for row in results.sums.tally.gallery()]
    )
    page = report.render_facts(
        summary, report.facts_of(results.sums.tally, workers, find=results.file.find), gallery.items, workers=workers,
        without_pictures=gallery.left_out,
    )  # fmt: skip
    storage.put(layout.report, page.encode(), content_type="text/html; charset=utf-8")
    storage.put(layout.summary, summary.model_dump_json(indent=1).encode(), content_type=_JSON)
    _remember(workspace, plan, summary)
    return summary


def _remember(workspace: Workspace, plan: Plan, summary: RunSummary) -> None:
    """Leave what the next forecast needs. The run is finished without it, so a refusal is only logged."""
    measured = experience(summary)
    if measured is None:
        return
    place = workspace.places.experience(experience_key(plan.job), plan.run)
    try:
        workspace.storage.put(place, measured.model_dump_json().encode(), content_type=_JSON)
    except StorageError as error:
        log.warning("the next forecast will not know of this run: %s", error)


def summary_lines(workspace: Workspace, summary: RunSummary) -> list[str]:
    """The summary for a terminal or a task's log, one line each: verdict and counts, reasons, warnings, pace, place."""
    counts = summary.counts
    lines = [
        f"{summary.verdict}: {counts.done} done, {counts.failed} failed, {counts.rejected} rejected of {counts.rows}",
        *(f"  - {line}" for line in (*summary.reasons, *summary.warnings)),
        *(
            f"  retry {one.number} ({one.asked}): {one.done} done, {one.failed} failed of {one.rows}"
            for one in summary.retries
        ),
    ]
    if summary.images_per_second:
        warm = f", {summary.images_per_second_warm:.3f} while painting" if summary.images_per_second_warm else ""
        lines.append(f"  {summary.images_per_second:.3f} images/s in {summary.seconds:.1f} s{warm}")
    for name in SCORES:
        if (spread := summary.measures.get(name)) is not None:
            lines.append(
                f"  {name}: median {spread.median:.3g}, from {spread.p5:.3g} (p5) to {spread.p95:.3g} (p95), of "
                f"{counted(spread.count, 'row')}, by {' and '.join(spread.models)}"
            )
    if summary.flagged:
        kinds = ", ".join(f"{name} {count}" for name, count in summary.flags.items())
        differ = counted(summary.flagged, "done row differs", "done rows differ")
        lines.append(f"  {differ} from the others: {kinds} (report.html lists them)")
    if summary.gpu_seconds:
        cost = f", cost {summary.cost:,.2f}" if summary.cost is not None else ""
        lines.append(f"  {duration_in_words(summary.gpu_seconds)} of workers{cost}")
    if summary.images > counts.done:
        lines.append(f"  {counted(summary.images, 'image')} of {counted(counts.done, 'row')}")
    lines += [f"  {one.in_words()}" for one in summary.choices]
    if summary.profiles:
        more = f" and {len(summary.profiles) - 1:,} more" if summary.profiles[1:] else ""
        lines.append(f"  profile, for https://ui.perfetto.dev: {summary.profiles[0]}{more}")
    files = ["report.html", "run.json", "images/", "failed.jsonl", *(["rejected.jsonl"] if counts.rejected else [])]
    lines.append(f"  {workspace.layout(summary.run).root}  ({', '.join(files)})")
    return [one_line(line) for line in lines]


def check_good(summary: RunSummary) -> None:
    """Raise RunNotGoodError, with the reasons, unless the run's verdict is VALID."""
    if summary.verdict != "VALID":
        raise RunNotGoodError(f"run {summary.run} fails its checks: {'; '.join(summary.reasons)}")
