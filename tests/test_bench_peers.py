"""`python -m bench.peers`: the rows it makes, what it counts, and the whole on a few rows."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.peers import job

SPINS = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
LEAVES = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SPINS.format(0.4)!r}], start_new_session=True)"
)


def test_the_time_of_a_child_that_outlives_its_parent_is_counted(tmp_path: Path) -> None:
    """As Ray's servers do. It is ended with the command, whatever it has used by then."""
    waits = LEAVES.replace("Popen", "run")
    for program, least in ((waits, 0.4), (f"{LEAVES}; {SPINS.format(0.3)}", 0.3)):
        to = tmp_path / "usage.json"
        command = [sys.executable, "-m", "bench.peers.usage", str(to), sys.executable, "-c", program]
        subprocess.run(command, check=True)
        used = json.loads(to.read_text())
        assert used["cpu"] >= least
        assert used["code"] == 0


def test_the_rows_are_the_same_each_time_and_the_broken_ones_are_broken() -> None:
    files: list[dict[str, bytes]] = [{}, {}]
    jobs = [job.make(one.__setitem__, rows=20, broken=10) for one in files]
    assert files[0] == files[1]
    assert jobs[0] == jobs[1]
    made = jobs[0]
    assert len(made.broken) == 10
    assert len(set(made.broken.values())) == 10
    for number, row in enumerate(made.rows):
        if row["id"] in made.broken:
            continue
        source = np.asarray(Image.open(io.BytesIO(files[0][str(row["image"])])).convert("RGB"))
        assert (source == job.source(number)).all()
        mask = np.asarray(Image.open(io.BytesIO(files[0][str(row["mask"])])))
        assert ((mask > 0) == job.mask(number)).all()
        assert 0.01 < job.mask(number).mean() < 0.5


@pytest.mark.slow
def test_it_tells_what_became_of_the_rows() -> None:
    options = ["--rows", "2", "--broken", "1", "--rounds", "1", "--threads", "1"]
    done = subprocess.run([sys.executable, "-m", "bench.peers", *options], capture_output=True, text=True, check=True)
    assert "| inpaint-ops | 1 | 1 | 0 | 1 | 0 |" in done.stdout
    assert "| a loop over boto3 and diffusers | 1 | 1 | 0 | 1 | 0 |" in done.stdout
    assert "| CPU s over ours, paired |" in done.stdout
