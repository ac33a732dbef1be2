"""A report made as the rows go by is the one that all records together would give, and keeps none of them."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from inpaint_ops.planning import Plan, RetryPlan
from inpaint_ops.records import Record, RunSummary, WorkerReport
from inpaint_ops.report import results_jsonl, summarize, timings_parquet, trace, trace_json
from inpaint_ops.runs import finish, flagging, prepare_retry
from inpaint_ops.runs.finishing import summary_lines
from inpaint_ops.runs.results_file import ResultsFile
from inpaint_ops.tallies import tables
from tests.support.painted_run import JOB, ODD, Painted


def together(run: Painted, records: Sequence[Record], workers: Sequence[WorkerReport], seen: RunSummary) -> RunSummary:
    """The summary of all records at once; what is not of the records is taken from the one that was written."""
    plan: Plan = run.plan
    return summarize(
        run="run",
        manifest=plan.manifest,
        manifest_sha256=plan.manifest_sha256,
        job=plan.job.model_dump(mode="json"),
        rows=plan.rows,
        failure_threshold=plan.job.failure_threshold,
        records=records,
        workers=workers,
        row_numbers=range(1, plan.rows + 1),
        forecast=plan.forecast,
        shard_basis=plan.shard_basis,
        left_out=[f"manifest: {note}" for note in plan.warnings],
        images_checked=seen.images_checked,
        retries=seen.retries,
    )


def test_the_report_of_rows_that_go_by_is_that_of_all_of_them_together(tmp_path: Path) -> None:
    run = Painted(tmp_path, 230)
    run.retry(1, "failed,p5,p100", fails=4)
    run.retry(2, "failed", fails=1000)
    summary = finish(run.workspace, "run")
    records, workers = run.records(), run.workers()
    assert [one.row for one in records] == list(range(1, 231))
    assert {len(one.earlier) for one in records} == {0, 1, 2}, "rows are done again, some twice"
    expected = together(run, records, workers, summary)
    idle = {"seconds", "images_per_second"}  # without the hours between the retries
    assert summary.model_dump(exclude=idle) == expected.model_dump(exclude=idle)
    assert expected.seconds - summary.seconds == pytest.approx(2 * 3600, rel=0.1)
    assert run.read("results.jsonl") == results_jsonl(records)
    assert run.read("timings.parquet") == timings_parquet(records)
    assert run.read("trace.json") == trace_json(records, workers)
    failed = [json.loads(line)["id"] for line in run.read("failed.jsonl").splitlines()]
    assert failed == [one.id for one in records if one.status == "failed"]
    assert any("row 23 (p23)" in line for line in summary.warnings), "the slow row is named"
    assert [(one.done + one.failed, one.rows) for one in summary.retries] == [(22, 22), (6, 6)]
    assert {one.row: ",".join(one.flags) for one in records if one.flags} == ODD
    assert (summary.flagged, summary.flags) == (3, {"seam_contrast_high": 2, "flatness_high": 1})
    assert any(
        "3 done rows differ from the others: seam_contrast_high 2, flatness_high 1" in line
        for line in summary_lines(run.workspace, summary)
    )
    page = run.read("report.html").decode()
    assert 'id="flagged"' in page and "Seam contrast high (7.5)" in page and page.count('class="histogram"') == 4


def test_flags_are_found_by_the_report_alone_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that has flags already (nobody writes one) loses them, and a second report finds the same."""
    run = Painted(tmp_path, 230)
    monkeypatch.setattr(tables, "_BATCH_ROWS", 16)
    monkeypatch.setattr(tables, "_GROUP_ROWS", 32)
    place = Path(run.layout.record("00000", 5).key)
    forged = Record.model_validate_json(place.read_bytes()).model_copy(update={"flags": ("grain_ratio_low",)})
    place.write_text(forged.model_dump_json())
    parsed = []
    original = Record.model_validate_json

    def counted(data: bytes) -> Record:
        parsed.append(data)
        return original(data)

    monkeypatch.setattr(flagging, "Record", SimpleNamespace(model_validate_json=counted))
    finish(run.workspace, "run")
    records = run.records()
    assert {one.row: ",".join(one.flags) for one in records if one.flags} == ODD
    assert len(parsed) == len(ODD), "of the results only lines of flagged rows are parsed again"
    table = pq.read_table(io.BytesIO(run.read("timings.parquet")))
    assert table.column("flags").to_pylist() == [list(one.flags) for one in records]
    assert run.read("timings.parquet") == timings_parquet(records)
    first = run.read("results.jsonl")
    finish(run.workspace, "run")
    assert run.read("results.jsonl") == first


def test_rows_without_a_record_are_named_by_line_and_by_shard(tmp_path: Path) -> None:
    run = Painted(tmp_path, 100)
    for row in (1, 50, 99):
        Path(run.layout.record(f"0000{(row - 1) // 41}", row).key).unlink()
    summary = finish(run.workspace, "run")
    assert summary.reasons[0] == "3 of 100 rows have no record: lines 1, 50, 99."
    assert [line.split()[1] for line in summary.reasons[1:]] == ["00000", "00001", "00002"]
    assert together(run, run.records(), run.workers(), summary).reasons == summary.reasons[:1]


def test_a_rejected_rows_record_with_the_id_of_another_row_is_told(tmp_path: Path) -> None:
    run = Painted(tmp_path, 60)
    place = Path(run.layout.record("rejected", 7).key)
    place.write_text(json.dumps(json.loads(place.read_text()) | {"id": "p30"}))
    assert "1 id names more than one row: p30." in finish(run.workspace, "run").reasons


def test_a_report_holds_a_few_thousand_records_however_many_rows_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Painted(tmp_path, 6000)
    held = []
    append = ResultsFile.append

    def counted(self: ResultsFile, found: Record) -> None:
        if found.row % 500 == 0:
            held.append(sum(type(one) is Record for one in gc.get_objects()))
        append(self, found)

    monkeypatch.setattr(ResultsFile, "append", counted)
    assert finish(run.workspace, "run").counts.missing == 0
    assert len(held) == 12 and max(held) < 2000


def test_the_trace_of_a_large_run_shows_whole_shards_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Painted(tmp_path, 400)
    assert finish(run.workspace, "run").trace_rows is None
    assert "limit" not in json.loads(run.read("trace.json"))["otherData"]
    monkeypatch.setattr(trace, "TRACE_ROWS", 130)
    summary = finish(run.workspace, "run")
    drawn = json.loads(run.read("trace.json"))
    rows = {event["args"]["row"] for event in drawn["traceEvents"] if "row" in event.get("args", {})}
    shards = [{row.row for row in run.workspace.shard_rows(run.plan, shard.name)} for shard in run.plan.shards]
    assert [bool(rows & shard) for shard in shards].count(True) == 3
    assert all(rows & shard in (shard, set()) for shard in shards) and rows & shards[0] and rows & shards[-1]
    assert summary.trace_rows == len(rows)
    assert f"these are {len(rows):,} of 392" in drawn["otherData"]["limit"]


@pytest.mark.parametrize(("shards", "limit", "shown"), [
    ({"a": 50}, 40, {"a"}),
    ({"a": 20, "b": 20, "c": 20}, 60, {"a", "b", "c"}),
    ({"a": 20, "b": 20, "c": 20}, 40, {"a", "c"}),
    ({"a": 20, "b": 90, "c": 20, "d": 20}, 45, {"a", "d"}),
    ({}, 10, set()),
])  # fmt: skip
def test_shards_for_the_trace_are_spread_over_the_run(
    monkeypatch: pytest.MonkeyPatch, shards: dict[str, int], limit: int, shown: set[str]
) -> None:
    monkeypatch.setattr(trace, "TRACE_ROWS", limit)
    assert trace.sample_shards(shards) == shown


def test_a_retrys_shards_follow_each_other(tmp_path: Path) -> None:
    run = Painted(tmp_path, 120)
    again = prepare_retry(run.workspace, str(run.manifest), "run", "p1,p5,p99", JOB)
    assert again.retry is not None
    shard = again.retry.shards[0].model_dump()
    apart = [shard | {"name": shard["name"].replace("00000r", f"0000{at}r"), "first_row": 9 - at} for at in range(2)]
    with pytest.raises(ValidationError, match="follow each other"):
        RetryPlan.model_validate(again.retry.model_dump() | {"shards": apart})
