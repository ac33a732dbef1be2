"""A review by the rows of a table: kept up to date as marks come, and the same as if it were counted anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.browse import RecordTable, RowQuery, RunView
from inpaint_ops.browse.reviews import RunReviews
from inpaint_ops.config import Settings
from inpaint_ops.records import Measures
from inpaint_ops.report import results_jsonl, timings_parquet
from inpaint_ops.reviewing import Mark, Reviews
from inpaint_ops.reviewing.marks import Opinion, add_marks
from inpaint_ops.runs import Workspace
from inpaint_ops.tallies.spread import find_flags, spreads
from tests.support.synthetic_run import put_finished_run, record

ROWS = 6
TABLE = RecordTable.of([*(record(row) for row in range(1, ROWS)), record(ROWS, status="failed")])

marks = st.builds(
    Mark,
    id=st.sampled_from([*TABLE.ids, "of another run"]),
    mark=st.sampled_from([None, "accept", "reject", "redo", "clear"]),
    rating=st.sampled_from([None, 0, 3]),
    attempt=st.sampled_from(["", "00000-attempt", "an earlier one"]),
)


class Kept:
    """`Reviews` without a store."""

    def __init__(self) -> None:
        self.version = 0
        self.opinions: dict[str, dict[str, Opinion]] = {}

    def write(self, reviewer: str, lines: list[Mark]) -> None:
        opinions = dict(self.opinions.get(reviewer, {}))
        add_marks(opinions, lines)
        self.opinions = self.opinions | {reviewer: opinions}
        self.version += 1


def counted(kept: Kept) -> tuple[Any, ...]:
    return seen(RunReviews(kept))  # type: ignore[arg-type]


def seen(reviews: RunReviews) -> tuple[Any, ...]:
    found = reviews.marks(TABLE)
    return (*(getattr(found, name).tolist() for name in found.__slots__), reviews.tally(TABLE))


@given(st.lists(st.tuples(st.sampled_from(["ann", "ben"]), st.lists(marks, max_size=3)), max_size=8))
def test_counting_what_has_changed_is_counting_all(written: list[tuple[str, list[Mark]]]) -> None:
    kept = Kept()
    reviews = RunReviews(kept)  # type: ignore[arg-type]
    for reviewer, lines in written:
        kept.write(reviewer, lines)
        assert seen(reviews) == counted(kept)


def test_a_reviewer_who_is_gone_counts_no_more() -> None:
    kept = Kept()
    reviews = RunReviews(kept)  # type: ignore[arg-type]
    kept.write("ann", [Mark(id=TABLE.ids[0], mark="accept")])
    assert reviews.tally(TABLE).reviewed == 1
    kept.opinions, kept.version = {}, 2
    assert reviews.tally(TABLE).reviewed == 0


def test_rows_without_an_image_are_neither_reviewed_nor_to_be(tmp_path: Path) -> None:
    kept = Kept()
    kept.write("ann", [Mark(id=TABLE.ids[ROWS - 1], mark="accept")])
    reviews = RunReviews(kept)  # type: ignore[arg-type]
    assert (reviews.tally(TABLE).rows, reviews.tally(TABLE).reviewed) == (ROWS - 1, 0)
    assert ROWS - 1 not in TABLE.select(RowQuery(mark="none"), list, reviews.marks(TABLE))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


def test_the_flags_of_a_table_are_those_of_its_records() -> None:
    values = np.random.default_rng(2).lognormal(0, 0.3, 200)
    values[5] = 30.0
    records = [
        record(row).model_copy(update={"measures": Measures(seam_contrast=float(value), flatness=float(value % 1))})
        for row, value in enumerate(values, 1)
    ]
    table = RecordTable.of(records)
    wanted = find_flags(spreads(records), table._numbers, len(records))
    assert table.flagged.flags == wanted.flags
    assert any(wanted.flags)
    assert np.array_equal(table.flagged.scores, wanted.scores)


def test_a_table_that_was_written_before_there_were_measures_is_still_shown(workspace: Workspace) -> None:
    _, records = put_finished_run(workspace, "old", 30)
    layout, storage = workspace.layout("old"), workspace.storage
    table = pq.read_table(pa.BufferReader(storage.get(layout.timings)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["seam_contrast", "flatness", "worker_device"]), sink)
    storage.put(layout.timings, sink.getvalue().to_pybytes())
    view = RunView.open(workspace, "old")
    assert view is not None
    assert view.page(RowQuery(), 1, 48).total == len(records)
    assert view.page(RowQuery(order="suspicious"), 1, 48).total == len(records)
    assert view.page(RowQuery(flag="any"), 1, 48).total == 0


@pytest.mark.parametrize(
    "lacks", [["mask_share"], ["mask_share", "clip", "clip_model", "lpips", "lpips_model"]], ids=["share", "scores"]
)
def test_a_table_that_was_written_before_later_measures_keeps_its_own(workspace: Workspace, lacks: list[str]) -> None:
    found = [one.model_copy(update={"measures": Measures(flatness=one.row / 10)}) for one in map(record, range(1, 6))]
    older = pq.read_table(pa.BufferReader(timings_parquet(found))).drop_columns(lacks)
    sink = pa.BufferOutputStream()
    pq.write_table(older, sink)
    table = RecordTable.from_parquet(sink.getvalue().to_pybytes(), max_rows=10)
    assert [spread.measure.name for spread in table.spreads if spread.count] == ["flatness"]
    assert table.columns["clip_model"].null_count == 5 and table.columns["id"].null_count == 0


def test_texts_in_extra_are_found(workspace: Workspace) -> None:
    _, records = put_finished_run(workspace, "night", 5)
    found = [one.model_copy(update={"extra": {"shop": f"Zürich {one.row}"}}) for one in records]
    workspace.storage.put(workspace.layout("night").results, results_jsonl(found))
    workspace.storage.put(workspace.layout("night").timings, timings_parquet(found))
    view = RunView.open(workspace, "night")
    assert view is not None
    assert [one.row for one in view.page(RowQuery(text="zürich 3"), 1, 48).records] == [3]


def test_marks_of_a_running_process_are_seen_by_another_after_a_look(workspace: Workspace) -> None:
    put_finished_run(workspace, "night", 5)
    view = RunView.open(workspace, "night")
    assert view is not None
    Reviews(workspace.storage, workspace.layout("night")).append(
        "ann", [Mark(id="row-00002", mark="accept", attempt="00000-attempt")]
    )
    assert [one.row for one in view.page(RowQuery(mark="accept"), 1, 48).records] == [2]
