"""The third call: a run's records become its summary, tables, trace and page."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from inpaint_ops import report
from inpaint_ops.errors import (
    ConfigError,
    RunNotGoodError,
    StorageError,
)
from inpaint_ops.layout import experience_prefix
from inpaint_ops.locations import Location
from inpaint_ops.planning import Plan
from inpaint_ops.records import (
    ErrorInfo,
    Record,
    RunSummary,
    ShardProgress,
)
from inpaint_ops.run_files.counted import read_records
from inpaint_ops.run_files.frozen import read_shards
from inpaint_ops.runs.attempts import got_over, read_notes, read_workers, stopped, why_unfinished
from inpaint_ops.runs.forecasting import experience, experience_key
from inpaint_ops.runs.gallery import Gallery, make_gallery
from inpaint_ops.runs.preparing import _JSON, _JSONL
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
    left, shards = Leftovers(), {shard.name for shard in plan.shards}
    by_shard = read_shards(storage, layout, plan, workspace.settings, left)
    rows = {row.row: row for members in by_shard.values() for row in members}
    counted = read_records(storage, layout, plan, by_shard, workspace.settings, left)
    records = counted.records
    workers = read_workers(storage, layout, shards, left)
    ended = {record.row for record in records}
    unfinished = [one.name for one in plan.shards if sum(row.row in ended for row in by_shard[one.name]) < one.rows]
    stops = read_notes(storage, layout.stop_notes, ErrorInfo, shards, left)
    faults = [*got_over(storage, layout, shards, left), *stopped(stops, unfinished)]
    said = read_notes(storage, layout.progress, ShardProgress, shards, left) if unfinished else {}
    summary = report.summarize(
        run=run,
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
    )
    if unfinished:
        lost = (f"shard {name} is unfinished: {why_unfinished(name, stops, said.get(name))}" for name in unfinished)
        summary = summary.model_copy(update={"reasons": (*summary.reasons, *lost), "verdict": "INVALID"})
    by_row = {number: row.as_manifest_row() for number, row in rows.items()}
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
    """Leave what the next forecast needs. The run is finished without it, so a refusal is only a word in the log."""
    taught = experience(summary)
    if taught is None:
        return
    folder = experience_prefix(workspace.store, experience_key(plan.job))
    place = Location(folder.bucket, f"{folder.key}{plan.run}.json")
    try:
        workspace.storage.put(place, taught.model_dump_json().encode(), content_type=_JSON)
    except StorageError as error:
        log.warning("the next forecast will not know of this run: %s", error)


def check_good(summary: RunSummary) -> None:
    """Raise RunNotGoodError, with the reasons, unless the run's verdict is VALID."""
    if summary.verdict != "VALID":
        raise RunNotGoodError(f"run {summary.run} is not good: {'; '.join(summary.reasons)}")


def _gallery(workspace: Workspace, records: Sequence[Record]) -> Gallery:
    """Small pictures of a few rows, made by processes that may die; a row whose pictures cannot be had is left out."""
    return make_gallery(workspace.storage, workspace.settings, records)
