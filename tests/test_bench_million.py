"""`python -m bench.million` does the real steps on a real run and counts what they ask of the store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["folder", "s3"])
def test_each_step_is_measured_on_a_run_that_is_valid(tmp_path: Path, store: str) -> None:
    command = [sys.executable, "-m", "bench.million", "--rows", "30", "--store", store, "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["30", store, step] for step in ("plan", "resume", "attempts", "finish")]
    for row in rows:
        assert int(row[6]) > 20 and int(row[7]) > 20, "megabytes of a Python process"
        assert (row[8] == "") == (store == "folder")
    if store == "s3":
        resume, attempts, finish = (float(row[8]) for row in rows[1:])
        assert resume < 1, "a few for the run and for each shard, and none per row"
        assert 1 <= attempts < 2, "its image per row, and a few for the shard"
        assert 1 <= finish < 3, "for its digest its image per row, and a few for the run and the gallery"
