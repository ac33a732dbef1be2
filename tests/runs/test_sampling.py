"""A sample of a manifest: a run of its own, of rows that are spread over those that can be painted."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from inpaint_ops.manifest import ParsedManifest
from inpaint_ops.runs import finish, prepare
from inpaint_ops.runs.retrying import prepare_retry
from inpaint_ops.runs.sampling import sampled
from inpaint_ops.supervisor import ShardRun
from tests.support.bench import Bench

pytestmark = pytest.mark.usefixtures("no_gallery")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A manifest of ten rows, of which the third and the last are rejected."""
    found = Bench(tmp_path, ["ok"] * 10)
    manifest = tmp_path / "in" / "m.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for at in (2, 9):
        del lines[at]["prompt"]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def parsed(bench: Bench) -> ParsedManifest:
    return bench.workspace.read_manifest(str(bench.tmp_path / "in" / "m.jsonl"))[0]


@pytest.mark.parametrize("count", range(1, 12))
def test_rows_are_spread_evenly_and_each_comes_once(bench: Bench, count: int) -> None:
    found = sampled(parsed(bench), count)
    places = [[1, 2, 4, 5, 6, 7, 8, 9].index(row.row) for row in found.accepted]
    assert len(places) == min(count, 8)
    assert places == sorted(set(places))
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert not found.rejected
    assert found.notes[-1] == (
        f"a sample: {min(count, 8)} of the 8 rows that can be painted, spread evenly; "
        "2 rows were rejected and are not in it"
    )


def test_a_sample_is_a_run_like_any_other(bench: Bench) -> None:
    manifest, job = str(bench.tmp_path / "in" / "m.jsonl"), bench.job.model_copy(update={"sample": 3})
    plan = prepare(bench.workspace, manifest, "look", job)
    assert (plan.rows, plan.rejected) == (3, 0)
    assert prepare(bench.workspace, manifest, "look", job) == plan, "the same command goes on"
    rows = bench.workspace.shard_rows(plan, "00000")
    assert [row.row for row in rows] == [2, 6, 8]
    ShardRun(
        bench.workspace.storage, bench.workspace.layout("look"), "00000", rows, job, bench.settings,
        worker_command=bench.command(),
    ).run()  # fmt: skip
    summary = finish(bench.workspace, "look")
    assert (summary.verdict, summary.counts.rows, summary.counts.done) == ("VALID", 3, 3)
    assert any("a sample: 3 of the 8 rows" in line for line in summary.warnings)
    again = prepare_retry(bench.workspace, manifest, "look", rows[1].id, job, chosen=set())
    assert again.retry is not None
    assert again.retry.rows == 1


def test_the_command_gives_a_sample_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"image": "a.png", "mask": "a.png", "prompt": "x", "id": "a"}\n')
    command = [
        sys.executable,
        "-m",
        "inpaint_ops.cli",
        "run",
        str(tmp_path / "m.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, "--sample", "2", "--model", "tiny-random", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["run"], summary["counts"]["rows"]) == ("m-sample", 1), "its image is missing, so its row has failed"
