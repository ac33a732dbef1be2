"""docs/settings.md names every variable that a worker gets, every one that is set for it, and what is dropped."""

from __future__ import annotations

import re
from pathlib import Path

from inpaint_ops.device import environment_for
from inpaint_ops.model.compiled import VARIABLE
from inpaint_ops.supervisor.confinement import Identity, worker_environment
from inpaint_ops.worker.imports import ENVIRONMENT, OMP_WAIT

PAGE = Path(__file__).resolve().parents[2] / "docs/settings.md"
SECTION = PAGE.read_text().partition("## What a worker is given\n")[2].partition("\n## ")[0]


def rows_set() -> list[tuple[str, str]]:
    """Who sets it, and the variable with its value, of the second table."""
    table = SECTION.partition("| set by |")[2]
    return re.findall(r"^\| ([^|]+) \| `([A-Z0-9_]+(?:=\w+)?)` \|", table, re.MULTILINE)


def written(variables: dict[str, str]) -> set[str]:
    return {f"{name}={value}" for name, value in variables.items()}


def test_the_page_names_what_is_set_and_to_what() -> None:
    rows, other_user = rows_set(), "supervisor, with `INPAINT_WORKER_USER`"
    always = [(who, variable) for who, variable in rows if who != other_user]
    by_supervisor = {variable for who, variable in always if who.startswith("supervisor")}
    by_worker = {variable for who, variable in always if who.partition(", unless")[0].endswith("worker")}
    assert by_supervisor == written(worker_environment({}))
    assert by_worker == written(ENVIRONMENT) | {"=".join(OMP_WAIT), "TMPDIR", *environment_for("GPU-a")}
    with_user = Identity(1, (1,)).environment(Path("/scratch"), {"HF_HOME": "/cache"})
    assert {variable for who, variable in rows if who == other_user} == set(with_user)
    assert [variable for who, variable in always if who.startswith("worker, where it compiles")] == [VARIABLE]
    assert len(rows) == len({variable for _, variable in rows})


def test_what_the_page_calls_dropped_is_dropped() -> None:
    text = SECTION.partition("Everything else is dropped")[2].partition("\n\n")[0]
    names = [name for name in re.findall(r"`(\w+)`", text) if name != "INPAINT_"]
    assert len(names) >= 4
    environ = dict.fromkeys([*names, "INPAINT_STORE", "INPAINT_SCRATCH"], "canary")
    assert "canary" not in worker_environment(environ).values()
