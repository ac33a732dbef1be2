"""What the tries of a run left in the store, read back: records, reports, why they stopped, what they got over."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from inpaint_ops.errors import StorageError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.records import ErrorInfo, Fault, Model, Record, ShardProgress, TryFaults
from inpaint_ops.storage import ObjectInfo, Storage

log = logging.getLogger(__name__)

_READERS = 16
M = TypeVar("M", bound=Model)


def read_all(storage: Storage, prefix: Location, kind: type[M]) -> list[M]:
    """Everything below the prefix, in no promised order. Raises StorageError, for a damaged record too."""
    return [read for read in _read(storage, list(storage.list(prefix)), kind) if read is not None]


def read_notes(storage: Storage, prefix: Location, kind: type[M]) -> dict[str, M]:
    """Every note below the prefix by its name without ending, the oldest first."""
    infos = sorted(storage.list(prefix), key=lambda info: info.modified)
    notes = zip(infos, _read(storage, infos, kind), strict=True)
    return {PurePosixPath(info.location.name).stem: note for info, note in notes if note is not None}


def _read(storage: Storage, infos: Sequence[ObjectInfo], kind: type[M]) -> Iterator[M | None]:
    """The objects in this order. A record that cannot be read is an error; of all else it is None, and a word in the
    log: what only tells of the run must not keep its report from being written.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        for info, body in zip(infos, pool.map(lambda info: storage.get(info.location), infos), strict=True):
            try:
                yield kind.model_validate_json(body)
            except ValidationError as error:
                damaged = f"{info.location} is damaged ({error.error_count()} errors)"
                if kind is Record:
                    raise StorageError(f"{damaged}: delete it, and run its shard again") from None
                log.warning("%s: it is left out", damaged)
                yield None


def got_over(storage: Storage, layout: RunLayout) -> Iterator[Fault]:
    """What the tries themselves have counted, the oldest first."""
    for note in read_notes(storage, layout.faults, TryFaults).values():
        yield from note.faults


def stopped(stops: Mapping[str, ErrorInfo], unfinished: Iterable[str]) -> Iterator[Fault]:
    """The tries that stopped and whose shard was finished by another; the others are among the run's reasons."""
    lost = set(unfinished)
    for attempt, error in stops.items():
        shard = attempt.partition("-")[0]
        if shard not in lost:
            yield Fault(kind="try_stopped", count=1, what=f"shard {shard}: {error.type}: {error.message}"[:500])


def why_unfinished(shard: str, stops: Mapping[str, ErrorInfo], said: ShardProgress | None) -> str:
    """What became of a shard that has rows without a record: the last try's own word, or that it left none.

    `stops` are all tries' notes, the oldest first, and `said` is what the shard said last.
    """
    error = next((stops[attempt] for attempt in reversed(list(stops)) if attempt.startswith(f"{shard}-")), None)
    if said is not None and not said.is_over:
        return (
            f"its last try never said how it ended: it was killed at '{said.phase}', or its machine was lost (last "
            f"heard of {said.updated_at:%Y-%m-%d %H:%M:%S} UTC)"
        )
    if error is not None and (said is None or said.phase == "stopped"):
        return f"{error.type}: {error.message}"
    return "no task has taken it up" if said is None else f"its last try has {said.phase}, and records are missing"
