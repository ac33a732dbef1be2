"""The routes to submit a job: who may, what is looked at and how far, what is written, and presets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from fastapi.testclient import TestClient

from inpaint_ops.config import Settings
from inpaint_ops.images import encode
from inpaint_ops.runs import Workspace
from inpaint_ops_airflow import preflight
from inpaint_ops_airflow.form import PARAMS
from inpaint_ops_airflow.ui.submitting import fields
from tests.support.pages import app
from tests.support.pictures import noise

__all__ = ["app"]

PHOTO = encode(noise(24, 32, 3), format="png", icc=None)
MASK = encode(np.pad(np.full((8, 8), 255, np.uint8), ((4, 12), (4, 20))), format="png", icc=None)
ROW = {"image": "a.png", "mask": "b.png", "prompt": "a linen sofa"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A store that the pages, and the process that looks at jobs, find by the same settings."""
    monkeypatch.setenv("INPAINT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INPAINT_MODEL", "tiny-random")
    found = Workspace.open(Settings(scratch=tmp_path / "scratch", preflight_seconds=600))
    for name in ("a.png", "b.png", "photos/x.png", "photos/sub/y.png", "masks/x_mask.png", "photos/alone.png"):
        found.storage.put(found.inbox.join(name), MASK if "mask" in name or name == "b.png" else PHOTO)
    return found


def signed_in(app: FastAPI, name: str = "ann", role: str = "user") -> TestClient:
    app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username=name, role=role)
    return TestClient(app, root_path="/airflow/inpaint", follow_redirects=False)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with signed_in(app) as found:
        yield found


def put_rows(workspace: Workspace, *rows: dict[str, Any], name: str = "night.jsonl") -> str:
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return workspace.storage.put(workspace.inbox.join(name), body).location.uri


def check(client: TestClient, **job: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    reply = client.post("/api/submit/check", json=job)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return body, {one["part"]: one for one in body["findings"]}


class TestCheck:
    def test_a_good_job_is_looked_at_from_end_to_end(self, client: TestClient, workspace: Workspace) -> None:
        body, parts = check(client, manifest=put_rows(workspace, *[ROW | {"id": f"r{n}"} for n in range(9)]))
        assert list(parts) == ["options", "run", "rows", "forecast", "sample", "model", "files", "pictures"]
        assert body["left_out"] == ""
        assert body["may_run"] is True
        assert body["run"].startswith("night-20")
        assert body["sample_run"] == body["run"] + "-sample"
        assert parts["rows"]["text"] == "9 rows: 9 can be painted, 0 rejected"
        assert parts["forecast"]["text"].startswith("9 rows in ")
        assert parts["sample"]["text"].startswith("5 rows in 1 task")
        assert "tiny-random" in parts["model"]["text"]
        assert parts["pictures"]["state"] == "good"
        assert parts["pictures"]["text"] == ("5 of 9 rows read: 5 can be painted, 0 of them converted; 0 would fail.")
        assert not list(workspace.storage.list(workspace.places.runs)), "looking writes nothing"

    def test_what_the_pictures_of_the_samples_rows_hold_is_said(self, client: TestClient, workspace: Workspace) -> None:
        workspace.storage.put(workspace.inbox.join("small.png"), encode(noise(8, 8, 3), format="png", icc=None))
        rows = [ROW | {"id": f"r{n}"} | ({"image": "small.png"} if n == 2 else {}) for n in range(3)]
        body, parts = check(client, manifest=put_rows(workspace, *rows), sample=3)
        assert parts["pictures"]["state"] == "odd"
        assert parts["pictures"]["lines"] == [
            "row 3: the mask is 32x24 and the image is 8x8: make the mask the size of the image"
        ]
        assert body["may_run"] is True, "a row that would fail keeps no other from being painted"
        inverted = [ROW | {"id": f"r{n}", "mask_invert": True} for n in range(9)]
        _, parts = check(client, manifest=put_rows(workspace, *inverted))
        assert parts["pictures"]["state"] == "odd"
        assert "If black and white are the wrong way round" in parts["pictures"]["lines"][-1]

    def test_files_that_the_machines_that_paint_may_have_are_named(
        self, client: TestClient, workspace: Workspace
    ) -> None:
        options = {"fill": "lama", "fill_model": "/nowhere/lama.onnx"}
        body, parts = check(client, manifest=put_rows(workspace, ROW), options=options)
        assert parts["model"]["state"] == "unknown"
        assert "/nowhere/lama.onnx: there is no such file" in "".join(parts["model"]["lines"])
        assert body["may_run"] is True

    def test_rejected_rows_and_missing_files_are_named(self, client: TestClient, workspace: Workspace) -> None:
        rows = [ROW, *(ROW | odd for odd in ({"image": "nowhere.png"}, {"promt": "x"}, {"image": "s3://other/a.png"}))]
        body, parts = check(client, manifest=put_rows(workspace, *rows))
        assert parts["rows"]["text"] == "4 rows: 2 can be painted, 2 rejected"
        assert "row 3: unknown field 'promt', did you mean 'prompt'?" in parts["rows"]["lines"][0]
        assert "outside the prefixes that may be read" in parts["rows"]["lines"][1]
        assert parts["files"]["state"] == "odd"
        assert "nowhere.png" in parts["files"]["lines"][0]
        assert body["may_run"] is True

    @pytest.mark.parametrize(
        ("manifest", "words"),
        [
            ("s3://elsewhere/night.jsonl", "outside what may be read"),
            ("/etc/passwd", "outside what may be read"),
            ("{inbox}nowhere.jsonl", "there is no object"),
            ("{inbox}a.png", "is not a manifest format"),
            ("{inbox}../../etc/passwd", "outside what may be read"),
        ],
    )
    def test_a_manifest_that_no_run_could_take_is_in_the_way(
        self, client: TestClient, workspace: Workspace, manifest: str, words: str
    ) -> None:
        body, parts = check(client, manifest=manifest.format(inbox=workspace.inbox.uri))
        assert parts["rows"]["state"] == "wrong"
        assert words in parts["rows"]["text"]
        assert parts["rows"]["lines"], "the cure"
        assert body["may_run"] is False

    def test_a_job_that_is_none_is_answered_in_words(self, client: TestClient, workspace: Workspace) -> None:
        manifest = put_rows(workspace, ROW)
        for job, words in (
            ({}, "give `manifest`, or `images`"),
            ({"manifest": "night.jsonl"}, "is not a whole location"),
            ({"manifest": manifest, "run": "../x"}, "run name '../x'"),
            ({"manifest": manifest, "images": manifest}, "and not both"),
            ({"images": workspace.inbox.uri}, "rows would have no prompt"),
            ({"manifest": manifest, "options": {"steps": 9000}}, "steps: 9000 is greater than the maximum"),
            ({"manifest": manifest, "options": {"quality": "superb"}}, "quality: 'superb' is not one of"),
            ({"manifest": manifest, "options": {"retry": "failed"}}, "options: unknown retry"),
            ({"manifest": manifest, "nonsense": 1}, "nonsense"),
            ([], "send an object"),
        ):
            reply = client.post("/api/submit/check", json=job)
            assert (reply.status_code, words in reply.json()["detail"]) == (422, True), (job, reply.text)

    def test_an_image_and_its_mask_come_from_prefixes(self, client: TestClient, workspace: Workspace) -> None:
        job = {"images": workspace.inbox.uri + "photos/", "masks": workspace.inbox.uri + "masks/"}
        body, parts = check(client, **job, options={"prompt": "a sofa"})
        assert parts["rows"]["text"] == "1 row: 1 can be painted, 0 rejected"
        assert any("image without a mask" in line and "alone.png" in line for line in parts["rows"]["lines"])
        assert body["run"].startswith("photos-20")

    def test_a_name_that_is_taken_is_in_the_way(self, client: TestClient, workspace: Workspace) -> None:
        from tests.support.synthetic_run import put_finished_run

        put_finished_run(workspace, "night", 3)
        body, parts = check(client, manifest=put_rows(workspace, ROW), run="night")
        assert parts["run"]["state"] == "wrong"
        assert body["may_run"] is False

    def test_what_is_not_looked_at_in_time_is_named(
        self, client: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = {"part": "options", "state": "good", "text": "tiny-random"}
        slow = f"import time; print({json.dumps(first)!r}, flush=True); time.sleep(3600)"
        monkeypatch.setattr(preflight, "_COMMAND", [sys.executable, "-c", slow])
        monkeypatch.setitem(workspace.settings.__dict__, "preflight_seconds", 1.0)
        body, parts = check(client, manifest=put_rows(workspace, ROW))
        assert set(parts) <= {"options"}
        assert "since the 1 seconds for it were over (INPAINT_PREFLIGHT_SECONDS): " in body["left_out"]
        assert "the rows, the time, the sample, the model, images and masks" in body["left_out"]

    def test_a_look_that_dies_is_no_good_job(
        self, client: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preflight, "_COMMAND", [sys.executable, "-c", "raise SystemExit(7)"])
        body, _ = check(client, manifest=put_rows(workspace, ROW))
        assert "its process ended with exit code 7" in body["left_out"]

    def test_no_more_looks_than_allowed_are_under_way(
        self, client: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = put_rows(workspace, ROW)
        for _ in range(preflight.AT_ONCE):
            assert preflight._places.acquire(blocking=False)
        try:
            reply = client.post("/api/submit/check", json={"manifest": manifest})
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        finally:
            for _ in range(preflight.AT_ONCE):
                preflight._places.release()
        assert client.post("/api/submit/check", json={"manifest": manifest}).status_code == 200

    def test_the_first_rows_of_a_large_manifest_are_said_before_the_whole(self, workspace: Workspace) -> None:
        from inpaint_ops.submitting import Finding, look_at, parse_request
        from inpaint_ops.submitting.preflight import FIRST_ROWS, LARGE_BYTES

        rows = LARGE_BYTES // 2000
        manifest = put_rows(workspace, *[ROW | {"id": f"r{n}", "prompt": "x" * 2000} for n in range(rows)])
        said: list[Finding] = []
        look_at(workspace, parse_request({"manifest": manifest}), "night", said.append)
        first, whole = [one for one in said if one.part == "rows"]
        assert (first.whole, whole.whole) == (False, True)
        assert first.text.startswith(f"Of the first {FIRST_ROWS:,} rows {FIRST_ROWS:,} can")
        assert whole.text.startswith(f"{rows:,} rows: ")


class TestPrepare:
    def test_a_manifest_is_named_to_airflow_as_it_is(self, client: TestClient, workspace: Workspace) -> None:
        job = {"manifest": put_rows(workspace, ROW), "options": {"quality": "best", "steps": None}, "sample": 7}
        for sample, more in ((False, {}), (True, {"sample": 7})):
            sent = {"request": job, "run": "night-1", "sample": sample}
            reply = client.post("/api/submit/prepare", json=sent)
            assert reply.status_code == 200, reply.text
            assert reply.json() == {
                "run": "night-1", "dag_run_id": "page__night-1",
                "conf": {"quality": "best", "manifest": job["manifest"], "run": "night-1"} | more,
            }  # fmt: skip

    def test_two_prefixes_become_a_manifest_once(self, client: TestClient, workspace: Workspace) -> None:
        job = {
            "images": workspace.inbox.uri + "photos/", "masks": workspace.inbox.uri + "masks/",
            "options": {"prompt": "a sofa"},
        }  # fmt: skip
        sent = {"request": job, "run": "photos-1", "sample": False}
        first, again = (client.post("/api/submit/prepare", json=sent).json() for _ in range(2))
        assert first == again, "a double click asks for the same DAG run"
        rows = [json.loads(line) for line in workspace.storage.get(first["conf"]["manifest"]).splitlines()]
        assert [row["image"].rpartition("/")[2] for row in rows] == ["x.png"]
        more = workspace.inbox.join("masks/alone_mask.png")
        workspace.storage.put(more, b"new")
        longer = client.post("/api/submit/prepare", json=sent)
        assert client.post("/api/submit/prepare", json=sent | {"run": "photos-2"}).status_code == 200
        workspace.storage.delete(more)
        shorter = client.post("/api/submit/prepare", json=sent | {"run": "photos-2"})
        for reply in (longer, shorter):
            assert (reply.status_code, "has other rows" in reply.json()["detail"]) == (409, True)

    def test_nothing_is_written_beside_the_store(self, client: TestClient, workspace: Workspace) -> None:
        job = {"manifest": put_rows(workspace, ROW)}
        for run in ("../night", "a/b", "", "x" * 200):
            reply = client.post("/api/submit/prepare", json={"request": job, "run": run, "sample": False})
            assert reply.status_code == 422, run


class TestAccess:
    PATHS = ("/api/submit/check", "/api/submit/prepare", "/api/presets/soft")

    def test_another_site_cannot_have_a_job_sent(self, client: TestClient) -> None:
        for path in self.PATHS:
            forged = client.post(path, json={}, headers={"Sec-Fetch-Site": "cross-site"})
            assert forged.status_code == 403
            assert client.post(path, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415

    def test_who_may_not_trigger_sees_why_and_lists_nothing(self, app: FastAPI) -> None:
        with signed_in(app, role="viewer") as viewer:
            page = viewer.get("/submit", headers={"Accept": "text/html"})
            assert "You may look, and not trigger" in page.text
            assert viewer.get("/api/submit/places").status_code == 403
            for path in self.PATHS:
                assert viewer.post(path, json={}).status_code == 403

    def test_a_body_is_bounded(self, client: TestClient) -> None:
        reply = client.post("/api/submit/check", content=b" " * 300_000, headers={"Content-Type": "application/json"})
        assert reply.status_code == 413

    def test_what_lies_in_a_prefix_is_suggested(self, client: TestClient, workspace: Workspace) -> None:
        put_rows(workspace, ROW)
        found = client.get("/api/submit/places").json()
        assert found["manifests"] == [workspace.inbox.uri + "night.jsonl"]
        assert sorted(found["folders"]) == [workspace.inbox.uri + "masks/", workspace.inbox.uri + "photos/"]
        assert client.get("/api/submit/places", params={"under": "s3://elsewhere/"}).status_code == 403
        assert client.get("/api/submit/places", params={"under": "/etc/"}).status_code == 403


class TestForm:
    def test_every_option_of_the_dags_form_is_on_the_page(self, client: TestClient) -> None:
        page = client.get("/submit", headers={"Accept": "text/html"}).text
        names = [field.name for field in fields()]
        assert {*names} == {*PARAMS} - {"manifest", "run", "retry", "sample"}
        for name in names:
            assert f'data-option="{name}"' in page
            assert PARAMS[name].schema["title"] in page

    def test_a_hostile_name_in_the_store_is_text(self, client: TestClient, workspace: Workspace) -> None:
        workspace.storage.put(workspace.places.presets.join("<script>alert(1)<.json"), b"{}")
        assert "<script>alert" not in client.get("/submit", headers={"Accept": "text/html"}).text


class TestPresets:
    SOFT = {"blend": "poisson", "loras": ["a.safetensors:0.5"], "use_xformers": False}  # noqa: RUF012

    def test_a_preset_is_kept_and_read_back(self, client: TestClient) -> None:
        saved = client.post("/api/presets/soft", json={"options": self.SOFT | {"steps": None}, "etag": None})
        assert saved.status_code == 200, saved.text
        found = client.get("/api/presets/soft").json()
        assert (found["options"], found["saved_by"]) == (self.SOFT, "ann")
        assert found["etag"] == saved.json()["etag"]
        assert "<option>soft</option>" in client.get("/submit").text

    def test_two_people_at_once_lose_nothing(self, client: TestClient) -> None:
        first = client.post("/api/presets/soft", json={"options": {"steps": 10}, "etag": None}).json()["etag"]
        assert client.post("/api/presets/soft", json={"options": {"steps": 11}, "etag": None}).status_code == 409
        assert client.post("/api/presets/soft", json={"options": {"steps": 12}, "etag": first}).status_code == 200
        late = client.post("/api/presets/soft", json={"options": {"steps": 13}, "etag": first})
        assert late.status_code == 409
        assert "saved or removed by somebody else" in late.json()["detail"]
        assert client.get("/api/presets/soft").json()["options"] == {"steps": 12}

    @pytest.mark.parametrize(
        "value",
        ["https://me:secret@host/a.safetensors", "https://h/a?X-Amz-Signature=0ab1", "hf_" + "a" * 34,
         "AKIA" + "A" * 16, "x -----BEGIN PRIVATE KEY-----"],
    )  # fmt: skip
    def test_a_preset_holds_no_secret(self, client: TestClient, value: str) -> None:
        for options in ({"model": value}, {"prompt": value}, {"loras": [value]}):
            reply = client.post("/api/presets/soft", json={"options": options, "etag": None})
            assert reply.status_code == 422, options
            assert "leave it out" in reply.json()["detail"]
            assert value not in reply.text

    def test_what_no_preset_can_be_is_refused(self, client: TestClient, workspace: Workspace) -> None:
        wrong = ({"manifest": "x"}, {"sample": 5}, {"steps": "many"}, {"prompt": "x" * 99_000})
        nameless: tuple[tuple[str, dict[str, Any]], ...] = (("so ft", {}), ("..", {}), ("x" * 81, {}))
        for name, options in (*(("soft", one) for one in wrong), *nameless):
            reply = client.post(f"/api/presets/{name}", json={"options": options, "etag": None})
            assert reply.status_code in (404, 405, 422), (name, options, reply.status_code)
        assert not list(workspace.storage.list(workspace.places.presets))

    def test_a_damaged_preset_is_named_and_loads_nothing(self, client: TestClient, workspace: Workspace) -> None:
        good = b'{"schema_version":1,"name":"soft","options":{"steps":3},"saved_at":"2026-11-26T00:00:00Z"}'
        for body, words in (
            (b"{", "it is not JSON"),
            (good.replace(b'"soft"', b'"other"'), "says that it is the preset 'other'"),
            (good.replace(b"3}", b"-3}"), "steps"),
            (good.replace(b'"steps":3', b'"tunning":"fast"'), "tunning"),
        ):
            workspace.storage.put(workspace.places.preset("soft"), body)
            reply = client.get("/api/presets/soft")
            assert reply.status_code in (404, 502), reply.text
            assert words in reply.json()["detail"]
