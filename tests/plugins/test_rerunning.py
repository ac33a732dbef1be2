"""What a run of some rows takes from their run: each option of a job is either taken or left out on purpose."""

from __future__ import annotations

from inpaint_ops.planning import JobOptions
from inpaint_ops_airflow.form import PARAMS
from inpaint_ops_airflow.ui.rerunning import _CHOSEN

LEFT_OUT = {
    "loras",  # taken too, in another form
    "prompt", "negative_prompt", "prompt_2", "negative_prompt_2",  # a manifest of rows has them in its rows
    "names", "variants", "pick", "row_limit", "sample",  # of that run alone
    "profile",  # for whoever looks at that run
    "device",  # of the machine
}  # fmt: skip


def test_every_option_of_a_job_is_taken_or_left_out_on_purpose() -> None:
    assert {*_CHOSEN} | LEFT_OUT == {*JobOptions.model_fields}
    assert not {*_CHOSEN} & LEFT_OUT


def test_the_form_takes_what_is_taken() -> None:
    """A DAG run's conf may hold what the form does not show: Airflow gives it to the task all the same."""
    shown_nowhere = {"model_revision"}
    assert {*_CHOSEN} - {*PARAMS} <= shown_nowhere
