"""What of the DAGs in a folder could be rendered by Jinja: `python -m tests.support.dag_templates FOLDER` lists it.

Airflow renders an operator's template fields after it has filled in what earlier tasks returned, so it does not help to
look at the values: no operator may have such a field, and the few templates that there are must be the DAG file's own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

CALLBACKS = ("on_execute_callback", "on_failure_callback", "on_success_callback", "on_retry_callback",
             "on_skipped_callback")  # fmt: skip
DOCS = ("doc", "doc_md", "doc_json", "doc_yaml", "doc_rst")
LINKS = {"ResultsLink", "ReportLink", "WorkerLogLink", "TriggeredRunLink", "TriggerDagRunLink"}
"""They make a path of ids, quoted: `test_links_are_paths_whatever_the_ids_hold`."""


def findings(dag: Any) -> Iterator[str]:
    """One line for each thing of a DAG that Jinja would render, or might."""
    for task in dag.tasks:
        yield from (f"{dag.dag_id}.{task.task_id}: {found}" for found in _of_task(task))
    yield from (f"{dag.dag_id}: {found}" for found in _of_dag(dag))


def _of_task(task: Any) -> Iterator[str]:
    options = getattr(task, "partial_kwargs", {})
    fields = {*task.template_fields, *getattr(task, "operator_class", task).template_fields}
    if fields:
        yield f"{sorted(fields)} would be rendered: take the task from inpaint_ops_airflow.operators"
    label = task.map_index_template
    if label is not None and not re.fullmatch(r"\{\{ (shard|run)_label \}\}", label):
        yield f"map_index_template {label!r} is more than a label that the task itself sets"
    for name in DOCS:
        if "{" in str(options.get(name, getattr(task, name, None)) or ""):
            yield f"{name} holds a template"
    for name in CALLBACKS:
        for callback in _listed(options.get(name, getattr(task, name, None))):
            if getattr(callback, "template_fields", ()):
                yield f"{name} is a notifier that renders {callback.template_fields}"
    if options.get("email", getattr(task, "email", None)):
        yield "its e-mails are templates"
    if options.get("render_template_as_native_obj", getattr(task, "render_template_as_native_obj", None)):
        yield "its templates would run outside of the sandbox"
    for link in task.operator_extra_links:
        if type(link).__name__ not in LINKS:
            yield f"the link {type(link).__name__} is not known to quote what it is given"


def _of_dag(dag: Any) -> Iterator[str]:
    if dag.render_template_as_native_obj:
        yield "its templates would run outside of the sandbox"
    for name in ("user_defined_macros", "user_defined_filters", "template_searchpath", "jinja_environment_kwargs"):
        if getattr(dag, name):
            yield f"{name} is set"
    if "{" in (dag.doc_md or ""):
        yield "doc_md holds a template"
    for name, value in dag.params.dump().items():
        if isinstance(value, str) and "{" in value:
            yield f"the default of the parameter {name} holds a template"
    for callback in (*_listed(dag.on_success_callback), *_listed(dag.on_failure_callback)):
        if getattr(callback, "template_fields", ()):
            yield f"a callback is a notifier that renders {callback.template_fields}"
    for alert in _listed(dag.deadline):
        if alert.callback.kwargs:
            yield f"the deadline's callback is given {sorted(alert.callback.kwargs)}"


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple, set)) else [value]


def main(folder: str) -> None:
    """Print `dag.task` of everything that was looked at, then the findings."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(folder)
    assert not bag.import_errors, bag.import_errors
    for dag in bag.dags.values():
        for task in dag.tasks:
            print(f"looked at {dag.dag_id}.{task.task_id}")
        for found in findings(dag):
            print(f"found {found}")


if __name__ == "__main__":
    main(sys.argv[1])
