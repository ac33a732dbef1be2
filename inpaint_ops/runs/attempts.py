"""What the attempts of a run left in the store, read back: reports, stop reasons, recovered faults."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from inpaint_ops.errors import one_line
from inpaint_ops.layout import PROFILE_SUFFIX, SHARD_NAME, RunLayout, retry_of
from inpaint_ops.locations import Location
from inpaint_ops.records import AttemptFaults, ErrorInfo, Fault, Model, ShardProgress, WorkerReport
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import NOTE_BYTES, WORKER_REPORT_BYTES, Leftovers, listed, read_each, smallest_first

_NAME = re.compile(rf"({SHARD_NAME})(?:-[A-Za-z0-9._-]{{1,80}})?\.json")
_TOTAL_BYTES = 128 * 2**20
"""What all notes of a kind may have together; those of a thousand shards have one or two million."""

M = TypeVar("M", bound=Model)


def notes_of(
    infos: Iterable[ObjectInfo], prefix: Location, shards: Collection[str], left: Leftovers
) -> Iterator[tuple[str, ObjectInfo]]:
    """The objects that are named like a note of one of the shards, by that name without its ending.

    Notes of retries are passed over silently where their shards are not asked for.
    """
    for info in infos:
        if info.location.key.endswith(PROFILE_SUFFIX):
            continue
        name = _NAME.fullmatch(info.location.key.removeprefix(prefix.key))
        if name is not None and name[1] not in shards and retry_of(name[1]):
            continue
        if name is None or name[1] not in shards:
            left.add(f"{info.location} is no note of a shard of this run: it was left out.")
        else:
            yield info.location.name.removesuffix(".json"), info


def read_notes(
    storage: Storage, prefix: Location, kind: type[M], shards: Collection[str], left: Leftovers, *,
    max_bytes: int = NOTE_BYTES,
) -> dict[str, M]:  # fmt: skip
    """Every note below the prefix by its name without ending, the oldest first; what is none is left out.

    A damaged note must not keep the run's report from being written. Raises StorageError.
    """
    infos = [info for _, info in notes_of(listed(storage, prefix, left), prefix, shards, left)]
    oldest_first = sorted(smallest_first(infos, _TOTAL_BYTES, left), key=lambda info: info.modified)
    found = read_each(storage, oldest_first, kind, left, max_bytes=max_bytes)
    return {info.location.name.removesuffix(".json"): note for info, note in found}


def read_workers(storage: Storage, layout: RunLayout, shards: Collection[str], left: Leftovers) -> list[WorkerReport]:
    """The reports of the run's workers, the first to start first. Raises StorageError."""
    notes = read_notes(storage, layout.workers, WorkerReport, shards, left, max_bytes=WORKER_REPORT_BYTES)
    return sorted(notes.values(), key=lambda report: report.worker.started_at)


def recovered_faults(storage: Storage, layout: RunLayout, shards: Collection[str], left: Leftovers) -> Iterator[Fault]:
    """The faults that the attempts themselves have counted, the oldest first."""
    for note in read_notes(storage, layout.faults, AttemptFaults, shards, left).values():
        for fault in note.faults:
            yield fault.model_copy(update={"what": one_line(fault.what)[:500]})


def stopped(stops: Mapping[str, ErrorInfo], unfinished: Iterable[str]) -> Iterator[Fault]:
    """The attempts that stopped and whose shard another one finished; the others are among the run's reasons."""
    lost = set(unfinished)
    for attempt, error in stops.items():
        shard = attempt.partition("-")[0]
        if shard not in lost:
            yield Fault(kind="try_stopped", count=1, what=f"shard {shard}: {describe(error)}"[:500])


def describe(error: ErrorInfo) -> str:
    """An error as one line."""
    return one_line(f"{error.type}: {error.message}")


def why_unfinished(shard: str, stops: Mapping[str, ErrorInfo], progress: ShardProgress | None) -> str:
    """What became of a shard that has rows without a record: why the last attempt stopped, or that it left no reason.

    `stops` are the notes of all attempts, the oldest first, and `progress` is the shard's last.
    """
    error = next((stops[attempt] for attempt in reversed(list(stops)) if attempt.startswith(f"{shard}-")), None)
    if progress is not None and not progress.is_over:
        phase = one_line(progress.phase)[:200]
        return (
            f"its last attempt never reported its end: it was killed at '{phase}', or its machine was lost (last "
            f"heard of {progress.updated_at:%Y-%m-%d %H:%M:%S} UTC)"
        )
    if error is not None and (progress is None or progress.phase == "stopped"):
        return describe(error)
    return (
        "no task has started it"
        if progress is None
        else f"its last attempt has {progress.phase}, and records are missing"
    )
