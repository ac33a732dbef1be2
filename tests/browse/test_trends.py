"""Finished runs added up by day, project and card, without reading the store again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.browse.catalogue import Catalogue, RunEntry
from inpaint_ops.browse.trends import MAX_GROUPS, OTHERS, trends
from inpaint_ops.config import Settings
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import Storage
from tests.support.synthetic_run import put_finished_run

UNTIL = datetime(2026, 11, 26, 12, tzinfo=UTC)


def entry(run: str = "r", *, ago: float = 0, **fields: Any) -> RunEntry:
    base: dict[str, Any] = {
        "state": "finished", "verdict": "VALID", "rows": 10, "done": 9, "failed": 1, "images": 9, "gpu_seconds": 1800.0,
        "cost": 2.0, "card": "H200", "finished_at": UNTIL - timedelta(days=ago),
    }  # fmt: skip
    return RunEntry(run=run, **base | fields)


def test_days_are_added_up_newest_first() -> None:
    found = trends([entry(), entry(ago=1, verdict="INVALID"), entry(flagged=3)], by="day", until=UNTIL)
    assert [(one.name, one.runs, one.invalid, one.flagged) for one in found.groups] == [
        ("2026-11-26", 2, 0, 3), ("2026-11-25", 1, 1, 0)
    ]  # fmt: skip
    assert (found.total.gpu_hours, found.total.cost, found.total.images_per_gpu_hour) == (1.5, 6.0, 18.0)
    assert found.total.failed_share == pytest.approx(0.1)


def test_days_without_and_runs_that_go_on_do_not_count() -> None:
    others = [entry(state="running"), entry(ago=30), entry(finished_at=None, created_at=None), entry(ago=-1)]
    assert trends([*others, entry(ago=29)], by="day", until=UNTIL, days=30).total.runs == 1


def test_projects_and_cards_are_told_apart_and_chosen() -> None:
    runs = [entry(project="sofas"), entry(project="sofas", card="H100"), entry(card="")]
    assert {one.name: one.runs for one in trends(runs, by="project", until=UNTIL).groups} == {
        "sofas": 2,
        "no project": 1,
    }
    assert {one.name: one.runs for one in trends(runs, by="card", until=UNTIL).groups} == {
        "H200": 1,
        "H100": 1,
        "unknown": 1,
    }
    chosen = trends(runs, by="day", until=UNTIL, project="sofas", card="H100")
    assert chosen.total.runs == 1
    assert (chosen.projects, chosen.cards) == (("sofas",), ("H100", "H200"))


def test_what_is_not_known_is_counted_and_not_guessed() -> None:
    total = trends([entry(cost=None), entry(gpu_seconds=None), entry()], by="day", until=UNTIL).total
    assert (total.unpriced, total.unmeasured, total.cost) == (1, 1, 4.0)
    assert total.images_per_gpu_hour == 18.0, "images without a measured time are no throughput"
    assert trends([], by="card", until=UNTIL).total.images_per_gpu_hour is None


def test_a_thousand_projects_make_a_bounded_table() -> None:
    found = trends([entry(project=f"p{n}") for n in range(1000)], by="project", until=UNTIL)
    assert len(found.groups) == MAX_GROUPS + 1
    assert (found.groups[-1].name, found.groups[-1].runs) == (OTHERS, 1000 - MAX_GROUPS)


AMOUNTS = st.none() | st.floats(0, 1e15)
ENTRIES = st.builds(
    entry, ago=st.floats(-3, 40), project=st.sampled_from(["", "a", "b"]), gpu_seconds=AMOUNTS, cost=AMOUNTS
)


@given(st.lists(ENTRIES))
def test_the_groups_add_up_to_the_whole(entries: list[RunEntry]) -> None:
    for by in ("day", "project", "card"):
        found = trends(entries, by=by, until=UNTIL)  # type: ignore[arg-type]
        for field in ("runs", "rows", "done", "failed", "unpriced", "unmeasured"):
            assert sum(getattr(one, field) for one in found.groups) == getattr(found.total, field)


def test_a_second_view_reads_no_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(scratch=tmp_path / "scratch")
    workspace = Workspace.open(settings, store=str(tmp_path / "store"))
    for number in range(60):
        put_finished_run(workspace, f"night-{number}", 3)
    read: list[str] = []
    get = Storage.get

    def counted(self: Storage, where: Any, **more: Any) -> bytes:
        read.append(str(where))
        return get(self, where, **more)

    monkeypatch.setattr(Storage, "get", counted)
    catalogue = Catalogue(workspace, tmp_path / "scratch" / "kept.jsonl")
    while catalogue.finished()[1]:
        pass
    entries, _ = catalogue.finished()
    assert len(entries) == 60
    assert entries[0].gpu_seconds
    read.clear()
    assert len(catalogue.finished()[0]) == 60
    assert len(read) <= 25 * 3, "at most what the list shows is looked at again"
    again = Catalogue(workspace, tmp_path / "scratch" / "kept.jsonl")
    read.clear()
    entries, unread = again.finished()
    assert (len(entries), unread) == (60, 0)
    assert len({name for name in read if name.endswith("run.json")}) <= 25, "a restart reads the kept lines"
    assert entries[0].gpu_seconds
