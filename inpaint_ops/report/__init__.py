"""Records -> summary, tables, trace and page: pure functions over values. The caller reads and writes."""

from inpaint_ops.images.preview import mask_overlay
from inpaint_ops.report.accounting import Accounting, account
from inpaint_ops.report.facts import Compared, RunFacts, compared, facts, facts_of
from inpaint_ops.report.gallery import GalleryItem, choose_gallery
from inpaint_ops.report.page import render_facts, render_page
from inpaint_ops.report.summary import RANDOM_WEIGHTS, merge_ledgers, summarize, summary_of
from inpaint_ops.report.trace import TRACE_ROWS, Trace, trace_json
from inpaint_ops.report.workers import WorkerTime, worker_times
from inpaint_ops.tallies.stages import StageTimes, stage_seconds
from inpaint_ops.tallies.tables import (
    TIMINGS_SCHEMA,
    TimingsWriter,
    failed_jsonl,
    results_jsonl,
    timings_parquet,
    timings_table,
)
from inpaint_ops.tallies.tally import Tally

__all__ = [
    "RANDOM_WEIGHTS",
    "TIMINGS_SCHEMA",
    "TRACE_ROWS",
    "Accounting",
    "Compared",
    "GalleryItem",
    "RunFacts",
    "StageTimes",
    "Tally",
    "TimingsWriter",
    "Trace",
    "WorkerTime",
    "account",
    "choose_gallery",
    "compared",
    "facts",
    "facts_of",
    "failed_jsonl",
    "mask_overlay",
    "merge_ledgers",
    "render_facts",
    "render_page",
    "results_jsonl",
    "stage_seconds",
    "summarize",
    "summary_of",
    "timings_parquet",
    "timings_table",
    "trace_json",
    "worker_times",
]
