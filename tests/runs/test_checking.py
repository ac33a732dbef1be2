"""What is refused or told before a device is asked for: models that nobody has, files that are not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from demo.ports import claim_port
from inpaint_ops.cli import main
from inpaint_ops.config import Settings
from inpaint_ops.errors import ModelError
from inpaint_ops.planning import JobOptions
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.runs.checking import check_model


class Hub(BaseHTTPRequestHandler):
    """A hub that has one model, `owner/known`, at one revision, `good`."""

    asked: list[str]

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            type(self).asked.append(self.path)
        code, error = 404, "RepoNotFound"
        if self.path.startswith("/api/models/owner/known"):
            revision = self.path.partition("/revision/")[2]
            code, error = (200, "") if revision in ("", "good") else (404, "RevisionNotFound")
        body = json.dumps({"id": "owner/known", "sha": "0" * 40, "siblings": []}).encode() if code == 200 else b"{}"
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    handler = type("Handler", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("here", [True, False])
def test_a_model_or_revision_that_the_hub_does_not_have_is_refused_everywhere(hub: type[Hub], here: bool) -> None:
    with pytest.raises(ModelError, match="the hub has no model owner/nothing"):
        check_model("owner/nothing", must_be_here=here)
    with pytest.raises(ModelError, match="the hub has no revision bad of owner/known"):
        check_model("owner/known", "bad", must_be_here=here)
    assert len(hub.asked) == 2


def test_a_model_that_is_not_fetched_yet_is_refused_only_where_it_would_paint(hub: type[Hub]) -> None:
    note = check_model("owner/known", "good", must_be_here=False)
    assert note is not None and "not in this machine's cache" in note
    with pytest.raises(ModelError, match="inpaint-ops models pull owner/known"):
        check_model("owner/known", "good", must_be_here=True)


def test_without_the_hub_only_what_is_known_is_refused(monkeypatch: pytest.MonkeyPatch, hub: type[Hub]) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    note = check_model("owner/nothing", must_be_here=False)
    assert note is not None and "HF_HUB_OFFLINE is set" in note and "not known whether" in note
    with pytest.raises(ModelError, match=r"models pull.*HF_HUB_OFFLINE is set"):
        check_model("owner/nothing", must_be_here=True)
    assert not hub.asked


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with closing(claim_port()) as nobodys:
        endpoint = f"http://127.0.0.1:{nobodys.port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        note = check_model("owner/known", must_be_here=False)
    assert note is not None and f"the hub {endpoint} cannot be asked" in note


def test_a_cached_model_and_a_random_one_need_no_hub(
    monkeypatch: pytest.MonkeyPatch, hub: type[Hub], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    folder = tmp_path / "models--owner--mine"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "model_index.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    for model, revision in (("owner/mine", None), ("owner/mine", commit), ("tiny-random", None), ("sdxl-random", None)):
        assert check_model(model, revision, must_be_here=True) is None
    assert not hub.asked
    with pytest.raises(ModelError, match="the hub has no model owner/mine"):
        check_model("owner/mine", "v9", must_be_here=True)


@pytest.mark.parametrize(
    ("model", "says"), [("tiny-randm", "neither a folder here, nor a hub id"), ("a/b/c", "neither a folder here")]
)
def test_what_is_no_model_name_is_refused_everywhere(model: str, says: str) -> None:
    for here in (True, False):
        with pytest.raises(ModelError, match=says):
            check_model(model, must_be_here=here)


def test_a_model_folder_is_looked_for_where_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        check_model(str(tmp_path / "none"), must_be_here=True)
    note = check_model(str(tmp_path / "none"), must_be_here=False)
    assert note is not None and "machines that paint may have it" in note
    assert check_model(str(tmp_path), must_be_here=True) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "mask": name, "prompt": "x", "id": name[0]} for name in ("a.png", "none.png")]
    (tmp_path / "job.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("of", ["model", "revision"])
def test_validate_plan_and_run_refuse_the_same_model(folder: Path, hub: type[Hub], of: str) -> None:
    wrong = ["--model", "owner/nothing"] if of == "model" else ["--model", "owner/known", "--revision", "bad"]
    for name in ("validate", "plan", "run"):
        code, text = command(name, folder / "job.jsonl", "--out", folder / "out", *wrong)
        assert code == 2 and f"the hub has no {of}" in text, (name, text)
    assert not (folder / "out").exists(), "nothing is planned for a model that nobody has"


def test_validate_plan_and_run_name_the_same_missing_files(folder: Path) -> None:
    options = ("--out", folder / "out", "--model", "tiny-random")
    for name in ("validate", "plan"):
        code, text = command(name, folder / "job.jsonl", *options)
        assert code == 3 and "row 2: mask: there is no object" in text, (name, text)
    workspace = Workspace.open(
        Settings(scratch=folder / "scratch"), store=str(folder / "out"), also_readable=[str(folder)]
    )
    plan = prepare(workspace, str(folder / "job.jsonl"), "job", JobOptions(model="tiny-random"))
    assert [note for note in plan.warnings if "row 2: mask: there is no object" in note] == list(plan.warnings) != []


def test_validate_plan_and_run_reject_the_same_rows(folder: Path) -> None:
    (folder / "job.jsonl").write_text(json.dumps({"image": "a.png", "mask": "a.png", "prompt": "x", "steps": 1}) + "\n")
    options = ("--out", folder / "out", "--model", "tiny-random")
    for name in ("validate", "plan", "run"):
        code, text = command(name, folder / "job.jsonl", *options)
        assert code == 3, (name, text)
        if name != "run":
            assert "row 1: steps: 1 at a strength of" in text, (name, text)
    record = json.loads((folder / "out/runs/job/results.jsonl").read_text())
    assert record["status"] == "rejected" and record["error"]["field"] == "steps"


@pytest.mark.parametrize("name", ["failed.jsonl", "rejected.jsonl"])
@pytest.mark.parametrize(
    "others", ["may only read", "may change the plan", "may change the file", "may change the folder"]
)
def test_a_file_of_ones_own_run_may_read_what_the_run_read(folder: Path, name: str, others: str) -> None:
    """The folder of the run is as good as the command that made it only while nobody else can write to it."""
    workspace = Workspace.open(
        Settings(scratch=folder / "scratch"), store=str(folder / "out"), also_readable=[str(folder)]
    )
    prepare(workspace, str(folder / "job.jsonl"), "job", JobOptions(model="tiny-random"))
    run = folder / "out" / "runs" / "job"
    uri = f"file://{folder}/a.png"
    (run / name).write_text(json.dumps({"image": uri, "mask": uri, "prompt": "x"}) + "\n")
    assert str(folder).startswith("/")
    if others == "may change the plan":
        (run / "plan.json").chmod(0o666)
    if others == "may change the file":
        (run / name).chmod(0o666)
    if others == "may change the folder":
        run.chmod(0o777)
    (folder / "elsewhere").mkdir()
    code, text = command("validate", run / name, "--out", folder / "elsewhere", "--model", "tiny-random")
    if others == "may only read":
        assert code == 0 and f"rows may be read from {folder}/ too" in text, text
    else:
        assert code == 3 and "or, in a shell, with --allow" in text, text
    code, text = command(
        "validate", run / name, "--out", folder / "elsewhere", "--model", "tiny-random", "--allow", folder
    )
    assert code == 0, text
