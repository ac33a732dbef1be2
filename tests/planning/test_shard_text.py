"""A plan that several processes have written the rows of is, byte for byte, the one that this process alone writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.planning import JobOptions, shard_text
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.storage import Storage
from tests.support.child_processes import KillsOne, children

MODULE = "inpaint_ops.planning.shard_text_process"
ROWS = 900


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Rows of many kinds: some rejected, some without an id, with variants, `extra`, prompts that JSON escapes."""
    lines = []
    for n in range(1, ROWS + 1):
        row: dict[str, object] = {"image": f"{n % 7}/ä {n}.jpg", "mask": "m.png", "prompt": f"“{n}” \\ \n"}
        if n % 3:
            row["id"] = f"p{n}"
        if n % 50 == 0:
            row["steps"] = -1
        if n % 11 == 0:
            row |= {"variants": 3, "extra": {"n": [n, {"x": 0.1 + n}]}, "strength": 0.5, "format": "webp"}
        lines.append(json.dumps(row))
    (tmp_path / "job.jsonl").write_text("\n".join(lines))
    return tmp_path / "job.jsonl"


def planned(manifest: Path, name: str, job: JobOptions) -> dict[str, bytes]:
    """The files of the plan, by their keys."""
    store = manifest.parent / name
    workspace = Workspace.open(Settings(), store=str(store), also_readable=[str(manifest.parent)])
    plan = prepare(workspace, str(manifest), "run", job)
    assert plan.rows == ROWS and plan.rejected == ROWS // 50
    root = store / "runs" / "run"
    return {
        str(path.relative_to(root)): path.read_bytes() for path in [root / "manifest.jsonl", *root.glob("shards/*")]
    }


@pytest.mark.parametrize("names", [None, "{folder}/{stem}-{row}-{k}.{ext}"])
def test_the_files_are_the_same(manifest: Path, monkeypatch: pytest.MonkeyPatch, names: str | None) -> None:
    job = JobOptions(model="tiny-random", shard_rows=40, names=names)
    expected = planned(manifest, "alone", job)
    here = []
    of = shard_text.ShardText.of
    monkeypatch.setattr(shard_text, "processes_for", lambda rows, fewest: 2)
    monkeypatch.setattr(shard_text.ShardText, "of", lambda *asked: here.append(1) or of(*asked))
    assert planned(manifest, "shared", job) == expected and len(expected) > 20
    assert not here and not children(MODULE)


def test_rows_of_a_process_that_is_killed_are_written_without_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = JobOptions(model="tiny-random", shard_rows=40)
    expected = planned(manifest, "alone", job)
    put, kill = Storage.put, KillsOne(MODULE)

    def put_and_kill(self: Storage, where: object, *asked: object, **named: object) -> object:
        if "/shards/" in str(where):
            kill()
        return put(self, where, *asked, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_text, "processes_for", lambda rows, fewest: 2)
    monkeypatch.setattr(Storage, "put", put_and_kill)
    assert planned(manifest, "shared", job) == expected
    assert kill.pid and f"process {kill.pid}, which had some of the rows, was ended by SIGKILL" in caplog.text
    assert not children(MODULE)
