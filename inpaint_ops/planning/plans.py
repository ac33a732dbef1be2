"""A run's plan, and a retry's: rows cut into shards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field, model_validator

from inpaint_ops.layout import MAX_RETRIES, SHARD_NAME, retry_of, shard_name
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning.options import JobOptions
from inpaint_ops.records import Count, Forecast, Model, Moment


class Shard(Model):
    """The rows that one task instance paints."""

    name: str = Field(pattern=rf"^{SHARD_NAME}$")
    rows: int = Field(ge=1, le=2**31 - 1)
    first_row: int = Field(ge=1, le=2**31 - 1)
    last_row: int = Field(ge=1, le=2**31 - 1)


class Plan(Model):
    """`plan.json`: what was decided before any GPU was used. Put if absent: it owns the run's name."""

    schema_version: Literal[1] = 1
    run: str
    manifest: str
    manifest_sha256: str
    job: JobOptions
    rows: Count
    rejected: Count
    rejected_rows: tuple[Count, ...]
    shards: tuple[Shard, ...]
    shard_basis: str = Field(default="", description="Why a shard has so many rows.")
    forecast: Forecast | None = Field(default=None, description="What the run is expected to take.")
    warnings: tuple[str, ...] = Field(default=(), description="What reading the manifest changed or left out.")
    image_prefixes: tuple[str, ...] = Field(
        default=(), description="What the images' names below `images/` begin with; empty where nobody need know."
    )
    created_at: Moment

    @model_validator(mode="after")
    def _adds_up(self) -> Plan:
        """Shards are what `split_rows` makes, and every row is in one of them or rejected."""
        numbers = [one for shard in self.shards for one in (shard.first_row, shard.last_row)]
        if [shard.name for shard in self.shards] != [shard_name(at) for at in range(len(self.shards))]:
            raise ValueError("shards are numbered from 00000, without a gap")
        if numbers != sorted(numbers) or any(one.rows > 1 + one.last_row - one.first_row for one in self.shards):
            raise ValueError("shards follow each other, and none has more rows than lines")
        rejected = len(set(self.rejected_rows))
        if not rejected == len(self.rejected_rows) == self.rejected:
            raise ValueError("the rejected rows are not as many as the plan says")
        if sum(shard.rows for shard in self.shards) + rejected != self.rows:
            raise ValueError("the shards' rows and the rejected ones are not all rows")
        return self


class RetryPlan(Model):
    """The plan of one retry: which rows of a run are done again. Put if absent: it owns its number."""

    schema_version: Literal[1] = 1
    run: str
    number: int = Field(ge=1, le=MAX_RETRIES)
    asked: str = Field(description="Which rows, as it was asked: `failed`, `rejected`, `unchanged`, ids.")
    request: str = Field(default="", description="What asked, where it may ask again: a DAG run's id.")
    manifest: str
    manifest_sha256: str
    job: JobOptions
    shards: tuple[Shard, ...] = Field(min_length=1)
    image_prefixes: tuple[str, ...] | None = Field(
        default=None, description="Those of its images that none of the plan's covers; None where nobody knows."
    )
    created_at: Moment

    @property
    def rows(self) -> int:
        """How many rows are done again."""
        return sum(shard.rows for shard in self.shards)

    @model_validator(mode="after")
    def _shards_are_its_own(self) -> RetryPlan:
        if any(retry_of(shard.name) != self.number for shard in self.shards):
            raise ValueError("a shard is not of this retry")
        numbers = [one for shard in self.shards for one in (shard.first_row, shard.last_row)]
        if numbers != sorted(numbers):
            raise ValueError("shards follow each other")
        return self


def every_shard(plan: Plan, retries: Iterable[RetryPlan]) -> list[Shard]:
    """The run's own shards, then those of its retries."""
    return [*plan.shards, *(shard for retry in retries for shard in retry.shards)]


def split_rows(
    rows: Sequence[AcceptedRow], *, shard_rows: int, max_shards: int
) -> list[tuple[Shard, Sequence[AcceptedRow]]]:
    """Cut rows into shards of at most `shard_rows`, in order; more where there would be over `max_shards`.

    A shard's rows are a slice of `rows`: of those of a ParsedManifest, none is unpacked before it is looked at.
    """
    size = max(shard_rows, math.ceil(len(rows) / max_shards))
    shards = []
    for index, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        shard = Shard(name=shard_name(index), rows=len(part), first_row=part[0].row, last_row=part[-1].row)
        shards.append((shard, part))
    return shards
