"""Which rows two runs both have, and which of their settings differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.browse.pairs import differing_settings, pair_rows
from inpaint_ops.browse.run import RunView
from inpaint_ops.config import Settings
from inpaint_ops.records import Record
from inpaint_ops.report import results_jsonl, timings_parquet
from inpaint_ops.runs import Workspace
from tests.support.synthetic_run import make_plan, put_finished_run, put_plan, put_progress, put_record, record


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


def put_run(workspace: Workspace, run: str, rows: list[tuple[str, str | None]]) -> RunView:
    """A finished run of rows with these ids and sources."""
    _, records = put_finished_run(workspace, run, len(rows))
    found: list[Record] = [
        one.model_copy(update={"id": name, "source": source}) for one, (name, source) in zip(records, rows, strict=True)
    ]
    layout = workspace.layout(run)
    workspace.storage.put(layout.results, results_jsonl(found))
    workspace.storage.put(layout.timings, timings_parquet(found))
    return opened(workspace, run)


def opened(workspace: Workspace, run: str) -> RunView:
    view = RunView.open(workspace, run)
    assert view is not None
    return view


def test_rows_of_one_id_belong_together_whatever_their_lines(workspace: Workspace) -> None:
    left = put_run(workspace, "left", [("a", "/1"), ("b", "/2"), ("c", "/3"), ("d", "/4")])
    right = put_run(workspace, "right", [("c", "/3"), ("x", "/1"), ("a", "/9")])
    found = pair_rows(left, right)
    assert (found.by, found.both, found.only_left, found.only_right) == ("id", [(1, 3), (3, 1)], [2, 4], [2])
    assert [found.near(row) for row in (1, 2, 3, 4, 99)] == [0, 1, 1, 1, 1]
    mirrored = pair_rows(right, left)
    assert sorted((b, a) for a, b in mirrored.both) == found.both


def test_the_tries_of_a_child_run_belong_to_the_row_that_they_do_again(workspace: Workspace) -> None:
    parent = put_run(workspace, "parent", [("a", "/1"), ("b", "/2"), ("b-redo-2", "/3")])
    child = put_run(workspace, "child", [("b", "/2"), ("b-redo-2", "/2"), ("a-redo-2", "/1"), ("a-redo-3", "/1")])
    found = pair_rows(parent, child)
    assert found.both == [(1, 3), (1, 4), (2, 1), (3, 2)], "b-redo-2 is the parent's own row of that name"
    assert found.near(1, 4) == 1, "either of two tries can be shown"
    assert not found.only_left and not found.only_right
    assert sorted((b, a) for a, b in pair_rows(child, parent).both) == found.both


def test_rows_of_one_image_belong_together_where_no_id_does(workspace: Workspace) -> None:
    left = put_run(workspace, "left", [("a", "/1"), ("b", "/2"), ("c", "/1"), ("d", None)])
    right = put_run(workspace, "right", [("p", "/1"), ("q", "/1"), ("r", "/1"), ("s", None), ("t", "/2")])
    found = pair_rows(left, right)
    assert found.by == "image"
    assert found.both == [(1, 1), (2, 5), (3, 2)], "the nth row of an image with the nth"
    assert (found.only_left, found.only_right) == ([4], [3, 4])
    assert pair_rows(left, right, "id").both == []
    assert pair_rows(left, right, "id").near(1) == 0
    same = put_run(workspace, "same", [("a", "/2"), ("b", "/1")])
    assert pair_rows(left, same).both == [(1, 1), (2, 2)]
    assert pair_rows(left, same, "image").both == [(1, 2), (2, 1)]


def test_a_run_that_goes_on_has_the_rows_that_are_there(workspace: Workspace) -> None:
    left = put_run(workspace, "left", [("row-00001", "/in/1.png"), ("row-00002", "/in/2.png")])
    put_plan(workspace, make_plan("live", 2, shard_rows=2))
    put_record(workspace, "live", record(2))
    put_progress(workspace, "live", 0, rows=2, done=1)
    live = opened(workspace, "live")
    for by in ("id", "image"):
        found = pair_rows(left, live, by)  # type: ignore[arg-type]
        assert (found.both, found.only_left) == ([(2, 2)], [1])


def test_ten_thousand_rows_of_one_image_make_no_more_pairs_than_rows(workspace: Workspace) -> None:
    rows = [(f"a{number}", "/same") for number in range(2000)]
    left = put_run(workspace, "left", rows)
    right = put_run(workspace, "right", [(f"b{number}", "/same") for number in range(1500)])
    found = pair_rows(left, right)
    assert (len(found.both), len(found.only_left), len(found.only_right)) == (1500, 500, 0)


def test_the_settings_that_differ_are_named_and_no_others(workspace: Workspace) -> None:
    left = put_run(workspace, "left", [("a", "/1")])
    put_run(workspace, "right", [("a", "/1")])
    plan = make_plan("right", 1, shard_rows=200)
    job = plan.job.model_copy(update={"steps": 12, "blend": "poisson", "tuning_overrides": {"batch_size": 2}})
    put_plan(workspace, plan.model_copy(update={"job": job}))
    right = opened(workspace, "right")
    found = {one.name: (one.left, one.right) for one in differing_settings(left, right)}
    assert found == {
        "manifest": ("s3://inpaint/inbox/left.jsonl", "s3://inpaint/inbox/right.jsonl"),
        "steps": ("none", "12"), "blend": ("hard", "poisson"), "tuning, batch_size": ("none", "2"),
    }  # fmt: skip
    assert differing_settings(left, left) == []
    assert left.summary is not None
    ledger = tuple(one.model_copy(update={"effective": "off"}) for one in left.summary.ledger)
    layout = workspace.layout("right")
    workspace.storage.put(layout.summary, left.summary.model_copy(
        update={"run": "right", "ledger": ledger, "versions": {"torch": "9"}}
    ).model_dump_json().encode())  # fmt: skip
    later = {one.name: one.right for one in differing_settings(left, opened(workspace, "right"))}
    assert {"in effect, attention": "off", "version of torch": "9"}.items() <= later.items()
