"""The plans of a run's retries, read back."""

from __future__ import annotations

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from inpaint_ops.layout import MAX_RETRIES, RunLayout
from inpaint_ops.planning import RetryPlan
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
