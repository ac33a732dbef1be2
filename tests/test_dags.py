"""Airflow stays light: parsing the DAGs and the plugins imports no torch, and the forms validate."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

PARSE = """
import sys, time
from pathlib import Path
sys.path[:0] = [{plugins!r}, {dags!r}]
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


def _python(tmp_path: Path, program: str, **settings: str) -> str:
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"} | settings
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_parsing_the_dags_imports_nothing_heavy(tmp_path: Path, say: Callable[[str], None]) -> None:
    program = PARSE.format(plugins=str(REPOSITORY / "plugins"), dags=str(REPOSITORY / "dags"))
    output = _python(tmp_path, program)
    lines = [line for line in output.splitlines() if line.startswith("parsed ")]
    say("; ".join(lines))
    assert len(lines) == 4
    assert "heavy: []" in output


@pytest.mark.parametrize(
    "module",
    ["inpaint_ops.runs", "inpaint_ops.inbox", "inpaint_ops.supervisor", "inpaint_ops.report", "inpaint_ops.cli",
     "inpaint_ops.worker", "inpaint_ops.doctor"],
)  # fmt: skip
def test_no_module_that_airflows_tasks_import_pulls_in_torch(tmp_path: Path, module: str) -> None:
    output = _python(
        tmp_path, f"import sys, {module}; print(sorted({{'torch', 'diffusers', 'airflow'}} & set(sys.modules)))"
    )
    assert output.strip() == "[]"


@pytest.fixture(scope="module")
def manifest_dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ.setdefault("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    sys.path[:0] = [str(REPOSITORY / "plugins"), str(REPOSITORY / "dags")]
    import inpaint_manifest

    return inpaint_manifest.inpaint_manifest()


GOOD = {"manifest": "s3://bucket/inbox/night.jsonl"}


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"manifest": "night.jsonl"},
        {"manifest": "http://example.org/night.jsonl"},
        {"manifest": "s3://bucket/night.txt"},
        {**GOOD, "steps": 0},
        {**GOOD, "steps": "many"},
        {**GOOD, "quality": "ultra"},
        {**GOOD, "batch_size": 65},
        {**GOOD, "tuning": "faster"},
        {**GOOD, "row_limit": 0},
        {**GOOD, "failure_threshold": 1.5},
        {**GOOD, "run": "../other"},
        {**GOOD, "tuning_overrides": "vae_tiling=true"},
        {**GOOD, "use_xformers": "perhaps"},
        {**GOOD, "scheduler": "magic"},
    ],
)
def test_the_trigger_form_refuses_what_cannot_work(manifest_dag: Any, conf: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        _merged(manifest_dag, conf).validate()


def _merged(dag: Any, conf: dict[str, Any]) -> Any:
    import copy

    params = copy.deepcopy(dag.params)
    params.update(conf)
    return params


def test_the_trigger_form_takes_a_good_job(manifest_dag: Any) -> None:
    params = _merged(
        manifest_dag, {**GOOD, "quality": "best", "batch_size": 4, "tuning": "notes", "failure_threshold": 0.1}
    )
    assert params.validate()["quality"] == "best"


def test_the_form_names_every_scheduler_and_its_choices_reach_the_job(manifest_dag: Any) -> None:
    from inpaint_ops.config import Scheduler, Settings
    from inpaint_ops.planning import job_options

    assert manifest_dag.params.get_param("scheduler").schema["enum"] == [None, *get_args(Scheduler)]
    conf = {**GOOD, "tuning_overrides": {"vae_tiling": True}, "use_xformers": False, "scheduler": "ddim"}
    chosen = _merged(manifest_dag, conf).validate()
    job = job_options(Settings(), **{name: value for name, value in chosen.items() if name not in ("manifest", "run")})
    assert (job.tuning_overrides, job.use_xformers, job.scheduler) == ({"vae_tiling": True}, False, "ddim")


def test_the_painting_task_is_pooled_queued_and_retried(manifest_dag: Any) -> None:
    task = manifest_dag.task_dict["inpaint"]
    assert (task.partial_kwargs["pool"], task.partial_kwargs["queue"], task.partial_kwargs["retries"]) == (
        "gpu",
        "gpu",
        3,
    )
    assert task.partial_kwargs["execution_timeout"].total_seconds() == 6 * 3600 + 600
    assert manifest_dag.task_dict["report"].trigger_rule == "all_done"


LIMITS = """
import sys
sys.path[:0] = [{plugins!r}, {dags!r}]
import inpaint_manifest
task = inpaint_manifest.inpaint_manifest().task_dict["inpaint"].partial_kwargs
print(inpaint_manifest.TRIES, inpaint_manifest.SHARD_TIMEOUT.total_seconds(), task["retries"],
      task["execution_timeout"].total_seconds())
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "4 21600.0 3 22200.0"),
        ({"INPAINT_TRIES": "", "INPAINT_SHARD_TIMEOUT": ""}, "4 21600.0 3 22200.0"),
        ({"INPAINT_TRIES": "2", "INPAINT_SHARD_TIMEOUT": "60"}, "2 60.0 1 660.0"),
    ],
)
def test_tries_and_the_time_limit_are_the_settings_and_airflow_ends_what_outlives_it(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    from inpaint_ops.config import Settings

    program = LIMITS.format(plugins=str(REPOSITORY / "plugins"), dags=str(REPOSITORY / "dags"))
    assert _python(tmp_path, program, **settings).strip().splitlines()[-1] == said
    fields = Settings.model_fields
    assert (fields["tries"].default, fields["shard_timeout"].default) == (4, 21600)


OPERATORS = """
import json, sys
sys.path[:0] = [{plugins!r}, {dags!r}]
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({dags!r})
assert not bag.import_errors, bag.import_errors
for dag in bag.dags.values():
    for task in dag.tasks:
        kinds = [task, getattr(task, "operator_class", task)]
        fields = sorted({{field for kind in kinds for field in kind.template_fields}})
        print(json.dumps([dag.dag_id, task.task_id, fields, task.map_index_template, task.doc_md]))
    print(json.dumps([dag.dag_id, None, [], None, dag.doc_md]))
"""


def test_no_field_of_any_operator_is_a_template(tmp_path: Path) -> None:
    """Airflow renders template fields after it has filled in what earlier tasks returned, names of files included."""
    import json

    program = OPERATORS.format(plugins=str(REPOSITORY / "plugins"), dags=str(REPOSITORY / "dags"))
    found = [json.loads(line) for line in _python(tmp_path, program).splitlines() if line.startswith("[")]
    assert {name for _, name, *_ in found} >= {"plan", "inpaint", "report", "claim", "trigger", "fetch", "store"}
    for dag, name, fields, map_index_template, doc in found:
        assert fields == [], f"{dag}.{name}: {fields} would be rendered: take the task from inpaint_ops_operators"
        assert map_index_template in (None, "{{ shard_label }}", "{{ run_label }}"), f"{dag}.{name}"
        assert "{" not in (doc or ""), f"{dag}.{name}: its doc_md holds a template"
