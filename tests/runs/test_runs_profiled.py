"""Runs that are profiled: the traces are read back as Perfetto would, and a profile that fails costs no row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.layout import PROFILE_SUFFIX
from inpaint_ops.locations import Location, parse
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import RunSummary
from inpaint_ops.runs import Workspace, finish, paint, prepare, summary_lines
from tests.support.pictures import file_of, mask_file, smooth
from tests.support.warm import Host


def workspace_of(tmp_path: Path, **settings: Any) -> Workspace:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "photo.png").write_bytes(file_of(smooth(64, 64)))
    (folder / "mask.png").write_bytes(mask_file(64, 64, (16, 16, 48, 48)))
    places = {"image": "photo.png", "mask": "mask.png", "prompt": "x", "steps": 2, "strength": 1.0}
    rows = (places | {"id": f"r{n}", "seed": n} for n in range(4))
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Settings(scratch=tmp_path / "s", **settings)
    return Workspace.open(found, store=str(tmp_path / "out"), also_readable=[str(folder)])


def run(workspace: Workspace, **options: Any) -> RunSummary:
    job = JobOptions(model="tiny-random", device="cpu", tuning_overrides={"batch_size": 1}, shard_rows=100, **options)
    source = str(Path(workspace.store.key).parent / "in" / "m.jsonl")
    for shard in prepare(workspace, source, "run", job).shards:
        paint(workspace, "run", shard.name)
    return finish(workspace, "run")


def notes(workspace: Workspace) -> list[Location]:
    return [info.location for info in workspace.storage.list(workspace.layout("run").workers)]


def trace_of(workspace: Workspace, summary: RunSummary) -> dict[str, Any]:
    (place,) = summary.profiles
    found: dict[str, Any] = json.loads(gzip.decompress(workspace.storage.get(parse(place))))
    return found


def check(trace: dict[str, Any]) -> None:
    """Threads and stages are there once per row or batch, each stage within its batch; operators within theirs."""
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    threads = {one["tid"]: one["args"]["name"] for one in trace["traceEvents"] if one["name"] == "thread_name"}
    host = [event for event in events if event["cat"] == "host"]

    def named(name: str) -> list[dict[str, Any]]:
        return sorted((event for event in host if event["name"] == name), key=lambda event: float(event["ts"]))

    assert len(named("decode")) == len(named("encode")) == 4
    assert {one["args"]["row"] for one in named("encode")} == {1, 2, 3, 4}
    assert all(threads[one["tid"]].startswith("decode") for one in named("decode"))
    assert all(threads[one["tid"]].startswith("encode") for one in named("encode"))
    batches = named("paint")
    assert len(batches) == 4 and {threads[one["tid"]] for one in batches} == {"painting"}

    def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
        return bool(outer["ts"] - 1 <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1)

    for stage in ("encode_prompt", "vae_encode", "denoise", "vae_decode"):
        assert all(within(one, batch) for one, batch in zip(named(stage), batches, strict=True)), stage
    operators = [event for event in events if event["cat"] == "operator"]
    names = {event["name"] for event in operators}
    assert {"aten::conv2d", "aten::scaled_dot_product_attention"} <= names and not any(
        event["cat"] == "kernel" for event in events
    )
    assert {event["tid"] for event in operators} == {batches[0]["tid"]}
    for event in operators:
        assert any(batch["ts"] - 5e4 <= event["ts"] <= batch["ts"] + batch["dur"] + 5e4 for batch in batches[:2]), (
            "the first two batches are looked into, and no other"
        )
    about = trace["otherData"]
    assert about["batches"] == 4 and len(about["looked_into"]) == 2
    assert about["looked_into"][0].startswith("batch 1: ") and about["left_out"] == {"spans": 0, "operators": 0}


def test_a_profiled_run_leaves_a_trace_per_worker_and_its_report_names_it(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path)
    summary = run(workspace, profile=True)
    assert summary.verdict == "VALID" and summary.counts.done == 4
    assert not [line for line in summary.warnings if "note of a shard" in line or "profile" in line]
    check(trace_of(workspace, summary))
    (line,) = (line for line in summary_lines(workspace, summary) if "perfetto" in line)
    assert line.endswith(summary.profiles[0]) and summary.profiles[0].endswith(PROFILE_SUFFIX)


def test_a_worker_of_the_warm_host_is_profiled_too(tmp_path: Path, shared_warm_host: Host) -> None:
    workspace = workspace_of(tmp_path, warm_host=shared_warm_host.socket)
    summary = run(workspace, profile=True)
    (report,) = (place for place in notes(workspace) if not place.key.endswith(PROFILE_SUFFIX))
    assert json.loads(workspace.storage.get(report))["started_by"] == "fork"
    check(trace_of(workspace, summary))


@pytest.mark.usefixtures("forked_workers")
def test_nothing_is_profiled_unless_it_is_asked_for(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path)
    summary = run(workspace)
    assert summary.profiles == () and summary.counts.done == 4
    source = str(Path(workspace.store.key).parent / "in" / "m.jsonl")
    job = JobOptions(model="tiny-random", device="cpu", shard_rows=100, profile=True)
    assert prepare(workspace, source, "run", job).warnings[-1].startswith("the run was planned without a profile")
    assert not [place for place in notes(workspace) if place.key.endswith(PROFILE_SUFFIX)]


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("most", [0, 10], ids=["nothing", "too large"])
def test_a_profile_that_is_not_taken_costs_no_row_and_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    if most:
        monkeypatch.setattr("inpaint_ops.supervisor.received.PROFILE_BYTES", most)
    else:
        monkeypatch.setattr("inpaint_ops.supervisor.received.PROFILE", "elsewhere")
    workspace = workspace_of(tmp_path)
    summary = run(workspace, profile=True)
    assert summary.counts.done == 4 and summary.profiles == () and summary.verdict == "VALID"
    assert [line for line in summary.warnings if "left no profile" in line]
