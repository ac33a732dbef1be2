"""Records -> summary: promise 1 is counted, a batch's time is counted once, and every number means what it says."""

from __future__ import annotations

import itertools
import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.records import (
    BATCH_STAGES,
    STAGES,
    Batch,
    ColdStart,
    LedgerEntry,
    LoadTimes,
    Record,
    RunSummary,
    Timings,
)
from inpaint_ops.report import (
    RANDOM_WEIGHTS,
    StageTimes,
    WorkerTime,
    render_page,
    stage_seconds,
    worker_times,
)
from inpaint_ops.tallies.timeline import batch_spans, painting_at_once
from tests.support.simulated_run import START, Run, a_run, after, record, worker_info

# -- promise 1 ----------------------------------------------------------------------------------------------------


def test_a_run_whose_every_row_is_done_is_valid() -> None:
    summary = a_run(10).summary(failure_threshold=0.0)
    assert (summary.verdict, summary.reasons) == ("VALID", ())
    assert summary.counts.done == summary.counts.rows == 10


def test_missing_rows_make_the_run_invalid_and_are_named_by_line() -> None:
    run = Run([record(row) for row in (2, 3, 5)], [])
    summary = run.summary(rows=5, row_numbers=[2, 3, 4, 5, 6])
    assert summary.verdict == "INVALID"
    assert summary.reasons == ("2 of 5 rows have no record: lines 4, 6.",)
    assert summary.counts.missing == 2


def test_missing_rows_are_counted_where_no_lines_are_known() -> None:
    assert Run([record(1)], []).summary(rows=2).reasons == ("1 of 2 rows has no record.",)


def test_a_row_with_two_records_is_named_and_counted_once() -> None:
    late = record(2, "failed", attempt="a2", finished_at=after(99))
    summary = Run([late, record(1), record(2)], []).summary(rows=2)
    assert summary.verdict == "INVALID"
    assert summary.reasons == ("1 row has more than one record: line 2.",)
    assert (summary.counts.done, summary.counts.failed, summary.counts.missing) == (2, 0, 0)


def test_a_duplicate_cannot_hide_a_missing_row() -> None:
    reasons = Run([record(1), record(1)], []).summary(rows=2, row_numbers=[1, 2]).reasons
    assert reasons == ("1 row has more than one record: line 1.", "1 of 2 rows has no record: line 2.")


def test_a_record_of_no_row_cannot_hide_a_missing_one() -> None:
    reasons = Run([record(1), record(9)], []).summary(rows=2, row_numbers=[1, 2]).reasons
    assert reasons == ("1 of 2 rows has no record: line 2.", "1 record is of no row of the manifest: line 9.")


def test_more_records_than_rows_are_invalid() -> None:
    assert Run([record(1), record(2)], []).summary(rows=1).reasons == ("1 record is of no row of the manifest.",)


def test_an_id_of_two_rows_is_named() -> None:
    summary = Run([record(1, id="cat"), record(2, id="cat")], []).summary()
    assert summary.verdict == "INVALID"
    assert summary.reasons == ("1 id names more than one row: cat.",)


def test_many_missing_rows_are_named_in_part() -> None:
    [reason] = Run([], []).summary(rows=500, row_numbers=range(1, 501)).reasons
    assert reason == "500 of 500 rows have no record: lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 490 more."


@pytest.mark.parametrize(
    ("bad", "rows", "threshold", "verdict"),
    [(1, 10, 0.1, "VALID"), (2, 10, 0.1, "INVALID"), (7, 100, 0.07, "VALID"), (0, 3, 0, "VALID"), (1, 3, 0, "INVALID"),
     (3, 3, 1, "VALID"), (29, 100, 0.29, "VALID"), (58, 100, 0.57, "INVALID")],
)  # fmt: skip
def test_the_threshold_itself_is_still_good(bad: int, rows: int, threshold: float, verdict: str) -> None:
    kinds = ["failed" if index % 2 else "rejected" for index in range(bad)] + ["done"] * (rows - bad)
    summary = Run([record(row, kind) for row, kind in enumerate(kinds, 1)], []).summary(failure_threshold=threshold)
    assert summary.verdict == verdict
    assert bool(summary.reasons) == (verdict == "INVALID")


def test_the_threshold_reason_says_both_shares() -> None:
    records = [record(1), record(2, "failed"), record(3, "rejected")]
    [reason] = Run(records, []).summary(failure_threshold=0.25).reasons
    assert reason == "2 of 3 rows failed or were rejected (66.7%); the threshold is 25%."


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["done", "failed", "rejected"])), max_size=20))
def test_valid_means_exactly_one_record_for_each_row(drawn: list[tuple[int, str]]) -> None:
    records = [record(row, status) for row, status in drawn]
    lines = range(1, 9)
    summary = Run(records, []).summary(rows=8, row_numbers=lines, failure_threshold=1.0)
    assert (summary.verdict == "VALID") == (sorted(row for row, _ in drawn) == list(lines))


# -- time ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 6), st.lists(st.floats(0, 100), min_size=4, max_size=4)), max_size=8
    ),
    st.integers(0, 20),
)
def test_a_batch_is_counted_once_however_its_records_are_split(
    batches: list[tuple[int, int, list[float]]], cut: int
) -> None:
    stages = [stage for stage in STAGES if stage in BATCH_STAGES]
    records = []
    for number, (worker, size, seconds) in enumerate(batches):
        for _ in range(size):
            row = len(records) + 1
            timings = Timings(**dict(zip(stages, seconds, strict=True)), decode=1.0)
            batch = Batch(id=str(number), size=size)
            records.append(record(row, batch=batch, timings=timings, worker=worker_info(worker)))
    whole = StageTimes.of(records)
    merged = StageTimes.of(records[cut:]) + StageTimes.of(records[:cut])
    for times in (whole, merged):
        for place, stage in enumerate(stages):
            assert math.isclose(times.seconds().get(stage, 0), sum(one[2][place] for one in batches), abs_tol=1e-9)
        assert times.seconds().get("decode", 0) == len(records)
    assert whole.stats().keys() == merged.stats().keys()
    for stage, stats in whole.stats().items():
        assert stats.count == len(records)
        assert math.isclose(stats.p90, merged.stats()[stage].p90)


def test_batches_of_two_workers_may_share_an_id() -> None:
    both = [
        record(row, batch=Batch(id="00001", size=1), timings=Timings(denoise=2.0), worker=worker_info(row))
        for row in (1, 2)
    ]
    assert stage_seconds(both) == {"denoise": 4.0}


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300))
def test_percentiles_are_exact(seconds: list[float]) -> None:
    records = [record(row, timings=Timings(upload=value)) for row, value in enumerate(seconds, 1)]
    stats = Run(records, []).summary().stages["upload"]
    expected = np.percentile(seconds, [50, 90, 95, 99])
    assert (stats.p50, stats.p90, stats.p95, stats.p99) == tuple(expected)
    assert (stats.count, stats.max) == (len(seconds), max(seconds))
    assert math.isclose(stats.mean, sum(seconds) / len(seconds), abs_tol=1e-9)


def test_stages_that_no_row_passed_are_absent() -> None:
    assert a_run(4).summary().stages.keys() == set(STAGES)
    assert Run([record(1, timings=Timings(download=1.0))], []).summary().stages.keys() == {"download"}


def test_the_parts_of_the_load_are_means_and_old_reports_without_them_still_count() -> None:
    run = a_run(8, workers=2)
    slower = LoadTimes(resolve=3, disk=8, device=4, tune=1)
    workers = [run.workers[0], run.workers[1].model_copy(update={"load": slower})]
    load = run.summary(workers=workers).load
    assert load == LoadTimes(download=90, resolve=2, disk=6, device=4, tune=1)
    page = render_page(run.summary(workers=workers), run.records, (), workers=workers)
    assert "Of the load" in page
    assert "Fetching the model" in page
    assert run.summary(workers=[one.model_copy(update={"load": None}) for one in workers]).load is None


def test_throughput_with_and_without_the_cold_start() -> None:
    run = a_run(40, cold=20.0)
    summary = run.summary()
    [report] = run.workers
    assert summary.started_at == START
    assert summary.finished_at == max(r.finished_at for r in run.records)
    assert summary.images_per_second == pytest.approx(40 / summary.seconds)
    assert summary.images_per_second_warm == pytest.approx(40 / (report.busy - report.cold_start.first_call))
    lifetime = (report.finished_at - START).total_seconds()
    assert summary.gpu_seconds_per_image == pytest.approx(lifetime / 40)
    assert summary.images_per_second < summary.images_per_second_warm


def test_workers_side_by_side_add_their_pace_and_one_after_the_other_do_not() -> None:
    alone = a_run(40, workers=1).summary().images_per_second_warm
    beside = a_run(160, workers=4).summary().images_per_second_warm
    assert alone and beside and beside == pytest.approx(4 * alone, rel=0.1)
    first, second = a_run(40), a_run(40)
    later = timedelta(hours=1)
    info = worker_info(9).model_copy(update={"started_at": START + later})
    moved = [
        r.model_copy(update={"row": r.row + 40, "id": f"x{r.row}", "worker": info, "started_at": r.started_at + later,
                             "finished_at": r.finished_at + later}) for r in second.records
    ]  # fmt: skip
    report = second.workers[0].model_copy(update={"worker": info, "finished_at": second.workers[0].finished_at + later})
    queued = Run(first.records + moved, [*first.workers, report]).summary()
    assert queued.images_per_second_warm == pytest.approx(alone)
    assert queued.seconds > 3600


def test_a_worker_that_waits_for_the_device_does_not_paint() -> None:
    run = a_run(8, workers=2)
    spans = batch_spans(run.records)
    assert painting_at_once(spans) == pytest.approx(2, rel=0.2)
    assert painting_at_once([span for span in spans if span.worker[1] == 4001]) == 1
    assert painting_at_once([]) == 1


def test_a_killed_worker_counts_with_the_batches_that_its_records_name() -> None:
    run = a_run(8)
    killed = run.workers[0].model_copy(update={"busy": 0.0, "exit": "SIGKILL", "cold_start": ColdStart()})
    [time] = worker_times(run.records, [killed]).values()
    assert time.busy == pytest.approx(sum(sum(span.stages.values()) for span in batch_spans(run.records)))
    summary = Run(run.records, [killed]).summary()
    assert any("1 of 1 workers did not exit clean (gpu-1/4001: SIGKILL)" in text for text in summary.warnings)


def test_a_worker_without_a_report_is_counted_and_named() -> None:
    run = a_run(8, workers=2)
    summary = Run(run.records, run.workers[:1]).summary()
    assert summary.workers == 2
    assert any(text.startswith("1 worker left no report") for text in summary.warnings)


@given(st.lists(st.tuples(*[st.floats(0, 1e6)] * 3), min_size=1, max_size=5))
def test_worker_times_merge(drawn: list[tuple[float, float, float]]) -> None:
    parts = [WorkerTime(1, life, busy, ColdStart(load=load)) for life, busy, load in drawn]
    total = sum(parts, WorkerTime())
    assert total.workers == len(parts)
    assert math.isclose(total.cold_start.load, sum(load for *_, load in drawn), abs_tol=1e-6)
    assert total.waiting >= 0 and total.painting >= 0


def test_a_run_without_any_worker_has_no_pace_of_its_own() -> None:
    summary = Run([record(1, "rejected")], []).summary(failure_threshold=1)
    assert summary.verdict == "VALID"
    assert (summary.images_per_second_warm, summary.gpu_seconds_per_image, summary.cold_start) == (None, None, None)
    assert (summary.workers, summary.model, summary.devices, summary.peak_memory) == (0, None, (), None)


def test_an_empty_run_can_be_summed_up() -> None:
    summary = Run([], []).summary(rows=0)
    assert (summary.seconds, summary.images_per_second, summary.started_at) == (0, None, None)


def test_reconstructed_batches_never_overlap_and_lie_no_earlier_than_they_were() -> None:
    run = a_run(60, workers=2, batch=3)
    spans = batch_spans(run.records)
    assert len(spans) == 20
    for pid in (4001, 4002):
        mine = [span for span in spans if span.worker[1] == pid]
        for one, following in itertools.pairwise(mine):
            assert one.end <= following.start + 1e-6
        for span in mine:
            assert span.end - span.start == pytest.approx(sum(span.stages.values()))
            began = START.timestamp() + run.true_batches[(pid, span.id)]
            assert began - 1e-3 <= span.start <= began + 1


# -- warnings -----------------------------------------------------------------------------------------------------


def test_random_weights_are_said_plainly() -> None:
    run = a_run(4)
    assert RANDOM_WEIGHTS not in run.summary().warnings
    run.workers = [
        report.model_copy(update={"model": report.model.model_copy(update={"random_weights": True})})
        for report in run.workers
    ]
    assert "The weights are random: the images mean nothing." in run.summary().warnings


def test_what_a_tuning_did_not_do_is_said_once() -> None:
    said = [text for text in a_run(8, workers=4).summary().warnings if "attention" in text]
    assert said == ["attention: xformers was requested, sdpa took effect: not installed."]


def test_ledgers_of_equal_workers_merge_and_those_of_others_stay_apart() -> None:
    run = a_run(8, workers=3)
    fared = (("float16", 1.0), ("float16", 3.0), ("float32", 9.0))
    for index, (effective, seconds) in enumerate(fared):
        entry = LedgerEntry(
            name="dtype", requested="auto", effective=effective, matches=True, measured={"seconds": seconds}
        )
        run.workers[index] = run.workers[index].model_copy(update={"ledger": (entry,)})
    ledger = run.summary().ledger
    assert [(entry.effective, entry.measured) for entry in ledger] == [
        ("float16", {"seconds": 2.0}),
        ("float32", {"seconds": 9.0}),
    ]


def test_a_long_tail_is_worth_a_warning_once_there_are_rows_enough() -> None:
    def tail(rows: int) -> list[str]:
        records = [record(row, timings=Timings(upload=20.0 if row % 20 == 0 else 0.1)) for row in range(1, rows + 1)]
        return [text for text in Run(records, []).summary().warnings if "tail" in text]

    assert tail(200) == [
        "upload has a long tail: p99 is 20 s, 200 times the p50 of 0.1 s; row 20 (photo-20) took 20 s, 200 times the "
        "median."
    ]
    assert tail(40) == []


def slow(records: list[Record]) -> list[str]:
    return [text for text in Run(records, []).summary().warnings if "slow" in text]


def test_a_row_ten_times_slower_than_the_median_is_named_in_a_small_run_too() -> None:
    def rows(*seconds: float) -> list[Record]:
        return [record(row, timings=Timings(download=value)) for row, value in enumerate(seconds, 1)]

    said = "download was slow: row 5 (photo-5) took 3 s, 15 times the median of 0.2 s"
    assert slow(rows(0.2, 0.2, 0.2, 0.2, 3.0)) == [f"{said}."]
    assert slow(rows(0.2, 0.2, 0.2, 0.2, 3.0, 2.5)) == [f"{said}; 1 more took ten times the median too."]
    assert slow(rows(0.2, 0.2, 0.2, 0.2, 1.9)) == [], "not ten times"
    assert slow(rows(0.01, 0.01, 0.01, 0.01, 0.9)) == [], "less than a second: noise"
    assert slow(rows(0.2, 0.2, 0.2, 3.0)) == [], "the median of so few says nothing"
    assert slow(rows(0, 0, 0, 0, 3.0)) == [
        "download was slow: row 5 (photo-5) took 3 s, far more than the median of 0 s."
    ]


def batches(*denoise: float, sizes: tuple[int, ...] = (), steps: tuple[int, ...] = ()) -> list[Record]:
    """A worker's batches of two rows (or `sizes`) and 30 steps, by what each took to denoise."""
    records: list[Record] = []
    for index, seconds in enumerate(denoise):
        size, ran = (sizes or [2] * 99)[index], (steps or [30] * 99)[index]
        for _ in range(size):
            records.append(
                record(
                    len(records) + 1, batch=Batch(id=f"{index:05d}", size=size), steps=ran, worker=worker_info(),
                    timings=Timings(denoise=seconds),
                )
            )  # fmt: skip
    return records


def test_a_slow_batch_is_named_once_and_a_workers_first_one_is_its_cold_start() -> None:
    said = "denoise was slow: the batch of 2 with row 9 (photo-9) took 80 s, 20 times the median of 4 s."
    assert slow(batches(4, 4, 4, 4, 80, 4, 4)) == [said]
    assert slow(batches(80, 4, 4, 4, 4, 4, 4)) == [], "the first batch warms up"
    assert slow(batches(4, 4, 4, 80)) == [], "too few batches for a median"


def test_more_rows_and_more_steps_are_no_slowness() -> None:
    assert slow(batches(4, 4, 4, 4, 4, 60, sizes=(1, 1, 1, 1, 1, 16))) == []
    assert slow(batches(4, 4, 4, 4, 4, 60, steps=(20, 20, 20, 20, 20, 400))) == []
    assert len(slow(batches(4, 4, 4, 4, 4, 60))) == 1


def test_conversions_are_counted() -> None:
    records = [
        record(1, conversions=("16 bits to 8",)),
        record(2, conversions=("16 bits to 8", "CMYK to RGB")),
        record(3),
    ]
    summary = Run(records, []).summary()
    assert "2 images were converted: 16 bits to 8 (2), CMYK to RGB (1)." in summary.warnings


def test_devices_and_versions_are_told_once() -> None:
    run = a_run(8, workers=2)
    run.workers[1] = run.workers[1].model_copy(update={"versions": {"torch": "2.12.0"}})
    summary = run.summary()
    assert len(summary.devices) == 1
    assert summary.versions == {"torch": "2.13.0, 2.12.0"}
    assert summary.cold_start and summary.cold_start.total == pytest.approx(20)
    assert summary.peak_memory and summary.peak_memory.peak_reserved == 11 * 2**30


def test_a_summary_is_json_and_comes_back() -> None:
    summary = a_run(8).summary()
    assert RunSummary.model_validate_json(summary.model_dump_json()) == summary
