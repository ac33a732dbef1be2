"""Airflow stays light: parsing the DAGs imports little, and nothing that its tasks import pulls in torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.fresh_python import run_python

REPOSITORY = Path(__file__).resolve().parents[2]

PARSE = """
import sys, time
from pathlib import Path
sys.path[:0] = [{repository!r}, {dags!r}]
import airflow.sdk, airflow.providers.standard.operators.trigger_dagrun
before = set(sys.modules)
for path in sorted(Path({dags!r}).glob("*.py")):
    started = time.perf_counter()
    __import__(path.stem)
    print(f"parsed {{path.name}} in {{(time.perf_counter() - started) * 1000:.0f}} ms")
heavy = {{"torch", "diffusers", "transformers", "xformers", "cv2", "boto3", "pyarrow", "numpy"}}
heavy &= set(sys.modules) - before
print("heavy:", sorted(heavy))
"""


def test_parsing_the_dags_imports_nothing_heavy(tmp_path: Path, say: Callable[[str], None]) -> None:
    program = PARSE.format(repository=str(REPOSITORY), dags=str(REPOSITORY / "dags"))
    output = run_python(tmp_path, program)
    lines = [line for line in output.splitlines() if line.startswith("parsed ")]
    say("; ".join(lines))
    assert len(lines) == len(DAGS)
    assert "heavy: []" in output


MOST_MODULES = 40
"""Beyond what every DAG with a `@task` imports; five or six are this project's own."""


DAGS = sorted(path.stem for path in (REPOSITORY / "dags").glob("*.py"))
FORKED = """
import json, os, sys
sys.path[:0] = [{repository!r}, {dags!r}]
{before}
before = set(sys.modules)
for module in {modules!r}:
    child = os.fork()
    if not child:
        __import__(module)
        print(json.dumps([module, sorted(set(sys.modules) - before)]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""
"""Each module imported in a fork of the process, so that what comes before is imported once."""


def _imported(tmp_path: Path, modules: Sequence[str], before: str = "") -> dict[str, list[str]]:
    """What is new in `sys.modules` after the import of each module by itself, once `before` was run."""
    program = FORKED.format(
        repository=str(REPOSITORY), dags=str(REPOSITORY / "dags"), modules=list(modules), before=before
    )
    return dict(json.loads(line) for line in run_python(tmp_path, program).splitlines())


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return _imported(tmp_path_factory.mktemp("parsed"), DAGS, "from airflow.sdk import dag, task; task()")


@pytest.mark.parametrize("dag", DAGS)
def test_parsing_a_dag_imports_little_beyond_airflows_own_import(parsed: dict[str, list[str]], dag: str) -> None:
    """Every task parses its DAG's file again before it starts."""
    names = parsed[dag]
    assert dag in names
    assert len(names) <= MOST_MODULES, names
    assert not [name for name in names if name.startswith(("airflow.models", "sqlalchemy", "inpaint_ops."))], names


IN_TASKS = (
    "inpaint_ops.runs", "inpaint_ops.delivering", "inpaint_ops.inbox", "inpaint_ops.standing", "inpaint_ops.supervisor",
    "inpaint_ops.report", "inpaint_ops.cli", "inpaint_ops.worker", "inpaint_ops.cli.doctor",
)  # fmt: skip


@pytest.fixture(scope="module")
def in_tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return _imported(tmp_path_factory.mktemp("in-tasks"), IN_TASKS)


@pytest.mark.parametrize("module", IN_TASKS)
def test_no_module_that_airflows_tasks_import_pulls_in_torch(in_tasks: dict[str, list[str]], module: str) -> None:
    assert module in in_tasks[module]
    assert {"torch", "diffusers", "airflow"}.isdisjoint(in_tasks[module])
