"""Rows of a finished run again: what is chosen and written, which record counts, and what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.errors import (
    ConfigError,
    ObjectExistsError,
    RunConflictError,
    StorageUnavailableError,
)
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace, paint, prepare, prepare_retry
from inpaint_ops.runs.selecting import parse_selection
from inpaint_ops.storage import Storage
from tests.support.retry_desk import DONE, FAILED, JOB, UNCHANGED, Desk, ids

pytestmark = pytest.mark.usefixtures("no_gallery")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.run(a=DONE, b=FAILED, c=UNCHANGED, d=DONE, e=FAILED)
    return made


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("failed", "bce"),
        ("unchanged", "c"),
        ("a", "a"),
        ("d , a", "ad"),
        ("unchanged,a", "ac"),
        ("failed,unchanged,id:b", "bce"),
    ],
)
def test_only_the_rows_that_are_named_are_done_again(desk: Desk, asked: str, chosen: str) -> None:
    again = desk.ask(asked)
    assert ids(desk, again) == list(chosen) and not again.notes
    assert again.retry is not None and again.retry.number == 1
    assert [shard.rows for shard in again.retry.shards] == [min(2, len(chosen))] + [1] * (len(chosen) > 2)


def test_the_newest_record_counts_and_the_others_are_listed_in_it(desk: Desk) -> None:
    before = desk.objects()
    desk.finish_retry(desk.ask("failed"))
    summary, records = desk.report()
    assert (summary.counts.done, summary.counts.failed, summary.counts.rejected) == (5, 0, 1)
    assert {name: record.status for name, record in records.items()} == dict.fromkeys("abcde", "done") | {
        "f": "rejected"
    }
    (earlier,) = records["b"].earlier
    assert (earlier.retry, earlier.status, earlier.error and earlier.error.type) == (0, "failed", FAILED)
    assert records["b"].retry == 1 and not records["a"].earlier
    assert [(one.number, one.asked, one.rows, one.done) for one in summary.retries] == [(1, "failed", 3, 3)]
    after = desk.objects()
    assert all(after[name] == body for name, body in before.items()), "nothing that was there has changed"
    assert before.keys() >= {"images/a.png"} and after.keys() >= {"images/b.png", "images/e.png"}
    assert not json.loads(after["failed.jsonl"] or "{}")


def test_a_done_row_keeps_its_image_and_the_new_one_lies_beside_it(desk: Desk) -> None:
    desk.finish_retry(desk.ask("a"))
    _, records = desk.report()
    assert records["a"].output is not None and records["a"].output.uri.endswith("/images/a~1.png")
    (earlier,) = records["a"].earlier
    assert earlier.output is not None and earlier.output.uri.endswith("/images/a.png")
    assert desk.objects()["images/a.png"] == b"00000 a"


def test_the_verdict_follows_the_newest_records_for_the_worse_too(desk: Desk) -> None:
    desk.finish_retry(desk.ask("b,c,e"))
    desk.finish_retry(desk.ask("a"), how=FAILED)
    summary, records = desk.report()
    assert (summary.counts.done, summary.counts.failed, summary.verdict) == (4, 1, "INVALID")
    assert [one.retry for one in records["a"].earlier] == [0] and records["a"].retry == 2
    desk.finish_retry(desk.ask("failed"))
    summary, records = desk.report()
    assert (summary.counts.done, summary.counts.failed) == (5, 0)
    assert [(one.retry, one.status) for one in records["a"].earlier] == [(0, "done"), (2, "failed")]
    assert len(summary.retries) == 3
    page = desk.objects()["report.html"].decode()
    assert "Done again" in page and '<th scope="row">b,c,e</th>' in page


def test_a_retry_that_broke_off_is_gone_on_with_and_meanwhile_the_old_records_count(desk: Desk) -> None:
    first = desk.ask("failed")
    desk.finish_retry(first, most=1)
    summary, records = desk.report()
    assert (summary.counts.done, summary.counts.failed, summary.counts.missing) == (3, 2, 0)
    assert records["c"].error and records["c"].error.type == UNCHANGED
    assert sum("retry 1" in line and "earlier records count" in line for line in summary.warnings) == 2
    again = desk.ask("failed")
    assert again.retry == first.retry
    assert len(again.notes) == 1 and "retry 1 of run 'job' (failed) has not ended: 2 of 3 rows wait" in again.notes[0]
    plan = desk.workspace.plan("job")
    assert plan is not None
    for shard, rows in desk.rows(again.retry).items():
        for row in rows:
            try:
                desk.end(shard, row, DONE)
            except ObjectExistsError:
                assert row.id == "b"
    assert desk.report()[0].counts.done == 5
    done = desk.ask("failed")
    assert done.retry is None and done.notes == ("no row of run 'job' is failed: nothing to do again",)


def test_another_retry_beside_one_that_has_not_ended_says_so_and_the_higher_number_counts(desk: Desk) -> None:
    first, second = desk.ask("failed"), desk.ask("b")
    assert second.retry is not None and second.retry.number == 2
    assert len(second.notes) == 1 and "another one is begun beside it" in second.notes[0]
    desk.finish_retry(second, how=DONE)
    desk.finish_retry(first, how=FAILED)
    summary, records = desk.report()
    assert records["b"].status == "done" and [one.retry for one in records["b"].earlier] == [0, 1]
    assert summary.counts.done == 3


def test_two_that_plan_a_retry_at_once_get_one_each_or_the_same(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: desk.ask("failed" if index % 2 else f"{'ad'[index % 4 // 2]}"), range(8)))
    retries = {again.retry.number: again.retry for again in found if again.retry is not None}
    assert all(again.retry == retries[again.retry.number] for again in found if again.retry is not None)
    assert sorted(retries) == list(range(1, len(retries) + 1))
    for again in found:
        assert again.retry is not None
        assert [row.id for rows in desk.rows(again.retry).values() for row in rows] == (
            list("bce") if again.retry.asked == "failed" else [again.retry.asked]
        )


def test_the_same_request_asks_once(desk: Desk) -> None:
    first = desk.ask("a", request="manual__1")
    desk.finish_retry(first)
    assert desk.ask("a", request="manual__1").retry == first.retry, "a task that is tried again adds nothing"
    other = desk.ask("a", request="manual__2").retry
    assert other is not None and other.number == 2


def test_a_rejected_row_is_corrected_in_rejected_jsonl_and_keeps_its_id_and_line(desk: Desk) -> None:
    place = desk.workspace.layout("job").rejected
    (row,) = [json.loads(line) for line in desk.workspace.storage.get(place).splitlines()]
    assert row["id"] == "f" and row["_error"].startswith("row 6: seed")
    corrected = desk.folder / "in" / "rejected.jsonl"
    corrected.write_text(json.dumps(row | {"seed": 7}) + "\n")
    again = desk.ask("rejected", corrected)
    assert again.retry is not None and not again.notes
    ((planned,),) = desk.rows(again.retry).values()
    assert (planned.id, planned.row, planned.parameters.seed) == ("f", 6, 7)
    desk.finish_retry(again)
    summary, records = desk.report()
    assert (summary.counts.rejected, summary.counts.done) == (0, 3)
    assert [(one.status, one.retry) for one in records["f"].earlier] == [("rejected", 0)]
    repeated = desk.ask("f")
    assert ids(desk, repeated) == ["f"], "with the run's own manifest, as it was tried last"


def test_a_rejected_row_that_stays_wrong_is_told_and_keeps_its_record(desk: Desk) -> None:
    again = desk.ask("rejected")
    assert again.retry is None
    assert len(again.notes) == 1 and again.notes[0].startswith("f stays rejected: row 6: seed")
    assert not [name for name in desk.objects() if "retry-" in name]


def test_a_row_rejected_for_its_place_is_done_once_that_may_be_read(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").touch()
    desk.write(desk.manifest, [{"id": "a"}, {"id": "b", "image": f"file://{elsewhere}/a.png"}])
    plan = prepare(desk.workspace, str(desk.manifest), "job", JOB)
    desk.end("00000", desk.workspace.shard_rows(plan, "00000")[0], DONE)
    assert plan.rejected == 1
    desk.workspace = Workspace.open(
        desk.workspace.settings, store=str(tmp_path / "out"), also_readable=[str(tmp_path / "in"), str(elsewhere)]
    )
    resumed = prepare(desk.workspace, str(desk.manifest), "job", JOB)
    assert resumed.rejected == 1 and "--retry rejected does them" in resumed.warnings[-1]
    again = desk.ask("rejected")
    assert ids(desk, again) == ["b"] and not again.notes


def test_corrected_rows_are_taken_from_another_manifest_by_their_ids(desk: Desk) -> None:
    other = desk.write(
        desk.folder / "in" / "failed.jsonl",
        [{"id": "b", "steps": 7, "strength": 1}, {"id": "x"}, {"id": "c", "seed": -1}, {"id": "a"}],
    )
    again = desk.ask("failed", other)
    assert again.retry is not None
    ((row,),) = desk.rows(again.retry).values()
    assert (row.id, row.row, row.parameters.steps, row.parameters.strength) == ("b", 2, 7, 1.0)
    said = "\n".join(again.notes)
    assert "c stays failed: row 3: seed" in said and "e stays failed: the manifest has no row" in said
    assert "2 other rows of the manifest" in said and len(again.notes) == 3
    with pytest.raises(ConfigError, match="no row with the id 'e', and it is not the run's own"):
        desk.ask("e", other)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("", "names no rows"),
        (" , ", "names no rows"),
        ("a,,b", "empty part"),
        ("a,", "empty part"),
        ("a,b,a", "names 'a' twice"),
        ("failed,failed", "names 'failed' twice"),
        ("zz", "no row with the id 'zz'"),
        ("photo-aa", "no row with the id"),
        ("../x", "is no id"),
        ("a;b", "is no id"),
        (",".join(f"row-{number}" for number in range(20_000)), "the limit is 100,000"),
    ],
)
def test_what_names_no_rows_is_one_clear_line_and_writes_nothing(desk: Desk, asked: str, says: str) -> None:
    before = desk.objects()
    with pytest.raises(ConfigError, match=says) as caught:
        desk.ask(asked)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 200
    assert desk.objects() == before


def test_an_id_that_is_nearly_right_gets_a_hint(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.write(desk.manifest, [{"id": "chair-0001", "image": "a.png"}, {"id": "failed", "image": "b.png"}])
    plan = prepare(desk.workspace, str(desk.manifest), "job", JOB)
    for row in desk.workspace.shard_rows(plan, "00000"):
        desk.end("00000", row, DONE)
    with pytest.raises(ConfigError, match="did you mean 'chair-0001'"):
        desk.ask("chair-001")
    assert ids(desk, desk.ask("id:failed")) == ["failed"]
    assert desk.ask("failed").retry is None
    assert parse_selection("id:failed,failed").text == "failed,id:failed"


def test_a_run_that_goes_on_is_not_retried(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.run(a=FAILED, b=DONE, c=DONE, d=DONE)
    with pytest.raises(RunConflictError, match=r"1 row without a record: it is under way.*without --retry goes on"):
        desk.ask("failed")
    with pytest.raises(ConfigError, match="there is no run 'none'"):
        prepare_retry(desk.workspace, str(desk.manifest), "none", "failed", JOB)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_run_whose_shards_are_gone_is_not_retried(desk: Desk, damage: str) -> None:
    place = desk.workspace.layout("job").shard("00001")
    if damage == "gone":
        desk.workspace.storage.delete(place)
    else:
        desk.workspace.storage.put(place, desk.workspace.storage.get(place).splitlines(keepends=True)[0])
    with pytest.raises(ConfigError, match=r"00001.*run its failed.jsonl as a manifest") as caught:
        desk.ask("failed")
    assert len(str(caught.value).splitlines()) == 1


def test_a_retry_whose_shards_are_gone_leaves_the_old_records(desk: Desk) -> None:
    again = desk.ask("failed")
    desk.finish_retry(again)
    assert again.retry is not None
    desk.workspace.storage.delete(desk.workspace.layout("job").shard(again.retry.shards[0].name))
    summary, records = desk.report()
    assert records["b"].status == "failed" and records["e"].status == "done"
    assert any("of retry 1 cannot be read" in line for line in summary.warnings)
    with pytest.raises(ConfigError, match="has no retry 7"):
        paint(desk.workspace, "job", "00000r0007_00000000")


@pytest.mark.parametrize("name", ["model", "scheduler", "steps", "strength", "failure_threshold"])
def test_the_runs_own_choices_stand(desk: Desk, name: str) -> None:
    other = {"model": "mid-random", "scheduler": "ddim", "steps": 3, "strength": 0.5, "failure_threshold": 1.0}[name]
    job = JOB.model_copy(update={name: other})
    with pytest.raises(RunConflictError, match=f"was started with {name} = "):
        prepare_retry(desk.workspace, str(desk.manifest), "job", "failed", job, chosen={name})
    again = prepare_retry(desk.workspace, str(desk.manifest), "job", "failed", job)
    assert again.retry is not None and getattr(again.retry.job, name) == getattr(JOB, name), "not chosen, so not taken"


def test_a_retry_may_be_tuned_otherwise(desk: Desk) -> None:
    job = JOB.model_copy(update={"tuning": "low-memory", "shard_rows": 9, "tuning_overrides": {"batch_size": 1}})
    chosen = {"tuning", "tuning_overrides", "shard_rows"}
    again = prepare_retry(desk.workspace, str(desk.manifest), "job", "failed", job, chosen=chosen)
    assert again.retry is not None and len(again.retry.shards) == 1
    plan = desk.workspace.plan("job")
    assert plan is not None
    used, rows = desk.workspace.shard(plan, again.retry.shards[0].name)
    assert (used.tuning, used.tuning_overrides, len(rows)) == ("low-memory", {"batch_size": 1}, 3)


class Broken(Storage):
    """Storage that breaks when it is told to write one object."""

    breaks_at = "shards/retry-0001.json"

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        if str(where).endswith(self.breaks_at):
            raise StorageUnavailableError("the store is gone")
        return super().put(where, data, **options)


def test_a_retry_that_was_not_planned_to_its_end_is_none(desk: Desk) -> None:
    broken = Desk(desk.folder, Broken)
    with pytest.raises(StorageUnavailableError):
        broken.ask("failed")
    assert desk.report()[0].retries == ()
    again = desk.ask("failed")
    assert again.retry is not None and again.retry.number == 1
    desk.finish_retry(again)
    assert desk.report()[0].counts.done == 5


def test_a_forged_retry_brings_no_rows_that_the_run_has_not(desk: Desk) -> None:
    again = desk.ask("failed")
    assert again.retry is not None
    name = again.retry.shards[0].name
    layout = desk.workspace.layout("job")
    (first, *rest) = [json.loads(line) for line in desk.workspace.storage.get(layout.shard(name)).splitlines()]
    forged = [first | {"id": "somebody-elses"}, *rest]
    desk.workspace.storage.put(layout.shard(name), "".join(json.dumps(row) + "\n" for row in forged).encode())
    rows = desk.rows(again.retry)[name]
    desk.end(name, rows[0], DONE)
    summary, records = desk.report()
    assert "somebody-elses" not in records and records["b"].status == "failed" and summary.counts.missing == 0
    assert any("holds rows that the run has not" in line for line in summary.warnings)


def test_a_retrys_record_in_the_runs_own_shard_does_not_count(desk: Desk) -> None:
    layout, storage = desk.workspace.layout("job"), desk.workspace.storage
    place = layout.record("00000", 1)
    forged = Record.model_validate_json(storage.get(place)).model_copy(update={"retry": 1})
    storage.put(place, forged.model_dump_json().encode())
    summary, records = desk.report()
    assert "a" not in records and summary.counts.missing == 1


def test_the_days_between_a_run_and_its_retry_are_no_painting_time(desk: Desk) -> None:
    again = desk.ask("failed")
    assert again.retry is not None
    for shard, rows in desk.rows(again.retry).items():
        for row in rows:
            record = desk.end(shard, row, DONE)
            later = {name: getattr(record, name) + timedelta(days=30) for name in ("started_at", "finished_at")}
            place = desk.workspace.layout("job").record(shard, row.row)
            desk.workspace.storage.put(place, record.model_copy(update=later).model_dump_json().encode())
    summary, _ = desk.report()
    assert summary.counts.done == 5 and summary.seconds < timedelta(days=29).total_seconds()
