"""The pages in Airflow: nobody sees them whom Airflow would not let, and nothing that is shown is read as HTML."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.common.db.common import _get_session
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from PIL import Image

from inpaint_ops.config import Settings
from inpaint_ops.errors import ManifestError
from inpaint_ops.records import ErrorInfo
from inpaint_ops.report import results_jsonl, timings_parquet
from inpaint_ops.runs import Workspace, keep_refusal, refusal
from inpaint_ops_airflow.ui.app import POLICY
from tests.support.pages import app, sign_in
from tests.support.synthetic_run import (
    EVIL,
    START,
    make_plan,
    put_finished_run,
    put_plan,
    put_progress,
    put_record,
    record,
)

__all__ = ["app"]

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMETERS = {
    "run": "night", "row": "1", "kind": "result", "name": "failed.jsonl",
    "dag_id": "inpaint_manifest", "level": "0", "column": "0", "line": "0",
    "shard": "00000", "run_id": "manual__1", "run_id:path": "manual__1", "task_id": "inpaint", "map_index": "0",
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with sign_in(app, "viewer") as signed_in:
        yield signed_in


def paths(app: FastAPI) -> list[tuple[str, str]]:
    found = []
    for route in app.routes:
        assert isinstance(route, APIRoute), f"{route} is no route that Airflow's rights could guard"
        path = re.sub(r"\{(\w+)(:path)?\}", lambda match: PARAMETERS[match.group(1)], route.path)
        found += [(method, path) for method in route.methods]
    return found


class TestAccess:
    def test_every_route_refuses_the_anonymous(self, app: FastAPI) -> None:
        with TestClient(app) as anonymous:
            for method, path in paths(app):
                assert anonymous.request(method, path).status_code == 401, f"{method} {path}"
        assert len(paths(app)) >= 17

    def test_every_route_refuses_those_who_may_not_read_the_runs(self, app: FastAPI) -> None:
        with sign_in(app, None) as stranger:
            for method, path in paths(app):
                assert stranger.request(method, path).status_code == 403, f"{method} {path}"

    def test_a_route_without_a_guard_would_be_found(self, app: FastAPI) -> None:
        app.router.routes.append(APIRoute("/open", lambda: "hello", methods=["GET"]))
        with TestClient(app) as anonymous:
            open_ones = [path for method, path in paths(app) if anonymous.request(method, path).status_code != 401]
        assert open_ones == ["/open"]

    def test_another_dag_needs_its_own_right(self, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
        allowed = SimpleAuthManager.is_authorized_dag

        def not_the_other(self: Any, *, details: Any = None, **rest: Any) -> bool:
            return details.id != "other" and allowed(self, details=details, **rest)

        monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", not_the_other)
        with sign_in(app, "viewer") as signed_in:
            assert signed_in.get("/dag-runs/other/manual__1").status_code == 403
            assert signed_in.get("/tasks/other/manual__1/inpaint/0").status_code == 403

    def test_the_routes_that_write_need_the_right_to_trigger(self, app: FastAPI, client: TestClient) -> None:
        writing = [(method, path) for method, path in paths(app) if method != "GET"]
        assert sorted(path for _, path in writing) == [
            "/api/presets/failed.jsonl", "/api/runs/night/deliveries", "/api/runs/night/redo",
            "/api/runs/night/reviews", "/api/submit/check", "/api/submit/prepare", "/api/views",
        ]  # fmt: skip
        for _, path in writing:
            reply = client.post(path, json={})  # a viewer, who may read
            assert (reply.status_code, reply.json()) == (403, {"detail": "Forbidden"})


class TestErrors:
    """A person who follows a link is answered by a page, a program by JSON."""

    PERSON: ClassVar[dict[str, str]] = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

    def test_the_anonymous_are_asked_to_sign_in(self, app: FastAPI) -> None:
        with TestClient(app, root_path="/airflow/inpaint") as anonymous:
            for method, path in paths(app):
                reply = anonymous.request(method, path, headers=self.PERSON)
                assert (reply.status_code, reply.headers["content-type"]) == (401, "text/html; charset=utf-8"), path
                assert '<a href="/airflow/" target="_top">Sign in to Airflow</a>' in reply.text
                assert reply.headers["content-security-policy"] == POLICY
                assert "night" not in reply.text
            assert anonymous.get("/").json() == {"detail": "Not authenticated"}

    def test_a_user_without_the_right_reads_which_right_it_is(self, app: FastAPI) -> None:
        with sign_in(app, None) as stranger:
            page = stranger.get("/", headers=self.PERSON)
            assert page.status_code == 403
            assert "You may not read the runs of the DAG inpaint_manifest" in page.text

    @pytest.mark.parametrize("query", ["order=nope", "page=0", "page=x", f"state={quote(EVIL)}", "text=" + "x" * 201])
    def test_an_address_that_is_not_valid_names_the_field(self, client: TestClient, query: str) -> None:
        page = client.get(f"/?{query}", headers=self.PERSON)
        assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")
        assert f"This address is not valid: {query.partition('=')[0]}: " in page.text
        assert "alert(1)" not in page.text
        assert '<a href="/airflow/inpaint/">All runs</a>' in page.text
        assert client.get(f"/?{query}").json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]

    def test_what_is_not_there_is_a_page_too(self, client: TestClient, night: str) -> None:
        for path in ("/nowhere", "/runs/none/", "/runs/night/none.txt", "/static/none.js", "/api/runs/night/rows/999"):
            page = client.get(path, headers=self.PERSON)
            assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8"), path
            assert "Nothing to show here" in page.text


class Scan(HTMLParser):
    """What a page would load or run, and the tags that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.inline: list[str] = []
        self._script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._script = tag in ("script", "style")
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.inline.append(f"{name}={value}")
            if name in ("src", "href", "action") and value:
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)
        self._script = False


@pytest.fixture
def night(workspace: Workspace) -> str:
    put_finished_run(workspace, "night", 60, failed={7, 8}, rejected=1, prompts={1: EVIL, 7: EVIL})
    return "night"


PAGES = ["/", "/fragments/runs", "/runs/night/", "/runs/night/fragments/progress", "/runs/night/fragments/failures",
         "/runs/night/fragments/time", "/runs/night/?shard=00000"]  # fmt: skip


class TestPages:
    @pytest.mark.parametrize("path", PAGES)
    def test_a_page_runs_nothing_of_its_own_and_stays_on_its_host(
        self, client: TestClient, night: str, path: str
    ) -> None:
        reply = client.get(path)
        assert reply.status_code == 200, reply.text[:2000]
        assert reply.headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        found = Scan(reply.text)
        assert not found.inline
        for link in found.links:
            assert link.startswith(("/airflow/inpaint/", "#", "data:,", "failed.jsonl")), link

    def test_what_users_wrote_stays_text(self, client: TestClient, workspace: Workspace, night: str) -> None:
        put_plan(workspace, make_plan("live", 5, shard_rows=5))
        put_progress(workspace, "live", 0, rows=5, done=1, phase=EVIL)
        for path in [*PAGES, "/runs/live/"]:
            reply = client.get(path, params={} if "?" in path else {"text": EVIL})
            found = Scan(reply.text)
            assert "alert(1)" not in "".join(found.inline)
            assert not {"script"} & set(found.tags[found.tags.index("body") :] if "body" in found.tags else found.tags)
            assert not any("onerror" in text for text in found.inline)
        assert "&lt;script&gt;" in client.get("/runs/night/").text, "the ledger's reason is shown, as text"
        shown = client.get("/api/runs/night/rows/1")
        assert shown.headers["content-type"] == "application/json"
        assert shown.json()["record"]["prompt"] == EVIL

    def test_the_list_shows_each_run_in_one_line(self, client: TestClient, night: str) -> None:
        page = client.get("/").text
        for words in ("night", "VALID", "60", "NVIDIA H200", "10 GiB", "7.1% of its memory"):
            assert words in page, words
        assert "No run matches" in client.get("/?text=nothing").text
        assert client.get("/?order=nonsense").status_code == 422

    def test_a_run_shows_verdict_counts_ledger_memory_and_percentiles(self, client: TestClient, night: str) -> None:
        page = client.get("/runs/night/").text
        for words in ("VALID", "RANDOM WEIGHTS", "attention", "sdpa", "≠ no", "Cold start", "140 GiB", "Peak of it"):
            assert words in page, words
        time = client.get("/runs/night/fragments/time").text
        for words in ("Load the model", "Import libraries", "Denoise", "p99"):
            assert words in time, words

    def test_failures_are_grouped_with_row_and_cure(self, client: TestClient, night: str) -> None:
        page = client.get("/runs/night/fragments/failures").text
        for words in ("ImageError", "2 rows", "row 7 cannot be read", "replace or re-export it", "RowError"):
            assert words in page, words

    def test_the_link_to_run_again_is_there_once_its_file_is(
        self, client: TestClient, workspace: Workspace, night: str
    ) -> None:
        put_plan(workspace, make_plan("live", 5, shard_rows=5))
        put_record(workspace, "live", record(1, status="failed"))
        put_progress(workspace, "live", 0, rows=5, done=0, failed=1)
        going = client.get("/runs/live/fragments/failures").text
        assert "row 1 cannot be read" in going
        assert 'href="failed.jsonl"' not in going
        finished = client.get("/runs/night/fragments/failures").text
        assert '<a href="failed.jsonl">failed.jsonl</a> is a manifest of the 2 failed rows' in finished

    def test_the_links_of_the_report_are_good_where_the_pages_serve_it(
        self, client: TestClient, workspace: Workspace, night: str
    ) -> None:
        layout = workspace.layout(night)
        workspace.storage.put(layout.image("row 00001+a", ".png"), b"the image")
        workspace.storage.put(layout.root.join("plan.json.secret"), b"no image")
        reply = client.get("/runs/night/images/row%2000001%2Ba.png")
        assert (reply.status_code, reply.content) == (200, b"the image")
        assert reply.headers["content-disposition"].startswith("attachment")
        workspace.storage.put(layout.image("a b/one", ".png"), b"in a folder")
        assert client.get("/runs/night/images/a%20b/one.png").content == b"in a folder"
        assert client.get("/runs/night/images/none.png").status_code == 404
        for climbing in (
            "..%2Fplan.json.secret",
            "%2e%2e%2Fplan.json.secret",
            "..%5Cplan.json.secret",
            "a%20b/%2e%2e/%2e%2e/plan.json.secret",
        ):
            found = client.get(f"/runs/night/images/{climbing}")
            assert found.status_code in (403, 404)
            assert found.content != b"no image"

    def test_a_run_that_goes_on_shows_a_stalled_shard(self, client: TestClient, workspace: Workspace) -> None:
        put_plan(workspace, make_plan("live", 20, shard_rows=10))
        put_progress(workspace, "live", 0, rows=10, done=4)
        put_progress(workspace, "live", 1, rows=10, done=2, worker_silent=300.0)
        put_record(workspace, "live", record(1))
        page = client.get("/runs/live/").text
        assert "Running" in page
        assert "its worker sent nothing for" in page
        body = client.get("/api/runs/live").json()
        assert (body["state"]["done"], body["state"]["stalled"]) == (6, ["00001"])
        assert client.get("/api/runs/live/rows").json()["total"] == 1

    def test_a_refused_job_has_a_page_with_its_cure(self, client: TestClient, workspace: Workspace) -> None:
        error = ManifestError(f"line 1 of {EVIL} is no JSON")
        assert keep_refusal(workspace, refusal(error, run="refused", manifest=EVIL, request="manual__1"))
        page = client.get("/runs/refused/")
        assert (page.status_code, page.headers["content-security-policy"]) == (200, POLICY)
        for words in ("This job was refused, and nothing was painted", "ManifestError", "Correct the manifest"):
            assert words in page.text, words
        assert 'href="/airflow/dags/inpaint_manifest/runs/manual__1"' in page.text
        assert not Scan(page.text).inline and "<script>alert" not in page.text
        listed = client.get("/?state=refused").text
        assert "Correct the manifest" in listed and "<script>alert" not in listed
        assert client.get("/runs/never-asked-for/").status_code == 404

    def test_a_tab_leads_to_the_run_or_says_why_there_is_none(self, app: FastAPI, workspace: Workspace) -> None:
        class Session:
            """Airflow's database: one DAG run, its task `plan`, and what that left."""

            state, task, left = "running", "running", None

            def execute(self, _: Any) -> list[Any]:
                return [("manual__2026-11-23T02:46:29+00:00", self.state, {"manifest": "s3://b/night.jsonl"}, START)]

            def scalar(self, query: Any) -> Any:
                return self.left if "xcom" in str(query) else self.task

        session = Session()
        app.dependency_overrides[_get_session] = lambda: session
        name = "night-manual__2026-11-23T02_46_29+00_00"
        dag_run, here = "/dag-runs/inpaint_manifest/manual__2026-11-23T02:46:29+00:00", "/airflow/inpaint/runs"
        with sign_in(app, "viewer") as signed_in:
            going = signed_in.get(dag_run).text
            assert "This job is not planned yet" in going and 'task <span class="code">plan</span> is running' in going
            session.state = session.task = "failed"
            assert "It left no reason here: its log has it." in signed_in.get(dag_run).text
            refused = refusal(ManifestError("no JSON"), run=name, manifest="s3://b/night.jsonl", request="x")
            session.left = refused.model_dump(mode="json")
            tab = signed_in.get(dag_run).text
            assert "This job was refused" in tab and "/tasks/plan" in tab and "Airflow tries it again" not in tab
            session.task = "up_for_retry"
            assert "Airflow tries it again by itself" in signed_in.get(dag_run).text
            session.left, session.task = None, "success"
            quoted = name.replace("+", "%2B")
            assert signed_in.get(dag_run).headers["location"] == f"{here}/{quoted}/?embedded=true"
            shard = signed_in.get("/tasks/inpaint_manifest/manual__1/inpaint/3").headers["location"]
            assert shard == f"{here}/{quoted}/?embedded=true&shard=00003"
            unmapped = signed_in.get("/tasks/inpaint_manifest/manual__1/plan/{MAP_INDEX}").headers["location"]
            assert unmapped == f"{here}/{quoted}/?embedded=true"
            assert signed_in.get(f"{dag_run}?to=report").headers["location"] == f"{here}/{quoted}/report.html"
            assert "paints no images" in signed_in.get("/dag-runs/inpaint_inbox/manual__1").text

    def test_rows_that_need_mending_first_are_not_offered_as_they_are(
        self, client: TestClient, workspace: Workspace, night: str
    ) -> None:
        page = client.get("/runs/night/fragments/failures").text
        assert "Every failed row needs mending first" in page
        assert page.index("The causes are mended") < page.index('id="rerun"')
        passing = [
            record(row).model_copy(update={"status": "failed", "output": None, "error": ErrorInfo(
                type="StorageUnavailableError", stage="download", message="no answer", permanent=False)})
            for row in (7, 8)
        ]  # fmt: skip
        rows = [*(record(row) for row in range(1, 7)), *passing]
        put_finished_run(workspace, "flaky", 8, failed={7, 8})
        layout = workspace.layout("flaky")
        workspace.storage.put(layout.results, results_jsonl(rows))
        workspace.storage.put(layout.timings, timings_parquet(rows))
        page = client.get("/runs/flaky/fragments/failures").text
        assert "have Airflow run it unchanged" in page
        assert "needs mending first" not in page


class TestData:
    def test_rows_are_filtered(self, client: TestClient, night: str) -> None:
        def found(**query: Any) -> list[int]:
            return [item["row"] for item in client.get("/api/runs/night/rows", params=query).json()["items"]]

        assert found(status="failed") == [7, 8]
        assert found(text="number 12") == [12]
        assert found(order="slowest")[0] == 1
        assert found(page=2) == list(range(49, 61))
        assert client.get("/api/runs/night/rows", params={"shard": "9"}).status_code == 404

    def test_throughput_adds_up_to_the_images(self, client: TestClient, night: str) -> None:
        points = client.get("/api/runs/night/throughput").json()["points"]
        assert sum(point["images_per_second"] * point["width"] for point in points) == pytest.approx(57)

    def test_files_are_saved_and_never_shown(self, client: TestClient, night: str) -> None:
        for path in ("/runs/night/failed.jsonl", "/api/runs/night/files/failed.jsonl"):
            reply = client.get(path)
            assert reply.headers["content-disposition"] == 'attachment; filename="failed.jsonl"'
            assert [json.loads(line)["prompt"] for line in reply.text.splitlines()] == ["again", "again"]
        assert client.get("/runs/night/plan.json").status_code == 404
        report = client.get("/runs/night/report.html")
        assert "sandbox" in report.headers["content-security-policy"]

    def test_pictures_come_through_the_guard(self, client: TestClient, workspace: Workspace) -> None:
        sink = io.BytesIO()
        Image.new("RGB", (900, 600), (10, 200, 30)).save(sink, "PNG")
        inside = workspace.storage.put(workspace.store.join("in.png"), sink.getvalue()).location.uri
        put_plan(workspace, make_plan("live", 5, shard_rows=5))
        put_record(workspace, "live", record(1).model_copy(update={"source": inside, "mask": "/etc/hostname"}))
        put_progress(workspace, "live", 0, rows=5, done=1)
        reply = client.get("/api/runs/live/rows/1/pictures/source?size=256")
        assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
        with Image.open(io.BytesIO(reply.content)) as small:
            assert small.size == (256, 171)
        assert client.get("/api/runs/live/rows/1/pictures/mask").status_code == 403
        assert client.get("/api/runs/live/rows/1/files/mask").status_code == 403
        assert client.get("/api/runs/live/rows/1/pictures/source?size=9999").status_code == 422
        assert client.get("/api/runs/live/rows/1/files/source").content == sink.getvalue()
        assert client.get("/api/runs/live/rows/2/pictures/source").status_code == 404

    def test_a_missing_picture_is_replaced_by_one_that_gives_the_reason(
        self, client: TestClient, workspace: Workspace
    ) -> None:
        put_plan(workspace, make_plan("live", 5, shard_rows=5))
        gone = workspace.store.join("gone.png").uri
        put_record(workspace, "live", record(1).model_copy(update={"source": gone, "mask": "/etc/hostname"}))
        put_progress(workspace, "live", 0, rows=5, done=1)
        for kind, status, title in (("source", 404, "not in the store"), ("mask", 403, "no preview")):
            reply = client.get(f"/api/runs/live/rows/1/pictures/{kind}")
            assert (reply.status_code, reply.headers["content-type"]) == (status, "image/svg+xml"), kind
            assert f"<title>{title}</title>" in reply.text
            assert reply.headers["content-security-policy"] == POLICY

    @pytest.mark.parametrize("path", ["/runs/none/", "/runs/..%2F..%2Fetc/", "/runs/%2e%2e/", "/api/runs/none"])
    def test_a_run_that_is_not_there_is_a_plain_404(self, client: TestClient, path: str) -> None:
        assert client.get(path).status_code == 404

    @pytest.mark.parametrize("name", ["../app.py", "..%2Fapp.py", "%2e%2e/app.py", "none.js", "base.html.j2"])
    def test_only_style_sheets_and_scripts_are_static(self, client: TestClient, name: str) -> None:
        assert client.get(f"/static/{name}").status_code == 404

    @pytest.mark.parametrize("name", ["ui.css", "report.css", "main.js", "gallery.js", "chart.js"])
    def test_the_page_has_its_own_files(self, client: TestClient, name: str) -> None:
        reply = client.get(f"/static/{name}")
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/")
        outside = re.findall(r"""(?:import|url\(|fetch\() ?["']?https?://""", reply.text)
        assert not outside
        etag = {"If-None-Match": reply.headers["etag"]}
        assert client.get(f"/static/{name}", headers=etag).status_code == 304
