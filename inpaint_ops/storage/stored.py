"""What lies in the store, read back as foreign bytes: bounded, object by object, a bad one costing itself alone.

Whoever may write to the store may have written any of it. So the size is asked before a byte is read, the content is
checked by its schema, and each object that is left out gets one line: in the log, and in `Leftovers` for the
report.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count, islice
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from inpaint_ops.errors import (
    AccessDeniedError,
    DamagedObjectError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
    one_line,
)
from inpaint_ops.locations import Location
from inpaint_ops.storage import ObjectInfo, Storage

log = logging.getLogger(__name__)

NOTE_BYTES = 64 * 2**10
"""Of a note, at most: a stop, a try's faults, a shard's progress, what a run taught. Ours have a few hundred."""

WORKER_REPORT_BYTES = 2**20
SUMMARY_BYTES = 16 * 2**20
MAX_OBJECTS = 1_000_000
"""Objects of one prefix that are looked at, at most; a run has one per row, and a few per try."""

_READERS = 16
_LISTERS = 8
_NAMED = 20
_REMEMBERED = 10_000
_LINE_CHARS = 300

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
K = TypeVar("K")


class Leftovers:
    """What was left out and why: the first of them in words, the others counted. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._seen: set[str] = set()
        self._more = 0

    def add(self, line: str) -> None:
        """Note one object, and log it while there are few; the same line is not noted twice."""
        with self._lock:
            if line in self._seen:
                return
            if len(self._seen) < _REMEMBERED:
                self._seen.add(line)
            if len(self._lines) >= _NAMED:
                self._more += 1
                return
            text = one_line(line)
            self._lines.append(text if len(text) <= _LINE_CHARS else text[: _LINE_CHARS - 1] + "…")
        log.warning("%s", self._lines[-1])

    def lines(self) -> tuple[str, ...]:
        """A line for each of the first, and one for all others."""
        with self._lock:
            more = (f"{self._more:,} more objects of the store were left out, like those.",) if self._more else ()
            return (*self._lines, *more)


def parse_model(data: bytes, kind: type[M], what: object) -> M:
    """`data` as a `kind`; `what` names it. Raises DamagedObjectError, for NaN and infinity too."""
    try:
        found = kind.model_validate_json(data)
        for name in _open_fields(kind):
            if value := getattr(found, name):
                _check_finite(value)
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        more = f", and {error.error_count() - 1} more errors" if error.error_count() > 1 else ""
        raise DamagedObjectError(f"{what} is damaged ({place + ': ' if place else ''}{first['msg']}{more})") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise DamagedObjectError(f"{what} is damaged ({error})") from None


@cache
def _open_fields(kind: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a model that hold an `Any`, which takes NaN and infinity where the model's numbers do not."""
    return tuple(name for name, field in kind.model_fields.items() if _is_open(field.annotation))


def _is_open(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return bool(_open_fields(annotation))
    return annotation is Any or any(map(_is_open, get_args(annotation)))


def _check_finite(value: Any) -> None:
    """Raise ValueError for NaN and infinity: 1e999 is one to every JSON reader, and a model's `Any` takes it."""
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError("a number is too large, or none")
        if isinstance(one, dict):
            rest.extend(one.values())
        elif isinstance(one, list | tuple):
            rest.extend(one)
        elif isinstance(one, BaseModel):
            rest.extend(vars(one).values())


def read_model(storage: Storage, where: Location, kind: type[M], *, max_bytes: int) -> M:
    """One object. Raises ObjectNotFoundError, ObjectTooLargeError, DamagedObjectError, StorageError."""
    return parse_model(storage.get(where, max_bytes=max_bytes), kind, where)


def listed(
    storage: Storage, prefix: Location, left: Leftovers, *, limit: int = MAX_OBJECTS, direct: bool = False
) -> Iterator[ObjectInfo]:
    """Every object below the prefix, `limit` at most; with `direct`, those alone that lie in no folder below it.

    Raises StorageError.
    """
    yield from _limited(storage.list(prefix, direct=direct), prefix, left, count(1), limit)


def listed_in_parts(
    storage: Storage,
    prefix: Location,
    parts: Iterable[str],
    take: Callable[[Iterator[ObjectInfo]], T],
    left: Leftovers,
    *,
    limit: int = MAX_OBJECTS,
) -> Iterator[T]:
    """What `take` makes of each part of such a listing, in order: the objects whose keys go on with it.

    Several parts are listed at once, in threads that call `take`: a store takes its time for each page. `limit` objects
    at most in all. Raises StorageError.
    """
    numbers = count(1)  # threads may share it: its `next` is one step
    pool = ThreadPoolExecutor(_LISTERS)
    try:
        yield from pool.map(
            lambda part: take(_limited(storage.list(prefix, starting=part), prefix, left, numbers, limit)), parts
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _limited(
    infos: Iterator[ObjectInfo], prefix: Location, left: Leftovers, numbers: Iterator[int], limit: int
) -> Iterator[ObjectInfo]:
    for info, number in zip(infos, numbers, strict=False):
        if number > limit:
            left.add(f"{prefix} holds more than {limit:,} objects: the others were not looked at.")
            return
        yield info


def smallest_first(infos: Iterable[ObjectInfo], max_bytes: int, left: Leftovers) -> list[ObjectInfo]:
    """As many of the objects as have `max_bytes` together: large ones, which somebody else may have made, come last."""
    kept, total = [], 0
    for info in sorted(infos, key=lambda info: info.size):
        total += info.size
        if total > max_bytes:
            left.add(f"{info.location} was left out: it and its like have more than {max_bytes:,} bytes together.")
        else:
            kept.append(info)
    return kept


def read_each(
    storage: Storage, infos: Iterable[ObjectInfo], kind: type[M], left: Leftovers, *, max_bytes: int
) -> Iterator[tuple[ObjectInfo, M]]:
    """Those objects that are a `kind`, in this order; the others are left out, each with a line.

    Raises StorageUnavailableError, since what does not answer now may answer later, and AccessDeniedError where not
    one could be read for that reason.
    """
    yield from each(infos, lambda info: _read(storage, info, kind, max_bytes), left)


def _read(storage: Storage, info: ObjectInfo, kind: type[M], max_bytes: int) -> M:
    if info.size > max_bytes:
        raise ObjectTooLargeError(f"{info.location} is too large: {info.size:,} bytes, and the limit is {max_bytes:,}")
    return read_model(storage, info.location, kind, max_bytes=max_bytes)


def each(infos: Iterable[K], call: Callable[[K], T], left: Leftovers) -> Iterator[tuple[K, T]]:
    """What `call` returns of each object, in this order and some at a time; one for which it raises is left out.

    Raises as `read_each` does.
    """
    refused: AccessDeniedError | None = None
    anything = False
    with ThreadPoolExecutor(_READERS) as pool:
        remaining = iter(infos)
        while some := list(islice(remaining, 64 * _READERS)):  # a pool would take all that there are into its queue
            for info, got in zip(some, pool.map(lambda info: _outcome(call, info), some), strict=True):
                if not isinstance(got, StorageError):
                    anything = True
                    yield info, got
                    continue
                if isinstance(got, AccessDeniedError):
                    refused = refused or got
                left.add(f"{got}: it was left out.")
    if refused is not None and not anything:
        raise refused


def _outcome(call: Callable[[K], T], info: K) -> T | StorageError:
    try:
        return call(info)
    except StorageUnavailableError:
        raise
    except StorageError as error:  # gone meanwhile, damaged, too large, by a key that no plain store has
        return error
