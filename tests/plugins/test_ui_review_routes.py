"""The routes of a review: who may write marks, whose name they get, what is refused, what rows are found by."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from inpaint_ops.config import Settings
from inpaint_ops.records import Measures, Record
from inpaint_ops.report import results_jsonl, timings_parquet
from inpaint_ops.reviewing import Mark, Reviews
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.supervisor import ShardRun
from tests.support.bench import Bench
from tests.support.pages import app, signed_in
from tests.support.synthetic_run import put_finished_run

__all__ = ["app"]

ROWS, FAILED = 60, 7
REVIEWS = "/api/runs/night/reviews"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A finished run of 60 rows; line 7 failed, line 60 was rejected, lines 3 and 5 have visible seams."""
    found = Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))
    _, records = put_finished_run(found, "night", ROWS, failed={FAILED}, rejected=1)
    contrasts = np.random.default_rng(1).normal(1.0, 0.01, ROWS + 1)
    contrasts[[3, 5]] = 3.0, 6.0
    measured = [
        record.model_copy(update={"measures": Measures(seam_contrast=float(contrasts[record.row]))})
        if record.status == "done"
        else record
        for record in records
    ]
    layout = found.layout("night")
    found.storage.put(layout.results, results_jsonl(measured))
    found.storage.put(layout.timings, timings_parquet(measured))
    return found


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with signed_in(app) as found:
        yield found


def attempt(client: TestClient, row: int) -> str:
    return str(client.get(f"/api/runs/night/rows/{row}").json()["record"]["attempt"])


def mark(row: int, what: str | None = "accept", **fields: Any) -> dict[str, Any]:
    return {"id": f"row-{row:05d}", "attempt": "00000-attempt", "mark": what} | fields


def post(client: TestClient, *marks: dict[str, Any], **options: Any) -> Any:
    return client.post(REVIEWS, json={"marks": list(marks)}, **options)


def opinions(workspace: Workspace) -> dict[str, dict[str, Any]]:
    reviews = Reviews(workspace.storage, workspace.layout("night"))
    reviews.refresh()
    return {name: dict(found) for name, found in reviews.opinions.items()}


def found(client: TestClient, query: str) -> list[int]:
    reply = client.get(f"/api/runs/night/rows?{query}")
    assert reply.status_code == 200, reply.text
    return [item["row"] for item in reply.json()["items"]]


class TestRights:
    def test_a_mark_is_stored_under_the_users_own_name(self, client: TestClient, workspace: Workspace) -> None:
        reply = post(client, mark(1, rating=4, note="fine"), mark(2, "redo", reason="hands"))
        assert reply.status_code == 200
        assert reply.json()["tally"]["reviewed"] == 2
        assert set(opinions(workspace)) == {"ann"}
        assert opinions(workspace)["ann"]["row-00001"].note == "fine"

    def test_nobody_reviews_in_anothers_name(self, client: TestClient, workspace: Workspace) -> None:
        for body in ({"marks": [mark(1, reviewer="ben")]}, {"marks": [mark(1)], "reviewer": "ben"}):
            assert client.post(REVIEWS, json=body).status_code == 422
        assert opinions(workspace) == {}

    def test_a_viewer_sees_marks_and_may_write_none(self, app: FastAPI, workspace: Workspace) -> None:
        with signed_in(app) as ann:
            post(ann, mark(1))
        with signed_in(app, "vic", "viewer") as viewer:
            assert post(viewer, mark(1, "reject")).status_code == 403
            seen = viewer.get(REVIEWS).json()
            assert (seen["may_review"], seen["reviewer"], seen["tally"]["accept"]) == (False, "vic", 1)
            assert viewer.get("/api/runs/night/rows/1").json()["review"]["mark"] == "accept"
        assert set(opinions(workspace)) == {"ann"}

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
            ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
            ({"Content-Type": ""}, 415),
            ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
            ({"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"}, 403),
        ],
    )
    def test_what_another_site_may_have_sent_is_refused(
        self, client: TestClient, workspace: Workspace, headers: dict[str, str], status: int
    ) -> None:
        body = json.dumps({"marks": [mark(1)]})
        assert client.post(REVIEWS, content=body, headers=headers).status_code == status
        assert opinions(workspace) == {}
        fine = {"Content-Type": "application/json; charset=utf-8", "Sec-Fetch-Site": "same-origin"}
        assert client.post(REVIEWS, content=body, headers=fine).status_code == 200

    @pytest.mark.parametrize("name", ["../../../claims/x", "José Müller", "anna@studio.example", "{{ x }}", "con"])
    def test_a_users_name_is_never_a_key(self, app: FastAPI, workspace: Workspace, name: str) -> None:
        before = {info.location for info in workspace.storage.list(workspace.store)}
        with signed_in(app, name) as client:
            assert post(client, mark(1)).status_code == 200
            assert client.get("/api/runs/night/rows/1").json()["review"]["reviewer"] == name
        (new,) = {info.location for info in workspace.storage.list(workspace.store)} - before
        assert new.parent == workspace.layout("night").reviews

    def test_a_name_that_cannot_be_a_reviewers_is_one_line(self, app: FastAPI) -> None:
        with signed_in(app, "a\nb") as client:
            reply = post(client, mark(1))
            assert client.get(REVIEWS).json()["may_review"] is False
        assert reply.status_code == 422
        assert "a reviewer's name has 1 to 100 characters" in reply.json()["detail"]


class TestInput:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ([mark(1, "fine")], "mark 1: mark: write accept, reject, redo or clear"),
            ([mark(1), mark(2, rating=6)], "mark 2: rating: write 1 to 5, or 0 for none"),
            ([mark(1, note="n" * 1001)], "mark 1: note: has more than 1,000 characters: shorten it"),
            ([mark(1, reason="r" * 201)], "mark 1: reason: has more than 200 characters: shorten it"),
            ([mark(1, note="a\x00b")], "mark 1: note: holds line breaks or control characters: remove them"),
            ([{"id": "row-00001", "mark": "accept"}], "mark 1: attempt: Field required"),
            ([], "this is no list of marks"),
            ([mark(1)] * 501, "this is no list of marks: send {\"marks\": [...]} with 1 to 500 of them"),
            ("none", "this is no list of marks"),
        ],
    )  # fmt: skip
    def test_bad_input_is_said_in_plain_words(
        self, client: TestClient, workspace: Workspace, body: object, words: str
    ) -> None:
        reply = client.post(REVIEWS, json={"marks": body})
        assert reply.status_code == 422
        assert reply.json()["detail"].startswith(words)
        assert opinions(workspace) == {}

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
    def test_what_is_no_json_is_refused(self, client: TestClient, body: bytes) -> None:
        reply = client.post(REVIEWS, content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 422
        assert "this is no list of marks" in reply.json()["detail"]

    def test_more_than_fits_is_refused_before_it_is_read(self, client: TestClient) -> None:
        body = json.dumps({"marks": [mark(1, note="n" * 2**20)]})
        reply = client.post(REVIEWS, content=body, headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["detail"]) == (413, "too much at once: send 500 marks or fewer")

    def test_a_row_without_an_image_and_one_that_was_painted_again_are_refused_alone(
        self, client: TestClient, workspace: Workspace
    ) -> None:
        reply = post(client, mark(1), mark(FAILED), mark(ROWS), mark(999), mark(2, attempt="an earlier one"))
        assert reply.json()["refused"] == {
            "row-00007": "the run has no image of this row",
            "row-00060": "the run has no image of this row",
            "row-00999": "the run has no image of this row",
            "row-00002": "the row was painted again meanwhile: look at the new image",
        }
        assert set(opinions(workspace)["ann"]) == {"row-00001"}

    def test_a_run_that_is_not_there_is_404(self, client: TestClient) -> None:
        assert client.post("/api/runs/nowhere/reviews", json={"marks": [mark(1)]}).status_code == 404


class TestRows:
    def test_rows_are_found_by_mark(self, app: FastAPI, workspace: Workspace) -> None:
        with signed_in(app) as ann:
            post(ann, mark(1, rating=2), mark(2, "reject"), mark(3, "redo", rating=5), mark(4))
        with signed_in(app, "ben") as client:
            post(client, mark(4, "reject"))
            old = Mark(id="row-00005", mark="accept", attempt="an earlier one")
            Reviews(workspace.storage, workspace.layout("night")).append("cid", [old])
            app.state.views.run("night").reviews._reviews.refresh()
            assert found(client, "mark=accept") == [1]
            assert found(client, "mark=reject") == [2, 4]
            assert found(client, "mark=redo") == [3]
            assert found(client, "mark=any") == [1, 2, 3, 4]
            assert found(client, "mark=disputed") == [4]
            assert found(client, "mark=outdated") == [5]
            assert found(client, "mark=none")[:4] == [5, 6, 8, 9]  # line 7 has no image to review
            assert found(client, "order=rating")[:3] == [3, 1, 2]
            body = client.get("/api/runs/night/rows?mark=disputed").json()
            assert body["review"] == {
                "rows": 58, "reviewed": 4, "accept": 1, "reject": 2, "redo": 1, "disputed": 1, "outdated": 1,
            }  # fmt: skip
            assert [body["items"][0][name] for name in ("mark", "rating", "disputed")] == ["reject", None, True]
            said = client.get("/api/runs/night/rows/4").json()["review"]
            assert [(one["reviewer"], one["mark"]) for one in said["opinions"]] == [
                ("ann", "accept"),
                ("ben", "reject"),
            ]
            assert client.get("/api/runs/night/rows/5").json()["review"]["outdated"] == ["cid"]

    def test_rows_are_found_by_flag_measure_device_and_size(self, client: TestClient) -> None:
        assert found(client, "flag=any") == [3, 5]
        assert found(client, "flag=seam_contrast_high") == [3, 5]
        assert found(client, "flag=flatness_high") == []
        assert found(client, "order=suspicious")[:3] == [5, 3, 1]
        assert found(client, "measure=seam_contrast&least=2") == [3, 5]
        assert found(client, "measure=seam_contrast&least=2&most=4") == [3]
        assert found(client, "measure=seam_contrast&order=highest")[:2] == [5, 3]
        assert FAILED not in found(client, "measure=seam_contrast&most=1100")
        assert len(found(client, "device=NVIDIA+H200")) == 48
        assert found(client, "device=another") == []
        pages = client.get("/api/runs/night/reviews").json()["measures"]
        assert [one["name"] for one in pages][-2:] == ["seconds", "megapixels"]
        size = client.get("/api/runs/night/rows/1").json()["record"]["output"]
        megapixels = size["width"] * size["height"] / 1e6
        for query, count in (
            (f"measure=megapixels&least={megapixels * 0.9}&most={megapixels * 1.1}", 48),
            (f"measure=megapixels&least={megapixels * 1.1}", 0), ("measure=seconds&least=0.001", 48),
            ("measure=seconds&least=1000", 0),
        ):  # fmt: skip
            assert len(found(client, query)) == count, query
        slowest = found(client, "order=slowest&status=done")
        assert found(client, "measure=seconds&order=highest&status=done") == slowest
        assert found(client, "order=largest")[-1] != FAILED
        seen = client.get(REVIEWS).json()
        assert seen["flags"] == {"seam_contrast_high": 2}
        assert seen["devices"] == ["NVIDIA H200"]
        (bars,) = (one["bars"] for one in seen["measures"] if one["name"] == "seam_contrast")
        assert sum(count for _, _, count in bars) == 58

    @pytest.mark.parametrize("query", ["mark=nope", "order=nope", "least=nan", "most=inf", "least=x"])
    def test_a_filter_that_is_none_names_the_field(self, client: TestClient, query: str) -> None:
        reply = client.get(f"/api/runs/night/rows?{query}")
        assert reply.status_code == 422
        assert reply.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]

    def test_what_the_marks_say_is_seen_at_once_by_who_wrote_them(self, client: TestClient) -> None:
        for row in range(1, 5):
            post(client, mark(row))
            assert found(client, "mark=any") == list(range(1, row + 1))


class TestExports:
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Workspace:
        """A run as the program writes it, shards and single records and all, that goes on."""
        bench = Bench(tmp_path, ["a", "b", "fail"])
        bench.shard_run().run()
        return bench.workspace

    def test_exports_are_files_to_save(self, client: TestClient, workspace: Workspace) -> None:
        rows = {row["id"]: row for row in client.get("/api/runs/run/rows").json()["items"]}
        assert set(rows) == {"0", "1", "2"}
        attempts = {
            name: client.get(f"/api/runs/run/rows/{row['row']}").json()["record"]["attempt"]
            for name, row in rows.items()
        }
        sent = [{"id": "0", "attempt": attempts["0"], "mark": "accept"},
                {"id": "1", "attempt": attempts["1"], "mark": "redo", "reason": "hands"}]  # fmt: skip
        assert client.post("/api/runs/run/reviews", json={"marks": sent}).json()["refused"] == {}
        replies = {name: client.get(f"/runs/run/{name}") for name in
                   ("reviews.jsonl", "reviews.csv", "accepted.jsonl", "redo.jsonl")}  # fmt: skip
        for name, reply in replies.items():
            assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'
        said = [json.loads(line) for line in replies["reviews.jsonl"].text.splitlines()]
        assert [(one["id"], one["mark"], one["reviewer"]) for one in said] == [
            ("0", "accept", "ann"),
            ("1", "redo", "ann"),
        ]
        table = list(csv.DictReader(io.StringIO(replies["reviews.csv"].text)))
        assert [(one["id"], one["mark"], one["reason"]) for one in table] == [
            ("0", "accept", ""),
            ("1", "redo", "hands"),
        ]
        assert [json.loads(line)["id"] for line in replies["accepted.jsonl"].text.splitlines()] == ["0"]
        (again,) = map(json.loads, replies["redo.jsonl"].text.splitlines())
        assert again["extra"]["redo_of"]["reason"] == "hands"
        assert all(
            client.get("/runs/run/redo.jsonl").status_code == 200 for _ in range(4)
        )  # each is over when it is sent

    def test_a_viewer_may_export(self, app: FastAPI, workspace: Workspace) -> None:
        with signed_in(app, "vic", "viewer") as viewer:
            assert viewer.get("/runs/run/accepted.jsonl").status_code == 200


class TestRedo:
    """Rows that were sent back become a child run: here it is planned and painted as the DAG would."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        found = Bench(tmp_path, ["a", "b", "fail"])
        found.shard_run().run()
        return found

    @pytest.fixture
    def workspace(self, bench: Bench) -> Workspace:
        return bench.workspace

    def send_back(self, client: TestClient, bench: Bench, *ids: str) -> None:
        attempts = {record.id: record.attempt for record in bench.records().values()}
        sent = [{"id": one, "attempt": attempts[one], "mark": "redo", "reason": "hands"} for one in ids]
        assert client.post("/api/runs/run/reviews", json={"marks": sent}).json()["refused"] == {}

    def test_a_child_run_does_the_rows_again_and_is_seen_beside_them(self, client: TestClient, bench: Bench) -> None:
        self.send_back(client, bench, "0", "1")
        asked = {"variants": 2, "prompt": "another", "steps": 7, "strength": 0.5, "mask_dilate": 4, "mask_blur": 2.0}
        child = client.post("/api/runs/run/redo", json=asked).json()
        assert child["rows"] == 4
        assert child["conf"]["run"] == child["run"]
        plan = prepare(bench.workspace, child["conf"]["manifest"], child["run"], bench.job)
        rows = bench.workspace.shard_rows(plan, "00000")
        assert [row.id for row in rows] == ["0", "0-redo-2", "1", "1-redo-2"]
        before = {record.id: record for record in bench.records().values()}
        assert len({row.parameters.seed for row in rows} | {one.seed for one in before.values() if one.seed}) >= 6
        assert {
            (row.prompt, row.parameters.steps, row.parameters.strength, row.mask_dilate, row.mask_blur) for row in rows
        } == {("another", 7, 0.5, 4, 2.0)}
        for row in rows:
            assert row.extra["redo_of"]["run"] == "run"
            assert row.extra["redo_of"]["id"] == row.id.removesuffix("-redo-2")
            assert row.extra["redo_of"]["reason"] == "hands"
        assert client.get("/api/runs/run/reviews").json()["children"] == [child["run"]]
        number = before["0"].row
        painted = ShardRun(
            bench.workspace.storage, bench.workspace.layout(child["run"]), "00000", rows, bench.job, bench.settings,
            worker_command=bench.command(),
        )  # fmt: skip
        painted.run()
        for _ in range(50):  # the records of a run that goes on are read as they are found
            seen = client.get(f"/api/runs/run/rows/{number}/redone").json()
            if [one["status"] for one in seen["rows"]] == ["done", "done"]:
                break
        seen = seen["rows"]
        assert [(one["run"], one["id"], one["status"]) for one in seen] == [
            (child["run"], "0", "done"), (child["run"], "0-redo-2", "done"),
        ]  # fmt: skip
        record = client.get(f"/api/runs/{child['run']}/rows/{seen[1]['row']}").json()["record"]
        assert record["extra"]["redo_of"]["id"] == "0"
        assert client.get("/runs/run/final.jsonl").text == ""
        picked = {"id": "0-redo-2", "attempt": record["attempt"], "mark": "accept"}
        assert client.post(f"/api/runs/{child['run']}/reviews", json={"marks": [picked]}).json()["refused"] == {}
        (final,) = map(json.loads, client.get("/runs/run/final.jsonl").text.splitlines())
        assert (final["id"], final["row"], final["run"], final["run_id"]) == ("0", number, child["run"], "0-redo-2")
        assert final["uri"] == record["output"]["uri"]
        own = {"id": "0", "attempt": before["0"].attempt, "mark": "accept"}  # in the run itself, and later
        client.post("/api/runs/run/reviews", json={"marks": [own]})
        (final,) = map(json.loads, client.get("/runs/run/final.jsonl").text.splitlines())
        assert (final["run"], final["uri"]) == ("run", before["0"].output.uri)

    def test_one_row_may_be_done_again_without_a_mark(self, client: TestClient, bench: Bench) -> None:
        child = client.post("/api/runs/run/redo", json={"ids": ["1"]}).json()
        plan = prepare(bench.workspace, child["conf"]["manifest"], child["run"], bench.job)
        assert [row.id for row in bench.workspace.shard_rows(plan, "00000")] == ["1"]

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({}, "no row of run 'run' is to be done again: mark rows as redo first"),
            ({"ids": ["nowhere"]}, "no row of run 'run' is to be done again"),
            ({"variants": 9}, "variants: Input should be less than or equal to 8"),
            ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
            ({"prompt": "a\x00"}, "prompt: holds line breaks or control characters"),
            ({"seed": 1}, "seed: Extra inputs are not permitted"),
        ],
    )
    def test_what_cannot_be_done_again_is_one_line(
        self, client: TestClient, bench: Bench, body: dict[str, Any], words: str
    ) -> None:
        reply = client.post("/api/runs/run/redo", json=body)
        assert reply.status_code == 422
        assert reply.json()["detail"].startswith(words)
        assert list(bench.workspace.storage.list(bench.layout.redos)) == []

    def test_a_viewer_and_another_site_may_not(self, app: FastAPI, bench: Bench) -> None:
        with signed_in(app, "vic", "viewer") as viewer:
            assert viewer.post("/api/runs/run/redo", json={"ids": ["1"]}).status_code == 403
        with signed_in(app) as client:
            body = json.dumps({"ids": ["1"]})
            assert (
                client.post("/api/runs/run/redo", content=body, headers={"Content-Type": "text/plain"}).status_code
                == 415
            )
        assert list(bench.workspace.storage.list(bench.layout.redos)) == []


def test_records_with_marks_stay_records(workspace: Workspace) -> None:
    """Nothing of a review is written into what the run itself wrote."""
    before = workspace.storage.get(workspace.layout("night").results)
    Reviews(workspace.storage, workspace.layout("night")).append("ann", [Mark(id="row-00001", mark="accept")])
    assert workspace.storage.get(workspace.layout("night").results) == before
    assert all(isinstance(Record.model_validate_json(line), Record) for line in before.splitlines())
