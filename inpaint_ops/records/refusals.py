"""Why a job was refused before anything of it was planned."""

from __future__ import annotations

from pydantic import Field

from inpaint_ops.records.base import Model, Moment


class Refusal(Model):
    """A job that was not planned: the error, and what a person does about it."""

    run: str = Field(max_length=400, description="The run's name, as it was asked for.")
    manifest: str = Field(default="", max_length=4000, description="The manifest, as it was asked for.")
    type: str = Field(max_length=200, description="The error's class.")
    message: str = Field(max_length=4000, description="What is wrong, on one line.")
    cure: str = Field(max_length=1000, description="What to do before the job is asked for again.")
    permanent: bool = Field(description="Whether another attempt would end in the same way.")
    request: str = Field(default="", max_length=1000, description="What asked for it: the id of Airflow's DAG run.")
    refused_at: Moment
