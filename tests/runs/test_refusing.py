"""Why a job was refused is kept beside the runs, and nothing of a run is touched for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    AccessDeniedError,
    ConfigError,
    DamagedObjectError,
    ForbiddenLocationError,
    InpaintOpsError,
    ManifestError,
    ModelError,
    ObjectNotFoundError,
    RunConflictError,
    StorageUnavailableError,
)
from inpaint_ops.runs import Workspace, keep_refusal, read_refusal, refusal
from tests.support.synthetic_run import make_plan, put_plan


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (RunConflictError("taken"), "another run name"),
        (ManifestError("no JSON"), "Correct the manifest"),
        (ModelError("none"), "model_cache"),
        (ForbiddenLocationError("outside"), "INPAINT_ALLOWED_PREFIXES"),
        (ObjectNotFoundError("gone"), "Upload the manifest"),
        (AccessDeniedError("no right"), "credentials"),
        (StorageUnavailableError("no answer"), "Check the store"),
        (ConfigError("steps: 0"), "Follow the message"),
    ],
)
def test_each_kind_of_refusal_has_its_cure_and_is_read_back(
    workspace: Workspace, error: InpaintOpsError, cure: str
) -> None:
    refused = refusal(error, run="night", manifest="s3://bucket/night.jsonl", request="manual__1")
    assert cure in refused.cure and refused.message == str(error)
    assert refused.permanent is error.permanent
    assert keep_refusal(workspace, refused)
    assert read_refusal(workspace, "night") == refused
    assert read_refusal(workspace, "day") is None


def test_a_run_that_exists_is_left_as_it_is(workspace: Workspace) -> None:
    put_plan(workspace, make_plan("night", 5, shard_rows=5))
    assert not keep_refusal(workspace, refusal(RunConflictError("taken"), run="night", manifest="x"))
    assert read_refusal(workspace, "night") is None
    assert [info.location.name for info in workspace.storage.list(workspace.layout("night").root)] == ["plan.json"]


@pytest.mark.parametrize("name", ["../night", "", "a b", "x" * 500])
def test_a_name_that_no_run_may_have_is_kept_nowhere(workspace: Workspace, name: str) -> None:
    assert not keep_refusal(workspace, refusal(ConfigError("no"), run=name, manifest="x"))
    assert not list(workspace.storage.list(workspace.store))


def test_a_store_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    workspace = Workspace.open(Settings(scratch=tmp_path / "scratch"), store="/proc/nowhere")
    assert not keep_refusal(workspace, refusal(ConfigError("no"), run="night", manifest="x"))


def test_passwords_and_signatures_of_a_url_are_not_kept() -> None:
    refused = refusal(ConfigError("no"), run="night", manifest="https://me:secret@host/night.jsonl?sig=secret")
    assert "secret" not in refused.model_dump_json() and "host/night.jsonl" in refused.manifest


def test_what_is_no_refusal_of_this_run_is_not_shown(workspace: Workspace) -> None:
    workspace.storage.put(workspace.layout("night").refusal, b"{}")
    with pytest.raises(DamagedObjectError):
        read_refusal(workspace, "night")
    other = refusal(ConfigError("no"), run="day", manifest="x").model_dump_json().encode()
    workspace.storage.put(workspace.layout("night").refusal, other)
    assert read_refusal(workspace, "night") is None
