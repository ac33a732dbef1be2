"""The retries of a run, read back: their plans, and the rows that each does again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from inpaint_ops.layout import MAX_RETRIES, RunLayout
from inpaint_ops.planning import PlannedRow, RetryPlan
from inpaint_ops.run_files.frozen import read_shard
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import Leftovers, read_model

_PLAN_BYTES = 2**20


def read_retry(storage: Storage, layout: RunLayout, number: int) -> RetryPlan:
    """The plan of one retry. Raises ObjectNotFoundError, DamagedObjectError, ObjectTooLargeError, StorageError."""
    place = layout.retry(number)
    retry = read_model(storage, place, RetryPlan, max_bytes=_PLAN_BYTES)
    if (retry.run, retry.number) != (layout.run, number):
        raise DamagedObjectError(f"{place} is the plan of another retry, {retry.number} of run {retry.run!r}")
    return retry


def read_retries(
    storage: Storage, layout: RunLayout, settings: Settings, left: Leftovers
) -> tuple[list[RetryPlan], int]:
    """The plans of the run's retries in order, and the first number that is free; what is none is left out.

    Asks for each, and once for one that is not there. Raises StorageError.
    """
    found = []
    for number in range(1, MAX_RETRIES + 1):
        try:
            retry = read_retry(storage, layout, number)
            if len(retry.shards) > settings.max_shards:
                raise DamagedObjectError(f"{layout.retry(number)} names more than {settings.max_shards} shards")
            found.append(retry)
        except ObjectNotFoundError:
            return found, number
        except (DamagedObjectError, ObjectTooLargeError) as error:
            left.add(f"{error}: the retry was left out.")
    return found, MAX_RETRIES + 1


def read_retry_rows(
    storage: Storage,
    layout: RunLayout,
    retries: Iterable[RetryPlan],
    ids: Mapping[int, str | None],
    settings: Settings,
    left: Leftovers,
) -> dict[str, Sequence[PlannedRow]]:
    """The rows of every retry's shards by the shard's name; `ids` are those of the run's rows by line, None
    for a rejected one.

    What is no row of the run is left out, and so are all rows of a shard whose file is missing or too large. Raises
    StorageError.
    """
    found: dict[str, Sequence[PlannedRow]] = {}
    for retry in retries:
        for shard in retry.shards:
            try:
                rows = read_shard(storage, layout, shard, retry.job, settings, left)
            except (ObjectNotFoundError, ObjectTooLargeError, DamagedObjectError) as error:
                left.add(
                    f"shard {shard.name} of retry {retry.number} cannot be read, so none of its records counts: {error}"
                )
                rows = []
            found[shard.name] = [row for row in rows if row.row in ids and ids[row.row] in (None, row.id)]
            if len(found[shard.name]) < len(rows):
                left.add(
                    f"shard {shard.name} of retry {retry.number} holds rows that the run has not: they were left out."
                )
    return found
