"""Ask a store whether put-if-absent can be relied on: some ignore the condition and overwrite."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

from inpaint_ops.errors import (
    AccessDeniedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location, parse
from inpaint_ops.storage.guard import Storage

_RACERS = 8


def probe_conditional_put(storage: Storage, prefix: Location | str) -> str | None:
    """Why put-if-absent does not work below `prefix`, or None if it does.

    Puts two small objects under it, in turn and in a race, and removes them. Raises ForbiddenLocationError,
    AccessDeniedError, ObjectNotFoundError (no such bucket) or StorageUnavailableError if that cannot be found out.
    """
    root = prefix if isinstance(prefix, Location) else parse(prefix)
    token = secrets.token_hex(8)
    once, race = root.join(f"probe-{token}-once"), root.join(f"probe-{token}-race")
    storage.check_writable(once)
    try:
        return _probe_once(storage, once, token) or _probe_race(storage, race, token)
    except (AccessDeniedError, ObjectNotFoundError, StorageUnavailableError):
        raise
    except StorageError as error:
        return f"the store refuses a conditional put: {error}"
    finally:
        for location in (once, race):
            with suppress(StorageError):
                storage.delete(location)


def _probe_once(storage: Storage, where: Location, token: str) -> str | None:
    try:
        storage.put(where, f"{token} first".encode(), if_absent=True)
    except ObjectExistsError:
        return "the store refuses a put-if-absent of a new key"
    try:
        storage.put(where, f"{token} second".encode(), if_absent=True)
    except ObjectExistsError:
        return None
    return "the store ignores If-None-Match and overwrites: two workers could both claim a row"


def _probe_race(storage: Storage, where: Location, token: str) -> str | None:
    start = Barrier(_RACERS)

    def contend(racer: int) -> bytes | None:
        body = f"{token} racer {racer}".encode()
        start.wait()
        try:
            storage.put(where, body, if_absent=True)
        except ObjectExistsError:
            return None
        return body

    with ThreadPoolExecutor(_RACERS) as pool:
        winners = [body for body in pool.map(contend, range(_RACERS)) if body is not None]
    if len(winners) != 1:
        return f"{len(winners)} of {_RACERS} racing put-if-absents won: the store does not make them atomic"
    if storage.get(where) != winners[0]:
        return "the winner of a race of put-if-absents was overwritten"
    return None
