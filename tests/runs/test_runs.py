"""Prepare, paint, finish: what is written when, and what a second try makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, RunConflictError, StorageUnavailableError
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Record, RunSummary, WorkerReport
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
        "rejected.jsonl",
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


EARLIER = Path(__file__).parent / "earlier_run"
"""A run as the version before parameters stood in the shard's file wrote it; `{root}` stands for its folder."""


@pytest.fixture
def earlier(tmp_path: Path) -> Workspace:
    for source in EARLIER.rglob("*"):
        if source.is_file():
            target = tmp_path / "out" / "runs" / "night" / source.relative_to(EARLIER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes().replace(b"{root}", str(tmp_path).encode()))
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "out"))


def test_an_earlier_runs_rows_get_the_parameters_that_they_were_painted_with(earlier: Workspace) -> None:
    plan = earlier.plan("night")
    assert plan is not None
    layout, rows = earlier.layout("night"), earlier.shard_rows(plan, "00000")
    assert len(rows) == 3
    for row in rows:
        record = Record.model_validate_json(earlier.storage.get(layout.record("00000", row.row)))
        assert (row.parameters.seed, row.parameters.steps) == (record.seed, record.steps_requested)
        assert (row.parameters.guidance_scale, row.parameters.strength) == (record.guidance_scale, record.strength)


def test_everything_that_an_earlier_run_wrote_is_still_read(earlier: Workspace) -> None:
    layout = earlier.layout("night")
    before = RunSummary.model_validate_json(earlier.storage.get(layout.summary))
    summary = finish(earlier, "night")
    assert (summary.counts, summary.workers, summary.faults) == (before.counts, 2, before.faults)
    assert not [line for line in summary.warnings if "left out" in line or "does not count" in line]
    kept = (EARLIER / "failed.jsonl").read_bytes().replace(b"{root}", Path(earlier.store.key).parent.as_uri().encode())
    assert earlier.storage.get(layout.failed) == kept
    for info in earlier.storage.list(layout.records):
        body = earlier.storage.get(info.location)
        again = Record.model_validate_json(body).model_dump(mode="json")
        assert again == json.loads(body), "a record keeps its shape"
    for info in earlier.storage.list(layout.workers):
        body = earlier.storage.get(info.location)
        read = WorkerReport.model_validate_json(body)
        assert read.model_dump(mode="json", exclude_unset=True) == json.loads(body), "what is newer has a default"


def test_a_shard_says_what_its_rows_are_painted_with(workspace: Workspace) -> None:
    rows = [
        {"image": "0.png", "mask": "m.png", "prompt": "x", "quality": "best", "seed": 7},
        {"image": "1.png", "mask": "m.png", "prompt": "x", "steps": 9, "strength": 0.5},
    ]
    Path(manifest(workspace)).write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = JobOptions(model="tiny-random", quality="good", guidance_scale=3.0)
    plan = prepare(workspace, manifest(workspace), "run", job)
    lines = [json.loads(line) for line in objects(workspace)["shards/00000.jsonl"].splitlines()]
    assert lines[0]["parameters"] == {
        "seed": 7, "steps": 50, "guidance_scale": 3.0, "strength": 0.9999,
        "blend": "hard", "match": "none", "grain": "none",
    }  # fmt: skip
    assert (lines[1]["parameters"]["steps"], lines[1]["parameters"]["strength"]) == (9, 0.5)
    frozen = workspace.shard_rows(plan.model_copy(update={"job": JobOptions(model="other")}), "00000")
    assert [row.parameters.model_dump() for row in frozen] == [line["parameters"] for line in lines]
    assert frozen[0].as_manifest_row()["quality"] == "best" and "steps" not in frozen[0].as_manifest_row()
