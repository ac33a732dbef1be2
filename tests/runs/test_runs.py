"""Prepare, paint, finish: what is written when, and what a second try makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, RunConflictError, StorageUnavailableError
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace, finish, paint, prepare
from inpaint_ops.storage import Storage

JOB = JobOptions(model="tiny-random", shard_rows=2)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    rows = [{"image": f"{index}.png", "mask": "m.png", "prompt": "x"} for index in range(5)]
    rows.insert(2, {"image": "../x.png", "mask": "m.png", "prompt": "x"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(scratch=tmp_path / "scratch")
    return Workspace.open(settings, store=str(tmp_path / "out"), also_readable=[str(tmp_path / "in")])


def manifest(workspace: Workspace) -> str:
    return str(Path(workspace.store.key).parent / "in" / "m.jsonl")


def objects(workspace: Workspace) -> dict[str, bytes]:
    root = workspace.layout("run").root
    return {
        info.location.key.removeprefix(root.key): workspace.storage.get(info.location)
        for info in workspace.storage.list(root)
    }


def test_a_plan_freezes_the_manifest_and_records_the_rejected_rows(workspace: Workspace) -> None:
    plan = prepare(workspace, manifest(workspace), "run", JOB)
    written = objects(workspace)
    assert sorted(written) == [
        "manifest.jsonl",
        "plan.json",
        "records/rejected/0000003.json",
        "shards/00000.jsonl",
        "shards/00001.jsonl",
        "shards/00002.jsonl",
    ]
    assert (plan.rows, plan.rejected, [shard.rows for shard in plan.shards]) == (6, 1, [2, 2, 1])
    assert Record.model_validate_json(written["records/rejected/0000003.json"]).status == "rejected"
    Path(manifest(workspace)).write_text("something else entirely\n")
    with pytest.raises(RunConflictError, match="another manifest"):
        prepare(workspace, manifest(workspace), "run", JOB)
    assert objects(workspace) == written, "a refused plan writes nothing"


def test_the_same_manifest_and_choices_resume_even_with_another_tuning(workspace: Workspace) -> None:
    plan = prepare(workspace, manifest(workspace), "run", JOB)
    assert prepare(workspace, manifest(workspace), "run", JOB.model_copy(update={"tuning": "fast"})) == plan
    with pytest.raises(RunConflictError, match="model = 'tiny-random', not 'other'"):
        prepare(workspace, manifest(workspace), "run", JOB.model_copy(update={"model": "other"}))


class Broken(Storage):
    """Storage that breaks when it is told to write one object."""

    breaks_at = ""

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        if str(where).endswith(self.breaks_at):
            raise StorageUnavailableError("the store is gone")
        return super().put(where, data, **options)


@pytest.mark.parametrize("name", ["shards/00001.jsonl", "records/rejected/0000003.json", "plan.json"])
def test_a_plan_that_broke_off_is_no_plan_and_the_next_one_is_whole(workspace: Workspace, name: str) -> None:
    broken = Broken(readable=[Path(manifest(workspace)).parent], writable=[workspace.store])
    broken.breaks_at = name
    with pytest.raises(StorageUnavailableError):
        prepare(Workspace(workspace.settings, workspace.store, broken), manifest(workspace), "run", JOB)
    assert workspace.plan("run") is None
    with pytest.raises(ConfigError, match="plan it first"):
        paint(workspace, "run", "00000")
    prepare(workspace, manifest(workspace), "run", JOB)
    assert workspace.plan("run") is not None


@pytest.mark.parametrize("name", ["results.jsonl", "timings.parquet", "report.html"])
def test_the_summary_is_written_last(workspace: Workspace, name: str) -> None:
    prepare(workspace, manifest(workspace), "run", JOB)
    broken = Broken(readable=[Path(manifest(workspace)).parent], writable=[workspace.store])
    broken.breaks_at = name
    with pytest.raises(StorageUnavailableError):
        finish(Workspace(workspace.settings, workspace.store, broken), "run")
    assert "run.json" not in objects(workspace)


def test_a_run_with_missing_rows_is_invalid_and_says_which(workspace: Workspace) -> None:
    prepare(workspace, manifest(workspace), "run", JOB)
    summary = finish(workspace, "run")
    assert (summary.verdict, summary.counts.missing, summary.counts.rejected) == ("INVALID", 5, 1)
    assert any("shard 00002 is unfinished" in reason for reason in summary.reasons)
    assert any("5 of 6" in reason or "5 rows" in reason for reason in summary.reasons), summary.reasons


def test_there_is_no_report_without_a_run(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="no run 'nothing'"):
        finish(workspace, "nothing")
