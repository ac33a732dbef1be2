"""Records -> summary, tables, trace and page: pure functions over values. The caller reads and writes."""

from inpaint_ops.images.preview import mask_overlay
from inpaint_ops.report.accounting import Accounting, account
from inpaint_ops.report.facts import Compared, RunFacts, compared, facts
from inpaint_ops.report.gallery import GalleryItem, choose_gallery
from inpaint_ops.report.page import render_page
from inpaint_ops.report.stages import StageTimes, stage_seconds
from inpaint_ops.report.summary import RANDOM_WEIGHTS, merge_ledgers, summarize
from inpaint_ops.report.tables import TIMINGS_SCHEMA, failed_jsonl, results_jsonl, timings_parquet, timings_table
from inpaint_ops.report.trace import trace_json
from inpaint_ops.report.workers import WorkerTime, worker_times

__all__ = [
    "RANDOM_WEIGHTS",
    "TIMINGS_SCHEMA",
    "Accounting",
    "Compared",
    "GalleryItem",
    "RunFacts",
    "StageTimes",
    "WorkerTime",
    "account",
    "choose_gallery",
    "compared",
    "facts",
    "failed_jsonl",
    "mask_overlay",
    "merge_ledgers",
    "render_page",
    "results_jsonl",
    "stage_seconds",
    "summarize",
    "timings_parquet",
    "timings_table",
    "trace_json",
    "worker_times",
]
