"""The same with real processes: rows fail, their files are repaired, and the command that does them again is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.warm import Host

pytestmark = pytest.mark.slow


KILLED = """
import os, signal
from inpaint_ops.cli import main
from inpaint_ops.storage import Storage
put = Storage.put
def put_and_die(self, where, *data, **options):
    put(self, where, *data, **options)
    if "/records/" in str(where):
        os.kill(os.getpid(), signal.SIGKILL)
Storage.put = put_and_die
main()
"""
"""The command, which is killed once it has put a record."""


class Job:
    """Two rows whose photos are no images, and one that is good. How workers are started plays no part."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, self.host = folder, host
        mask = np.zeros((64, 64), np.uint8)
        mask[12:50, 12:50] = 255
        Image.fromarray(mask).save(folder / "m.png")
        for name in "ab":
            (folder / f"{name}.png").write_text("not an image")
        self.repair("c")
        rows = [{"id": name, "image": f"{name}.png", "mask": "m.png", "prompt": "x", "seed": 1} for name in "abc"]
        (folder / "job.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def repair(self, *names: str) -> None:
        noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for name in names:
            Image.fromarray(noise).save(self.folder / f"{name}.png")

    def call(
        self, *options: str, manifest: str = "job.jsonl", program: tuple[str, ...] = ("-m", "inpaint_ops.cli")
    ) -> tuple[int, str, str]:
        command = [sys.executable, *program, "run", manifest, "--out", "out", *options]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False,
            env=os.environ | {"INPAINT_SCRATCH": str(self.folder / "scratch"), "INPAINT_WARM_HOST": self.host.socket},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    @property
    def run(self) -> Path:
        return self.folder / "out" / "runs" / "job"

    def results(self) -> dict[str, Any]:
        return {row["id"]: row for row in map(json.loads, (self.run / "results.jsonl").read_text().splitlines())}

    def new_records(self) -> list[Path]:
        return sorted(self.run.glob("records/*r0001_*/*.json"))


def test_a_retry_that_is_killed_loses_nothing_and_can_be_repeated(tmp_path: Path, shared_warm_host: Host) -> None:
    job = Job(tmp_path, shared_warm_host)
    code, out, _ = job.call("--model", "tiny-random", "--steps", "2")
    assert code == 3 and "--retry failed" in out, out
    before = {path: path.read_bytes() for path in job.run.glob("records/*/*.json")}
    job.repair("a", "b")

    code, _, err = job.call("--retry", "failed", "--shard-rows", "1", program=("-c", KILLED))
    assert code == -signal.SIGKILL, err
    assert len(job.new_records()) == 1, "it was killed before its end"
    kept = {path: path.read_bytes() for path in job.new_records()}

    code, out, err = job.call("--retry", "failed")
    assert code == 0, out + err
    assert "retry 1 of run 'job' (failed) has not ended" in err and "retry 1 (failed): 2 done" in out
    for path, body in (before | kept).items():
        assert path.read_bytes() == body, "no record was replaced"
    results = job.results()
    assert {name: row["status"] for name, row in results.items()} == dict.fromkeys("abc", "done")
    for name in "ab":
        assert [one["status"] for one in results[name]["earlier"]] == ["failed"]
        assert Path(results[name]["output"]["uri"]).is_file()
    assert "earlier" not in results["c"] and "retry" not in results["c"]
    summary = json.loads((job.run / "run.json").read_text())
    assert (summary["verdict"], summary["counts"]["done"], len(summary["retries"])) == ("VALID", 3, 1)


def test_a_done_row_is_painted_again_beside_its_image_and_a_corrected_one_in_its_place(
    tmp_path: Path, shared_warm_host: Host
) -> None:
    job = Job(tmp_path, shared_warm_host)
    job.repair("b")
    lines = (tmp_path / "job.jsonl").read_text().replace('"seed": 1', '"seed": -1', 1)
    (tmp_path / "job.jsonl").write_text(lines)
    code, _, err = job.call("--model", "tiny-random", "--steps", "2")
    assert code == 3 and "rejected: row 1: seed" in err
    first = (job.run / "images" / "c.png").read_bytes()
    corrected = (job.run / "rejected.jsonl").read_text().replace('"seed": -1', '"seed": 3')
    (job.run / "rejected.jsonl").write_text(corrected)
    job.repair("a")
    options = ("--run", "job", "--allow", ".", "--retry", "rejected")
    code, out, err = job.call(*options, manifest="out/runs/job/rejected.jsonl")
    assert code == 0, out + err
    assert job.results()["a"]["seed"] == 3 and job.results()["a"]["row"] == 1
    failed = tmp_path / "again.jsonl"
    row = {"id": "c", "image": "c.png", "mask": "m.png", "prompt": "something else", "seed": 9}
    failed.write_text(json.dumps(row) + "\n")
    code, out, err = job.call("--run", "job", "--retry", "c", manifest=str(failed))
    assert code == 0, out + err
    again = job.results()["c"]
    assert (again["prompt"], again["seed"], again["retry"]) == ("something else", 9, 2)
    assert again["output"]["uri"].endswith("/images/c~2.png") and Path(again["output"]["uri"]).read_bytes() != first
    assert (job.run / "images" / "c.png").read_bytes() == first
