"""What the pages show, without Airflow: it is what the store says, and it costs no request a row."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.browse import Pictures, RowQuery, RunQuery, RunView, RunViews
from inpaint_ops.browse import catalogue as catalogue_module
from inpaint_ops.browse.state import STALLED_AFTER, shard_state
from inpaint_ops.browse.table import RecordTable, worker_parts
from inpaint_ops.config import Settings
from inpaint_ops.errors import ForbiddenLocationError, ManifestError, ObjectNotFoundError
from inpaint_ops.images import thumbnails
from inpaint_ops.records import STAGES, Output, Record, Thumbnail, now
from inpaint_ops.report import facts
from inpaint_ops.runs import Workspace, keep_refusal, refusal
from inpaint_ops.storage import Storage
from tests.support.synthetic_run import START, make_plan, put_finished_run, put_plan, put_progress, put_record, record
from tests.support.waiting import wait_until


class Counted(Storage):
    """Storage that counts what it is asked."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: Counter[str] = Counter()
        self._counting = threading.Lock()

    def _count(self, what: str) -> None:
        with self._counting:
            self.asked[what] += 1

    def get(self, *arguments: Any, **options: Any) -> bytes:
        self._count("get")
        return super().get(*arguments, **options)

    def get_unchecked(self, *arguments: Any, **options: Any) -> bytes:
        self._count("get")
        return super().get_unchecked(*arguments, **options)

    def list(self, *arguments: Any, **options: Any) -> Any:
        self._count("list")
        return super().list(*arguments, **options)

    def stat(self, *arguments: Any, **options: Any) -> Any:
        self._count("stat")
        return super().stat(*arguments, **options)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))
    return Workspace(made.settings, made.store, Counted(writable=[made.store]))


def asked(workspace: Workspace) -> Counter[str]:
    assert isinstance(workspace.storage, Counted)
    return workspace.storage.asked


def view(workspace: Workspace, run: str) -> RunView:
    found = RunView.open(workspace, run)
    assert found is not None
    return found


class TestFinished:
    def test_fifty_thousand_records_are_paged_filtered_and_sorted(self, workspace: Workspace) -> None:
        _, records = put_finished_run(workspace, "big", 50_000, failed=set(range(1000, 50_000, 1000)), rejected=3)
        asked(workspace).clear()
        run = view(workspace, "big")
        first = run.page(RowQuery(), 1, 48)
        assert [found.row for found in first.records] == list(range(1, 49))
        assert (first.total, first.pages) == (50_000, 1042)
        assert first.records[0] == records[0]
        assert sum(asked(workspace).values()) < 12, "the first page reads no more than it shows"
        assert [found.row for found in run.page(RowQuery(), 1042, 48).records] == list(range(49_969, 50_001))
        failed = run.page(RowQuery(status="failed"), 1, 10)
        assert (failed.total, [found.row for found in failed.records]) == (49, list(range(1000, 10_001, 1000)))
        assert run.page(RowQuery(text="number 49999"), 1, 10).records == (records[49_998],)
        slowest = run.page(RowQuery(order="slowest"), 1, 5)
        assert [found.row for found in slowest.records] == [100, 200, 300, 400, 500]
        shard = run.page(RowQuery(shard_rows=(401, 600)), 1, 48)
        assert (shard.total, shard.records[0].row) == (200, 401)
        assert run.page(RowQuery(shard_rows=(49_801, 50_000)), 1, 48).total == 197, "rejected lines are of no shard"
        assert sum(asked(workspace).values()) < 40, "no request a row"

    def test_the_columns_tell_what_the_report_tells(self, workspace: Workspace) -> None:
        summary, records = put_finished_run(workspace, "night", 401, failed={7, 9}, rejected=1, shard_rows=150)
        table = view(workspace, "night").records().table
        expected = facts(records)
        assert {part.key: round(part.seconds, 6) for part in table.stage_parts()} == {
            part.key: round(part.seconds, 6) for part in expected.stage_parts
        }
        assert table.stage_stats() == summary.stages
        assert set(summary.stages) <= set(STAGES)
        groups = [(group.type, group.cure, len(group.records)) for group in expected.failures]
        assert [(group.type, group.cure, group.count) for group in view(workspace, "night").failures()] == groups
        assert [row.record.row for row in expected.slowest[:4]] == [
            int(table.rows[position]) for position in table.select(RowQuery(order="slowest"), list)[:4]
        ]

    def test_the_workers_time_is_split_without_a_gap(self, workspace: Workspace) -> None:
        summary, _ = put_finished_run(workspace, "night", 400)
        parts = worker_parts(summary, view(workspace, "night").records().table.stage_seconds())
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert summary.gpu_seconds_per_image is not None
        assert sum(part.seconds for part in parts) == pytest.approx(summary.gpu_seconds_per_image * 400)
        assert {part.key for part in parts} >= {"imports", "load", "painting"}

    def test_throughput_adds_up_to_the_rows_done(self, workspace: Workspace) -> None:
        put_finished_run(workspace, "night", 403, failed={5})
        points = view(workspace, "night").records().table.throughput()
        assert round(sum(point.images_per_second * point.width for point in points)) == 402
        assert len(points) <= 60

    def test_a_run_that_is_reported_anew_is_read_anew(self, workspace: Workspace) -> None:
        put_finished_run(workspace, "night", 8, failed={2})
        run = view(workspace, "night")
        assert run.page(RowQuery(status="failed"), 1, 10).total == 1
        put_finished_run(workspace, "night", 8)
        run.refresh(always=True)
        assert run.page(RowQuery(status="failed"), 1, 10).total == 0


class TestLive:
    def test_a_run_moves_by_what_its_shards_say(self, workspace: Workspace) -> None:
        put_plan(workspace, make_plan("live", 30, shard_rows=10, rejected=2))
        run = view(workspace, "live")
        assert (run.state.state, run.state.ended) == ("waiting", 2)
        put_progress(workspace, "live", 0, rows=10, done=4, failed=1)
        put_progress(workspace, "live", 1, rows=10, done=2)
        run.refresh(always=True)
        state = run.state
        assert (state.state, state.done, state.failed, state.rejected) == ("running", 6, 1, 2)
        assert state.images_per_second == 4.0
        assert state.seconds_left == pytest.approx(21 / 4)
        assert [shard.state for shard in run.shards] == ["working", "working", "waiting"]
        before = asked(workspace)["get"]
        put_progress(workspace, "live", 1, rows=10, done=3)
        run.refresh(always=True)
        assert run.state.done == 7
        assert asked(workspace)["get"] == before + 1, "only the progress that changed is read"

    def test_only_new_records_are_read(self, workspace: Workspace) -> None:
        put_plan(workspace, make_plan("live", 30, shard_rows=10))
        for row in (1, 2, 3):
            put_record(workspace, "live", record(row, status="failed" if row == 2 else "done"))
        put_progress(workspace, "live", 0, rows=10, done=2, failed=1)
        run = view(workspace, "live")
        assert [found.row for found in run.page(RowQuery(), 1, 10).records] == [1, 2, 3]
        assert [group.count for group in run.failures()] == [1]
        before = asked(workspace)["get"]
        put_record(workspace, "live", record(5))
        put_progress(workspace, "live", 0, rows=10, done=3, failed=1)
        run.refresh(always=True)
        assert run.page(RowQuery(order="newest"), 1, 10).records[0].row == 5
        assert run.record(5) == record(5)
        assert run.record(4) is None
        assert asked(workspace)["get"] == before + 2, "one record and one progress object"

    def test_a_run_that_ends_is_read_from_its_results(self, workspace: Workspace) -> None:
        put_plan(workspace, make_plan("night", 8, shard_rows=10))
        put_record(workspace, "night", record(1))
        put_progress(workspace, "night", 0, rows=8, done=1)
        run = view(workspace, "night")
        assert run.page(RowQuery(), 1, 10).total == 1
        put_progress(workspace, "night", 0, rows=8, done=8, phase="finished")
        run.refresh(always=True)
        assert run.state.state == "reporting"
        put_finished_run(workspace, "night", 8)
        run.refresh(always=True)
        assert run.is_finished
        assert run.page(RowQuery(), 1, 10).total == 8

    @pytest.mark.parametrize(
        ("fields", "age", "state"),
        [
            ({}, 20, "working"),
            ({}, STALLED_AFTER + 1, "stalled"),
            ({"worker_silent": STALLED_AFTER - 5}, 6, "stalled"),
            ({"worker_silent": None, "phase": "loading"}, 30, "working"),
            ({"phase": "finished"}, 900, "finished"),
            ({"phase": "stopped"}, 900, "stopped"),
        ],
    )
    def test_a_stalled_shard_shows_within_a_minute(
        self, workspace: Workspace, fields: dict[str, Any], age: float, state: str
    ) -> None:
        plan = make_plan("live", 10, shard_rows=10)
        progress = put_progress(workspace, "live", 0, rows=10, done=1, **fields)
        assert STALLED_AFTER + progress.interval <= 60
        assert shard_state(plan.shards[0], 0, (progress, START), START + timedelta(seconds=age)).state == state


class TestCatalogue:
    def test_runs_come_newest_first_and_are_filtered_and_sorted(self, workspace: Workspace) -> None:
        for index, failed in enumerate([set(), {1, 2, 3}, {1}]):
            put_finished_run(workspace, f"run-{index}", 12, failed=failed, created=START + timedelta(hours=index))
        put_plan(workspace, make_plan("waiting", 5, shard_rows=5, created=START + timedelta(hours=9)))
        catalogue = RunViews(workspace, keep=False).catalogue

        def names(**query: Any) -> list[str]:
            return [entry.run for entry in catalogue.page(RunQuery(**query)).entries]

        assert names() == ["waiting", "run-2", "run-1", "run-0"]
        assert names(descending=False) == ["run-0", "run-1", "run-2", "waiting"]
        assert names(verdict="INVALID") == ["run-1"]
        assert names(state="going") == ["waiting"]
        assert names(text="RUN-2") == ["run-2"]
        assert names(order="failed", state="finished") == ["run-1", "run-2", "run-0"]
        assert names(order="peak_memory")[-1] == "waiting", "what is unknown comes last"
        first = catalogue.page(RunQuery(), 1, 3)
        assert (first.total, first.pages, first.unread) == (4, 2, 0)
        assert [entry.run for entry in catalogue.page(RunQuery(), 2, 3).entries] == ["run-0"]

    def test_finished_runs_are_read_once_and_kept_over_a_restart(self, workspace: Workspace) -> None:
        for index in range(60):
            put_finished_run(workspace, f"run-{index:02d}", 4, created=START + timedelta(hours=index))
        assert RunViews(workspace).catalogue.page(RunQuery()).total == 60
        asked(workspace).clear()
        again = RunViews(workspace).catalogue
        page = again.page(RunQuery(), size=5)
        assert (page.total, page.unread) == (60, 0)
        assert asked(workspace)["get"] <= 10, "only the five that are shown are looked at again"
        asked(workspace).clear()
        again.page(RunQuery(), size=5)
        assert asked(workspace) == {}, "and not a second time right after"

    def test_a_damaged_run_does_not_hide_the_others(self, workspace: Workspace) -> None:
        put_finished_run(workspace, "good", 4)
        workspace.storage.put(workspace.layout("bad").plan, b"{")
        workspace.storage.put(workspace.layout("planless").manifest, b"")
        page = RunViews(workspace, keep=False).catalogue.page(RunQuery())
        assert (page.total, page.unread) == (2, 0)
        entries = {entry.run: entry for entry in page.entries}
        assert entries["good"].state == "finished"
        assert entries["bad"].state == "unreadable"
        assert entries["bad"].problem

    def test_a_refused_job_is_listed_until_it_is_planned(self, workspace: Workspace) -> None:
        refused = refusal(ManifestError("line 1 is no JSON"), run="night", manifest="s3://b/night.jsonl")
        assert keep_refusal(workspace, refused)
        views = RunViews(workspace, keep=False)
        (entry,) = views.catalogue.page(RunQuery(state="refused")).entries
        assert (entry.run, entry.state, entry.rows) == ("night", "refused", 0)
        assert "line 1 is no JSON Correct the manifest" in entry.problem
        assert not views.catalogue.page(RunQuery(state="going")).entries
        assert views.refusal("night") == refused
        assert views.refusal("other") is None
        put_finished_run(workspace, "night", 4)
        assert not keep_refusal(workspace, refused), "a run that is there is left alone"
        (entry,) = RunViews(workspace, keep=False).catalogue.page(RunQuery()).entries
        assert entry.state == "finished"

    def test_the_first_page_waits_for_a_run_however_slow_the_store_is(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catalogue_module, "_WAIT_SECONDS", 0.0)
        monkeypatch.setattr(catalogue_module, "_PATIENCE_SECONDS", 600.0)
        for index in range(3):
            put_finished_run(workspace, f"run-{index}", 4)
        page = RunViews(workspace, keep=False).catalogue.page(RunQuery())
        assert page.entries
        assert page.total + page.unread == 3

    def test_a_run_that_goes_on_is_looked_at_again(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("inpaint_ops.browse.catalogue.LIVE_SECONDS", 0.0)
        put_plan(workspace, make_plan("live", 5, shard_rows=5, created=now()))
        catalogue = RunViews(workspace, keep=False).catalogue
        assert catalogue.page(RunQuery()).entries[0].state == "waiting"
        put_progress(workspace, "live", 0, rows=5, done=2)
        wait_until(lambda: catalogue.page(RunQuery()).entries[0].done == 2)

    def test_a_run_that_was_given_up_long_ago_costs_nothing_where_it_is_not_shown(self, workspace: Workspace) -> None:
        put_plan(workspace, make_plan("given-up", 5, shard_rows=5, created=now() - timedelta(days=30)))
        put_plan(workspace, make_plan("young", 5, shard_rows=5, created=now()))
        catalogue = RunViews(workspace, keep=False).catalogue
        assert [entry.state for entry in catalogue.page(RunQuery()).entries] == ["waiting", "waiting"]
        catalogue._looked.clear()
        asked(workspace).clear()
        catalogue.page(RunQuery(text="young"))
        assert asked(workspace)["stat"] == 1


class TestPictures:
    def png(self, size: tuple[int, int], colour: object = (9, 99, 200)) -> bytes:
        sink = io.BytesIO()
        Image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(sink, "PNG")  # type: ignore[arg-type]
        return sink.getvalue()

    def test_pictures_are_small_and_read_once(self, workspace: Workspace) -> None:
        root = workspace.store
        for name, body in (("a.png", self.png((900, 600))), ("m.png", self.png((900, 600), 255))):
            workspace.storage.put(root.join(name), body)
        row = record(1).model_copy(update={"source": root.join("a.png").uri, "mask": root.join("m.png").uri})
        pictures = RunViews(workspace, keep=False).pictures
        with Image.open(io.BytesIO(pictures.picture(row, "source", 256))) as small:
            assert (small.format, small.size) == ("JPEG", (256, 171))
        with Image.open(io.BytesIO(pictures.picture(row, "mask", 256))) as layer:
            assert layer.mode == "RGBA"
            assert layer.getpixel((5, 5))[3] > 100  # type: ignore[index]
        inverted = row.model_copy(update={"mask_invert": True})
        with Image.open(io.BytesIO(pictures.picture(inverted, "mask", 256))) as layer:
            assert layer.getpixel((5, 5))[3] == 0  # type: ignore[index]
        before = asked(workspace)["get"]
        pictures.picture(row, "source", 256)
        assert asked(workspace)["get"] == before

    def with_thumbnails(self, workspace: Workspace, size: tuple[int, int] = (900, 600)) -> Record:
        """A done row of the run `night` whose image lies in the store, as its thumbnails do."""
        layout = workspace.layout("night")
        row = record(1)
        image = workspace.storage.put(layout.image(row.id, ".png"), self.png(size)).location
        named = []
        for longest, data in thumbnails(np.zeros((size[1], size[0], 3), np.uint8)):
            place = layout.thumbnail(image, longest)
            workspace.storage.put(place, data)
            digest = hashlib.sha256(data).hexdigest()
            named.append(Thumbnail(size=longest, uri=place.uri, sha256=digest, bytes=len(data)))
        output = Output(uri=image.uri, sha256="0" * 64, bytes=1, width=size[0], height=size[1], format="png")
        return row.model_copy(update={"output": output, "thumbnails": tuple(named)})

    def test_a_results_thumbnail_is_passed_on_and_nothing_is_decoded(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pictures = Pictures(workspace, helper=lambda: pytest.fail("a helper was started"))
        for size, shown in (((900, 600), {256: (256, 171), 1600: (900, 600)}), ((90, 60), {256: (90, 60)})):
            row = self.with_thumbnails(workspace, size)
            for longest in (256, 1600):
                data = pictures.picture(row, "result", longest, run="night")
                with Image.open(io.BytesIO(data)) as small:
                    assert (small.format, small.size) == ("WEBP", shown.get(longest, size))
            pictures = Pictures(workspace, helper=lambda: pytest.fail("a helper was started"))
        before = asked(workspace)["get"]
        for _ in range(3):
            pictures.picture(row, "result", 256, run="night")
        assert asked(workspace)["get"] == before + 1, "read once, then kept"

    @pytest.mark.parametrize("wrong", ["gone", "replaced", "no WebP", "elsewhere", "another run's", "too large"])
    def test_a_thumbnail_that_is_not_the_rows_own_is_not_shown(self, workspace: Workspace, wrong: str) -> None:
        row = self.with_thumbnails(workspace)
        first = row.thumbnails[0]
        place = workspace.layout("night").thumbnail(workspace.layout("night").image("row-00001", ".png"), 256)
        match wrong:
            case "gone":
                workspace.storage.delete(place)
            case "replaced":
                workspace.storage.put(place, workspace.storage.get(row.thumbnails[1].uri))
            case "no WebP":
                body = b"<html><script>alert(1)</script>"
                workspace.storage.put(place, body)
                first = first.model_copy(update={"sha256": hashlib.sha256(body).hexdigest()})
            case "too large":
                body = workspace.storage.get(place) + bytes(2**18)
                workspace.storage.put(place, body)
                first = first.model_copy(update={"sha256": hashlib.sha256(body).hexdigest()})
            case "elsewhere":
                first = first.model_copy(update={"uri": row.thumbnails[1].uri})
            case "another run's":
                first = first.model_copy(
                    update={
                        "uri": workspace.layout("day")
                        .thumbnail(workspace.layout("day").image("row-00001", ".png"), 256)
                        .uri
                    }
                )
        row = row.model_copy(update={"thumbnails": (first, *row.thumbnails[1:])})
        data = RunViews(workspace, keep=False).pictures.picture(row, "result", 256, run="night")
        with Image.open(io.BytesIO(data)) as small:
            assert (small.format, small.size) == ("JPEG", (256, 171)), "made of the result, as without a thumbnail"

    def test_what_is_kept_is_bounded(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("inpaint_ops.browse.pictures.CACHE_BYTES", 5000)
        pictures = RunViews(workspace, keep=False).pictures
        for number in range(20):
            location = workspace.store.join(f"{number}.png")
            workspace.storage.put(location, self.png((300, 300), (number, 0, 0)))
            pictures.picture(record(1).model_copy(update={"source": location.uri}), "source", 256)
        assert 0 < sum(len(data) for data in pictures._kept.values()) <= 5000

    def test_a_picture_outside_of_what_may_be_read_is_refused(self, workspace: Workspace) -> None:
        pictures = RunViews(workspace, keep=False).pictures
        output = Output(uri="/etc/hostname", sha256="0", bytes=1, width=1, height=1, format="png")
        with pytest.raises(ForbiddenLocationError):
            pictures.picture(record(1).model_copy(update={"output": output}), "result", 256)
        with pytest.raises(ObjectNotFoundError):
            pictures.picture(record(1, status="failed"), "result", 256)


def test_tables_add_up(workspace: Workspace) -> None:
    together = RecordTable.of([record(1), record(2)]) + RecordTable.of([record(3, status="failed")])
    assert together.counts == {"done": 2, "failed": 1}
    assert len(together + RecordTable()) == 3
