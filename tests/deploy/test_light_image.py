"""What Airflow's own image runs, with the packages that it has: no torch, no client of the hub."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]

_ONLY_THESE = """
import importlib.metadata, re, sys

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

INSTALLED = set(sys.argv[1].split(",")) | {"inpaint-ops"}
OWNERS = importlib.metadata.packages_distributions()

class NotInTheImage:
    def find_spec(self, name, path=None, target=None):
        owners = set(map(canonical, OWNERS.get(name.partition(".")[0], ())))
        if owners and not owners & INSTALLED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInTheImage())
"""


def in_the_image(program: str, *arguments: str | Path) -> str:
    """Run a program that finds no package but those of requirements-airflow.txt; returns what it prints."""
    text = (REPOSITORY / "requirements-airflow.txt").read_text()
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([\w.-]+)(?:\[.*?\])?==", text, re.M)}
    assert {"apache-airflow", "boto3"} <= names
    done = subprocess.run(
        [sys.executable, "-c", _ONLY_THESE + textwrap.dedent(program), ",".join(names), *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_painters_packages_are_not_found_there() -> None:
    """What the tests below rest on."""
    tried = in_the_image(
        """
        for name in ("torch", "diffusers", "filelock", "huggingface_hub", "safetensors"):
            try:
                __import__(name)
            except ModuleNotFoundError as error:
                print(error.name)
        """
    )
    assert tried.split() == ["torch", "diffusers", "filelock", "huggingface_hub", "safetensors"]


@pytest.mark.parametrize("model", ["tiny-random", "owner/model", "/models/mine"])
def test_a_manifest_is_planned_and_reported_there(tmp_path: Path, model: str) -> None:
    """As the tasks `plan` and `report` do, for each kind of model; the plan notes what could not be found out."""
    (tmp_path / "night.jsonl").write_text('{"image": "a.png", "mask": "b.png", "prompt": "a cup"}\n')
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    printed = in_the_image(
        """
        from inpaint_ops.config import Settings
        from inpaint_ops.planning import job_options
        from inpaint_ops.runs import finish, prepare
        from inpaint_ops.runs.workspace import Workspace

        folder, model = sys.argv[2:]
        workspace = Workspace.open(Settings(scratch=f"{folder}/scratch"), store=f"{folder}/out", also_readable=[folder])
        job = job_options(workspace.settings, model=model)
        made = prepare(workspace, f"{folder}/night.jsonl", "night", job, find_model="anywhere")
        print(made.rows, *made.warnings)
        print(finish(workspace, "night").counts)
        """,
        tmp_path,
        model,
    )
    assert printed.split()[0] == "1"
    assert (model != "tiny-random") == (f"not known whether there is a model {model}" in printed), printed
    assert (tmp_path / "out/runs/night/run.json").is_file()


def test_the_inbox_and_the_housekeeping_are_imported_there() -> None:
    in_the_image(
        """
        from inpaint_ops.housekeeping import in_the_model_cache, in_the_store, retention, sweep
        from inpaint_ops.inbox import BATCH, claim_all, note_triggered
        from inpaint_ops.metrics import measured_shard
        from inpaint_ops.model.cache import hub_cache
        from inpaint_ops.runs import check_good, paint, prepare_retry, summary_lines
        """
    )
