"""Ask a store whether put-if-absent can be relied on: some ignore the condition and overwrite."""

from __future__ import annotations

import hashlib
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
from inpaint_ops.storage.s3_errors import CHECKSUM_CURE

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
    finally:
        for location in (once, race):
            with suppress(StorageError):
                storage.delete(location)


def probe_etag(storage: Storage, prefix: Location) -> bool:
    """Whether the ETag of a small object is the MD5 of its bytes. Puts one below `prefix`. Raises StorageError."""
    body = secrets.token_bytes(64)
    where = prefix.join(f"probe-{secrets.token_hex(8)}-etag")
    try:
        return storage.put(where, body).etag.lower() == hashlib.md5(body, usedforsecurity=False).hexdigest()
    finally:
        with suppress(StorageError):
            storage.delete(where)


def _probe_once(storage: Storage, where: Location, token: str) -> str | None:
    body = f"{token} first".encode()
    try:
        storage.put(where, body, if_absent=True)
    except ObjectExistsError:
        return "the store refuses a put-if-absent of a new key"
    except (AccessDeniedError, ObjectNotFoundError, StorageUnavailableError):
        raise
    except StorageError as error:
        return _why_refused(storage, where, body, error)
    if storage.get(where) != body:
        return f"the store keeps different bytes from those sent: it does not decode aws-chunked: {CHECKSUM_CURE}"
    try:
        storage.put(where, f"{token} second".encode(), if_absent=True)
    except ObjectExistsError:
        return None
    return "the store ignores If-None-Match and overwrites: two workers could both claim a row"


def _why_refused(storage: Storage, where: Location, body: bytes, error: StorageError) -> str:
    """Whether the store refuses the condition, or every put."""
    try:
        storage.put(where, body)
    except StorageError as plain:
        return f"the store refuses every put: {plain}"
    return f"the store accepts a plain PUT but refuses a put-if-absent (If-None-Match): {error}"


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
