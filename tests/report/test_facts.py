"""What a report groups and shows of the rows: worker time by parts, failures with their cures, a gallery."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops import errors
from inpaint_ops.records import ErrorInfo, Timings
from inpaint_ops.report import choose_gallery, facts
from inpaint_ops.report.facts import cure
from tests.support.simulated_run import START, a_run, record


def test_worker_time_is_split_without_a_gap() -> None:
    run = a_run(40, workers=2)
    parts = {part.key: part.seconds for part in facts(run.records, run.workers).worker_parts}
    assert sum(parts.values()) == pytest.approx(sum((w.finished_at - START).total_seconds() for w in run.workers))
    assert parts["load"] == 20
    assert facts(run.records).worker_parts == ()


def test_failures_are_grouped_by_type_with_a_cure() -> None:
    found = facts([record(3, "rejected"), record(1, "failed"), record(5, "failed"), record(2)]).failures
    assert [(group.type, [r.row for r in group.records]) for group in found] == [
        ("ImageError", [1, 5]),
        ("RowError", [3]),
    ]
    assert all(group.cure for group in found)


def test_every_error_of_ours_has_a_cure_and_strangers_have_one_too() -> None:
    generic = cure(ErrorInfo(type="ZeroDivisionError", stage="worker", message="x", permanent=True))
    assert "report it" in generic
    ours = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    for name in [*ours, "RowError"]:
        assert cure(ErrorInfo(type=name, stage="worker", message="x", permanent=True)) != generic
    assert cure(None)


def test_the_gallery_shows_finished_rows_spread_over_the_run_and_the_slowest() -> None:
    run = a_run(400)
    slow = run.records[201].model_copy(update={"timings": Timings(download=500.0)})
    records = [*run.records[:201], slow, *run.records[202:], record(401, "failed"), record(402, "rejected")]
    chosen = choose_gallery(records)
    rows = [r.row for r in chosen]
    assert len(set(rows)) == len(rows) == 24
    assert rows == sorted(rows)
    assert {1, 202, 400} <= set(rows)
    assert all(r.status == "done" for r in chosen)
    assert max(b - a for a, b in itertools.pairwise(rows)) < 40


@given(st.integers(0, 60), st.integers(0, 30))
def test_the_gallery_is_as_large_as_it_may_be(rows: int, limit: int) -> None:
    chosen = choose_gallery([record(row, "failed" if row % 3 == 0 else "done") for row in range(1, rows + 1)], limit)
    assert len({r.row for r in chosen}) == len(chosen) == min(limit, rows - rows // 3)
