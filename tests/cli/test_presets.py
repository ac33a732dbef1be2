"""`--preset NAME`: what the page saved is what the command paints with; what it says itself counts more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from inpaint_ops.cli import main
from inpaint_ops.config import Settings
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.submitting import read_preset, save_preset


@pytest.fixture
def store(tmp_path: Path) -> Path:
    workspace = Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))
    options = {
        "model": "tiny-random", "steps": 7, "blend": "poisson", "batch_size": 3, "use_xformers": False,
        "tuning_overrides": {"vae_tiling": True, "compile": "off"}, "prompt": "a sofa = one",
    }  # fmt: skip
    save_preset(workspace, "soft", options, by="ann", etag=None)
    (tmp_path / "job.jsonl").write_text('{"image": "a.png", "mask": "b.png"}\n')
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "store"


def planned(store: Path, *arguments: str) -> dict[str, Any]:
    asked = ["plan", str(store.parent / "job.jsonl"), "--out", str(store), "--json", *arguments]
    found = CliRunner().invoke(main, asked)
    assert found.exit_code == 0, found.output
    job: dict[str, Any] = json.loads(found.stdout)["job"]
    return job


def test_the_presets_options_are_the_jobs(store: Path) -> None:
    job = planned(store, "--preset", "soft")
    assert (job["model"], job["steps"], job["blend"], job["prompt"]) == ("tiny-random", 7, "poisson", "a sofa = one")
    assert job["use_xformers"] is False
    assert job["tuning_overrides"] == {"batch_size": 3, "vae_tiling": True, "compile": "off"}


def test_what_the_command_says_beats_the_preset(store: Path) -> None:
    more = ("--steps", "9", "--set", "compile=regional", "--batch-size", "1", "--project", "sofas")
    job = planned(store, "--preset", "soft", *more)
    assert (job["steps"], job["blend"], job["project"]) == (9, "poisson", "sofas")
    assert job["tuning_overrides"]["compile"] == "regional"
    assert job["tuning_overrides"]["batch_size"] == 1


@pytest.mark.parametrize(("name", "words"), [("hard", "there are: soft"), ("../x", "names no preset")])
def test_a_preset_that_is_none_is_said_in_a_line(store: Path, name: str, words: str) -> None:
    asked = ["plan", str(store.parent / "job.jsonl"), "--out", str(store), "--preset", name]
    found = CliRunner().invoke(main, asked)
    assert (found.exit_code, words in found.output) == (2, True), found.output


def test_a_preset_that_is_replaced_while_it_is_read_is_read_anew(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.open(Settings(scratch=store.parent / "scratch"), store=str(store))
    _, etag = read_preset(workspace, "soft")
    stat = Storage.stat

    def and_then_somebody_saves(self: Storage, where: Any) -> ObjectInfo:
        found = stat(self, where)
        monkeypatch.setattr(Storage, "stat", stat)
        save_preset(workspace, "soft", {"steps": 9}, by="bob", etag=etag)
        return found

    monkeypatch.setattr(Storage, "stat", and_then_somebody_saves)
    assert read_preset(workspace, "soft")[0].options == {"steps": 9}


def test_a_project_is_a_plain_name(store: Path) -> None:
    asked = ["plan", str(store.parent / "job.jsonl"), "--out", str(store), "--preset", "soft", "--project", "a/b"]
    found = CliRunner().invoke(main, asked)
    assert (found.exit_code, "project" in found.output) == (2, True), found.output
