"""The whole command, measured: the program is run on a processor, and what was kept of cards can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.card.cases import CASES
from bench.card.command import Outcome
from bench.results import FOLDER
from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parent.parent


def test_a_command_whose_worker_is_killed_is_measured(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "bench.card", "--device", "cpu", "--model", "tiny-random", "--rows", "3",
        "--only", "killed", "--seconds", "1000", "--out", str(tmp_path / "card.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (killed,) = json.loads((tmp_path / "card.json").read_bytes())["outcomes"]
    assert killed["counts"] == {"rows": 3, "done": 3, "failed": 0, "rejected": 0}, done.stdout
    assert 0 < killed["painting"] <= 1 and killed["batch"] >= 1 and killed["start"]["load"] > 0
    workers = [note for note in killed["notes"] if note.startswith("worker ")]
    assert "worker killed by SIGKILL, fork" in workers, killed["notes"]
    assert set(workers) <= {"worker killed by SIGKILL, fork", "worker clean, fork"}, "none is clean that is killed late"


def test_what_was_kept_of_cards_is_of_cases_that_there_are() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    kept = sorted((FOLDER / "card").glob("*.json"))
    assert kept
    for path in kept:
        found = [Outcome.model_validate(one) for one in json.loads(path.read_bytes())["outcomes"]]
        assert {one.name for one in found} <= set(names)
