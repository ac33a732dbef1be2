"""The third call: a run's records become its summary, tables, trace and page."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from inpaint_ops import report
from inpaint_ops.errors import (
    ConfigError,
    RunNotGoodError,
    StorageError,
    one_line,
)
from inpaint_ops.layout import retry_of
from inpaint_ops.planning import Plan, PlannedRow
from inpaint_ops.records import (
    ErrorInfo,
    Record,
    RunSummary,
    ShardProgress,
)
from inpaint_ops.run_files.counted import read_records
from inpaint_ops.run_files.frozen import read_shards
from inpaint_ops.runs.attempts import read_notes, read_workers, recovered_faults, stopped, why_unfinished
from inpaint_ops.runs.forecasting import experience, experience_key
from inpaint_ops.runs.gallery import Gallery, make_gallery
from inpaint_ops.runs.preparing import _JSON, _JSONL
from inpaint_ops.runs.retried import idle_seconds, read_retried, retry_counts, unfinished_shards, with_earlier
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import Leftovers

log = logging.getLogger(__name__)


def finish(workspace: Workspace, run: str) -> RunSummary:
    """Read a run's records and write its summary, tables, trace and page anew; `run.json` last.

    Raises ConfigError if there is no such run, StorageError.
    """
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: it was never planned, or its plan failed")
    layout, storage = workspace.layout(run), workspace.storage
    left = Leftovers()
    by_shard: dict[str, Sequence[PlannedRow]] = {**read_shards(storage, layout, plan, workspace.settings, left)}
    rows = {row.row: row for members in by_shard.values() for row in members}
    retries, retried = read_retried(workspace, plan, rows, left)
    shards = {*by_shard, *retried}
    counted = read_records(storage, layout, plan, by_shard | retried, workspace.settings, left)
    records = tuple(with_earlier(record, counted.earlier.get(record.row, ())) for record in counted.records)
    every = (*records, *itertools.chain.from_iterable(counted.earlier.values()))
    workers = read_workers(storage, layout, shards, left)
    ended = {record.row for record in records}
    unfinished = [one.name for one in plan.shards if sum(row.row in ended for row in by_shard[one.name]) < one.rows]
    undone = unfinished_shards(retries, every)
    stops = read_notes(storage, layout.stop_notes, ErrorInfo, shards, left)
    faults = [*recovered_faults(storage, layout, shards, left), *stopped(stops, [*unfinished, *undone])]
    progress = read_notes(storage, layout.progress, ShardProgress, shards, left) if unfinished or undone else {}
    summary = report.summarize(
        run=run,
        shard_basis=plan.shard_basis,
        manifest=plan.manifest,
        manifest_sha256=plan.manifest_sha256,
        job=plan.job.model_dump(mode="json"),
        rows=plan.rows,
        failure_threshold=plan.job.failure_threshold,
        records=records,
        workers=workers,
        row_numbers={*rows, *plan.rejected_rows},
        forecast=plan.forecast,
        faults=faults,
        left_out=(*(f"manifest: {note}" for note in plan.warnings), *left.lines()),
        images_checked=counted.images_checked,
        idle_seconds=idle_seconds(every, workers),
        retries=retry_counts(retries, every),
    )
    if undone:
        lost = (
            f"retry {retry_of(name)}: {count} of its rows have no new record, so their earlier records count; shard "
            f"{name} is unfinished: {why_unfinished(name, stops, progress.get(name))}"
            for name, count in undone.items()
        )
        summary = summary.model_copy(update={"warnings": (*summary.warnings, *lost)})
    if unfinished:
        lost = (f"shard {name} is unfinished: {why_unfinished(name, stops, progress.get(name))}" for name in unfinished)
        summary = summary.model_copy(update={"reasons": (*summary.reasons, *lost), "verdict": "INVALID"})
    failed = {record.row for record in records if record.status == "failed"}
    newest = {number: rows[number] for number in failed & rows.keys()}
    newest |= {row.row: row for members in retried.values() for row in members if row.row in failed}
    by_row = {number: row.as_manifest_row() for number, row in newest.items()}
    storage.put(layout.results, report.results_jsonl(records), content_type=_JSONL)
    storage.put(layout.failed, report.failed_jsonl(records, by_row), content_type=_JSONL)
    storage.put(layout.timings, report.timings_parquet(records), content_type="application/vnd.apache.parquet")
    storage.put(layout.trace, report.trace_json(records, workers), content_type=_JSON)
    gallery = _gallery(workspace, records)
    page = report.render_page(summary, records, gallery.items, workers=workers, without_pictures=gallery.left_out)
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
    files = ["report.html", "run.json", "images/", "failed.jsonl", *(["rejected.jsonl"] if counts.rejected else [])]
    lines.append(f"  {workspace.layout(summary.run).root}  ({', '.join(files)})")
    return [one_line(line) for line in lines]


def check_good(summary: RunSummary) -> None:
    """Raise RunNotGoodError, with the reasons, unless the run's verdict is VALID."""
    if summary.verdict != "VALID":
        raise RunNotGoodError(f"run {summary.run} fails its checks: {'; '.join(summary.reasons)}")


def _gallery(workspace: Workspace, records: Sequence[Record]) -> Gallery:
    """Small pictures of a few rows, made by processes that may die; a row whose pictures cannot be had is left out."""
    return make_gallery(workspace.storage, workspace.settings, records)
