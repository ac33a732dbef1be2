"""Tasks that render nothing: text from users never reaches Jinja.

Airflow renders the template fields of an operator *after* it has filled in what an earlier task returned, nested
lists and dicts included: the name of a file, with braces in it, would run as a template that can read every connection
(CWE-1336). The fields of these operators are not templated. The DAGs take all their tasks from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

from airflow.providers.standard.decorators.python import _PythonDecoratedOperator
from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.bases.decorator import TaskDecorator, task_decorator_factory

from inpaint_ops_airflow.links import LINKS, TriggeredRunLink


class PlainOperator(_PythonDecoratedOperator):
    """A TaskFlow task whose arguments are passed as they are.

    Airflow resolves references to other tasks' results while it renders, so here they work only by `expand`; elsewhere
    pull them inside the function. An argument that would not be resolved is refused when the DAG is parsed.
    """

    template_fields: Sequence[str] = ()
    template_fields_renderers: ClassVar[dict[str, str]] = {}

    def __init__(self, *, op_args: Any = None, op_kwargs: Any = None, **options: Any) -> None:
        super().__init__(op_args=op_args, op_kwargs=op_kwargs, **options)
        if any(True for _ in XComArg.iter_xcom_references([*(op_args or ()), *(op_kwargs or {}).values()])):
            raise TypeError(f"{self.task_id}: arguments are not resolved: pull another task's result in the function")


class PaintingOperator(PlainOperator):
    """The same, with links to the run's results and report."""

    operator_extra_links = LINKS


plain_task = cast("TaskDecorator", partial(task_decorator_factory, decorated_operator_class=PlainOperator))
"""Airflow's `@task`, as a PlainOperator."""

painting_task = cast("TaskDecorator", partial(task_decorator_factory, decorated_operator_class=PaintingOperator))
"""Airflow's `@task`, as a PaintingOperator."""


class PlainTrigger(BaseOperator):
    """Triggers a DAG run with exactly the configuration that it is given; one that exists already skips the task.

    Airflow's own operator for this imports its database models: 200 modules, each time that a DAG file with it is
    parsed, and so at the start of every task. The exception that does the work is the same. What is lost is the arrow
    between the two DAGs in Airflow's view of dependencies, which looks for that operator's class.

    `claim` is the mark of the claim that it acts upon, for callbacks; it sets `{{ run_label }}` for the map index.
    """

    template_fields: Sequence[str] = ()
    template_fields_renderers: ClassVar[dict[str, str]] = {}
    operator_extra_links = (TriggeredRunLink(),)

    def __init__(
        self,
        *,
        trigger_dag_id: str,
        trigger_run_id: str,
        conf: dict[str, Any],
        claim: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.trigger_dag_id = trigger_dag_id
        self.trigger_run_id = trigger_run_id
        self.conf = conf
        self.claim = claim

    def execute(self, context: Any) -> None:
        """Ends by the exception that has Airflow trigger the run."""
        from airflow.sdk.exceptions import DagRunTriggerException

        context["run_label"] = self.conf.get("run", "")
        raise DagRunTriggerException(
            trigger_dag_id=self.trigger_dag_id,
            dag_run_id=self.trigger_run_id,
            conf=self.conf,
            logical_date=None,
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=[],
            failed_states=[],
            poke_interval=60,
            deferrable=False,
        )
