"""Where each row of a shard is, and which one goes next: pure bookkeeping, without a clock, a thread or any storage.

Every row is in exactly one phase and ends exactly once. Its way:

    WAITING -> DOWNLOADING -> READY -> IN_WORKER -> RECORDING -> RECORDED

A worker that ends sends the rows that were READY or IN_WORKER back to WAITING: it could write to their files. An output
that is refused sends its row back from RECORDING. Any phase may end in LEFT instead (an error that may pass: another
attempt at the shard does the row), and the first three in SKIPPED (another attempt has recorded the row meanwhile).
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MAX_ENDS_ALONE = 2
"""Worker deaths, or lost devices, with one row alone in the worker, before that row is to blame. One is no proof: the
worker may have been killed by someone else, and a broken device fails with any row."""


class RowPhase(StrEnum):
    """Where a row is. The last three are final for this attempt."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    READY = "ready"
    IN_WORKER = "in worker"
    RECORDING = "recording"
    RECORDED = "recorded"
    SKIPPED = "skipped"
    LEFT = "left"


_HELD = (RowPhase.DOWNLOADING, RowPhase.READY, RowPhase.IN_WORKER, RowPhase.RECORDING)
FINAL = frozenset({RowPhase.RECORDED, RowPhase.SKIPPED, RowPhase.LEFT})

_NEXT: dict[RowPhase, frozenset[RowPhase]] = {
    RowPhase.WAITING: frozenset({RowPhase.DOWNLOADING, RowPhase.SKIPPED}),
    RowPhase.DOWNLOADING: frozenset({RowPhase.READY, RowPhase.RECORDING, RowPhase.SKIPPED, RowPhase.LEFT}),
    RowPhase.READY: frozenset({RowPhase.IN_WORKER, RowPhase.SKIPPED, RowPhase.WAITING}),
    RowPhase.IN_WORKER: frozenset({RowPhase.WAITING, RowPhase.RECORDING, RowPhase.LEFT}),
    RowPhase.RECORDING: frozenset({RowPhase.RECORDED, RowPhase.LEFT, RowPhase.IN_WORKER, RowPhase.WAITING}),
}


@dataclass(slots=True)
class Limits:
    """How much is held at a time. The supervisor sets them again when the worker has reported its batch size."""

    rows: int
    """Rows whose files are on this machine or on their way to it."""
    bytes: int = sys.maxsize
    """Bytes of their files; one row is always taken."""
    downloads: int = sys.maxsize
    """Rows that are downloaded at a time, so that `bytes` is exceeded by no more than these."""
    batch: int = 1
    """Rows that the worker paints together."""
    in_worker: int = sys.maxsize
    """Rows in the worker; a batch is always taken."""
    pixels_in_worker: int = sys.maxsize
    """Pixels of their sources together; a batch is always taken."""


@dataclass(slots=True)
class BookedRow:
    """One row: its phase, what it takes, and the deaths that count against it."""

    number: int
    phase: RowPhase = RowPhase.WAITING
    bytes: int = 0
    """Of its files on this machine."""
    pixels: int = 0
    group: Hashable = None
    """Rows of one group probably fit one batch."""
    begun: bool = False
    """Its worker has reported that it works on it."""
    stage: str = ""
    """What its worker does with it, as reported last: decode, paint or encode."""
    suspect: bool = False
    """It was being worked on when a worker ended: it goes on alone, so that the row at fault is found."""
    deaths_alone: int = 0
    """Workers that ended with this row alone in them."""
    devices_lost: set[str] = field(default_factory=set)
    """Devices that failed with this row alone in their workers."""

    @property
    def is_to_blame(self) -> bool:
        """Whether two workers, or two different devices, ended with this row alone in them."""
        return max(self.deaths_alone, len(self.devices_lost)) >= MAX_ENDS_ALONE


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """What a worker's end means for the rows that were in it."""

    suspects: tuple[int, ...]
    """Rows that it was working on; they go on one by one, before all others."""
    blamed: int | None
    """The one row that is to blame: it is now RECORDING, as failed."""
    again: tuple[int, ...]
    """Rows whose files must come anew."""


class RowBook:
    """The rows of one attempt of a shard. Not thread-safe: the supervisor's loop alone uses it.

    Rows go to the worker a batch at a time, those of one group together. A batch that is not full goes only when no row
    that could fill it is on its way, or when nothing can arrive and the worker paints nothing.
    """

    def __init__(self, numbers: Iterable[int], limits: Limits) -> None:
        self.limits = limits
        self._rows = {number: BookedRow(number) for number in numbers}
        self._dealt: deque[int] = deque()
        """Rows chosen for the worker's next batch; one may have been skipped meanwhile."""
        self._suspects: set[int] = set()
        self._held_bytes = 0
        self._members: dict[RowPhase, dict[int, None]] = {phase: {} for phase in RowPhase}
        self._members[RowPhase.WAITING] = dict.fromkeys(self._rows)
        self.fruitless_workers = 0
        """Consecutive workers that ended without finishing any row."""

    # -- where rows are -----------------------------------------------------------------------------------------

    def __getitem__(self, number: int) -> BookedRow:
        """The row of this number. Raises KeyError where the attempt does not have it."""
        return self._rows[number]

    def __contains__(self, number: object) -> bool:
        return number in self._rows

    def in_phase(self, phase: RowPhase) -> Collection[int]:
        """The rows in `phase`, in the order in which they go on."""
        return self._members[phase].keys()

    def open_rows(self) -> Iterator[int]:
        """The rows that have not ended."""
        return (row.number for row in self._rows.values() if row.phase not in FINAL)

    @property
    def open_count(self) -> int:
        """How many rows have not ended."""
        return len(self._rows) - sum(len(self._members[phase]) for phase in FINAL)

    @property
    def held(self) -> int:
        """How many rows have files on this machine, or on their way to it."""
        return sum(len(self._members[phase]) for phase in _HELD)

    @property
    def has_work(self) -> bool:
        """Whether a worker is still needed: a row waits, downloads, is ready or is in one."""
        phases = (RowPhase.WAITING, RowPhase.DOWNLOADING, RowPhase.READY, RowPhase.IN_WORKER)
        return any(self._members[phase] for phase in phases)

    @property
    def should_flush(self) -> bool:
        """Whether the worker should paint a batch that is not full: it gets no further row before it has done so.

        To be asked once `next_for_worker` has nothing more.
        """
        ready, inside = self._members[RowPhase.READY], self._members[RowPhase.IN_WORKER]
        if self._has_suspect(RowPhase.IN_WORKER) or self._next_suspect() is not None:
            return True
        if not ready and self._is_tail:
            return True
        return not self._is_painting and (
            len(inside) >= self.limits.in_worker or not self._more_can_come or self._is_tail
        )

    @property
    def _is_tail(self) -> bool:
        """Whether no row is on its way to this machine, and none waits for it."""
        return not (self._members[RowPhase.WAITING] or self._members[RowPhase.DOWNLOADING])

    @property
    def _more_can_come(self) -> bool:
        """Whether a row will arrive before any other row is finished."""
        return bool(self._members[RowPhase.DOWNLOADING]) or (bool(self._members[RowPhase.WAITING]) and self._has_room)

    @property
    def _has_room(self) -> bool:
        limits, held = self.limits, self.held
        return held < limits.rows and (held == 0 or self._held_bytes < limits.bytes)

    @property
    def _is_painting(self) -> bool:
        return any(row.stage == "paint" for row in self.in_worker().values())

    @property
    def _is_busy(self) -> bool:
        """Whether the worker paints, or has a whole batch to paint, as far as is known here."""
        groups = Counter(row.group for row in self.in_worker().values() if row.stage in ("", "decode"))
        return self._is_painting or max(groups.values(), default=0) >= self.limits.batch

    def in_worker(self) -> dict[int, BookedRow]:
        """The rows in the worker, by number."""
        return {number: self._rows[number] for number in self._members[RowPhase.IN_WORKER]}

    # -- what happens to them -----------------------------------------------------------------------------------

    def next_download(self) -> int | None:
        """Take the next row to download; None where there is no room for one, or none waits."""
        number = next(iter(self._members[RowPhase.WAITING]), None)
        if number is None or not self._has_room or len(self._members[RowPhase.DOWNLOADING]) >= self.limits.downloads:
            return None
        self._move(number, RowPhase.DOWNLOADING)
        return number

    def downloaded(self, number: int, *, size: int = 0, pixels: int = 0, group: Hashable = None) -> None:
        """The row's files are here, of `size` bytes together; its source has `pixels`, as far as is known."""
        self._move(number, RowPhase.READY)
        row = self._rows[number]
        row.bytes, row.pixels, row.group = size, pixels, group
        self._held_bytes += size

    def set_group(self, number: int, group: Hashable) -> None:
        """Rows of one group probably fit one batch."""
        self._rows[number].group = group

    def next_for_worker(self) -> int | None:
        """Take the next row for the worker; None where there is none now.

        A suspect goes in alone, before all others, and stays alone until its output has been accepted.
        """
        ready, inside = self._members[RowPhase.READY], self._members[RowPhase.IN_WORKER]
        if not ready or self._has_suspect(RowPhase.IN_WORKER) or self._has_suspect(RowPhase.RECORDING):
            return None
        if (suspect := self._next_suspect()) is not None:
            if inside or suspect not in ready:
                return None
            self._move(suspect, RowPhase.IN_WORKER)
            return suspect
        if not self._dealt:
            self._dealt.extend(self._next_batch())
        while self._dealt:
            number = self._dealt.popleft()
            if number in ready:
                self._move(number, RowPhase.IN_WORKER)
                return number
        return None

    def _next_suspect(self) -> int | None:
        """The suspect that is next, the one with the most ends alone: it is cleared or to blame before another one may
        end a worker. It may still be on its way; None where none is, or can be.
        """
        phases = {RowPhase.READY, RowPhase.DOWNLOADING} | ({RowPhase.WAITING} if self._has_room else set())
        suspects = [row for row in map(self._rows.__getitem__, self._suspects) if row.phase in phases]
        if not suspects:
            return None
        return min(suspects, key=lambda row: (-max(row.deaths_alone, len(row.devices_lost)), row.number)).number

    def _next_batch(self) -> list[int]:
        """The rows that the worker should get next, all at once; empty where it should wait for others, or is full."""
        groups: dict[Hashable, list[int]] = {}
        for number in self._members[RowPhase.READY]:
            groups.setdefault(self._rows[number].group, []).append(number)
        size = self.limits.batch
        chosen = next((rows[:size] for rows in groups.values() if len(rows) >= size), [])
        if not chosen and (self._is_tail or not (self._more_can_come or self._is_busy)):
            chosen = max(groups.values(), key=len)
        inside = self._members[RowPhase.IN_WORKER]
        pixels = sum(self._rows[number].pixels for number in (*inside, *chosen))
        fits = len(inside) + len(chosen) <= self.limits.in_worker and pixels <= self.limits.pixels_in_worker
        return chosen if fits or not inside else []

    def begun(self, numbers: Iterable[int], stage: str) -> None:
        """The worker begins this stage of these rows; numbers of rows that are not in it are ignored."""
        for number in numbers:
            if number in self._members[RowPhase.IN_WORKER]:
                self._rows[number].begun, self._rows[number].stage = True, stage

    def painted(self, number: int) -> None:
        """The worker has painted the row; whether its output is accepted is found out while it is recorded."""
        self._move(number, RowPhase.RECORDING)

    def failed(self, number: int) -> None:
        """The row ends with an error, by the worker or before it got there; that is now being recorded."""
        self._worker_was_fruitful(number)
        self._move(number, RowPhase.RECORDING)

    def leave(self, number: int) -> None:
        """The row is left to another attempt."""
        self._worker_was_fruitful(number)
        self._move(number, RowPhase.LEFT)

    def recorded(self, number: int, *, done: bool) -> None:
        """The row's record is in the store; `done`: with an image."""
        if done:
            self.fruitless_workers = 0
        self._move(number, RowPhase.RECORDED)

    def refused(self, number: int) -> None:
        """The row's output is refused while its worker runs: the row is in the worker again, which is to be ended."""
        self._move(number, RowPhase.IN_WORKER)

    def refused_later(self, number: int) -> bool:
        """The row's output is refused, and its worker is gone: this counts as an end with this row alone in it.

        Returns whether the row is now to blame: it stays RECORDING then, as failed. Else it goes on, alone and first.
        """
        row = self._rows[number]
        row.deaths_alone += 1
        if row.is_to_blame:
            return True
        row.suspect, row.begun = True, False
        self._suspects.add(row.number)
        self._again((number,))
        return False

    def skip(self, numbers: Iterable[int]) -> list[int]:
        """Another attempt has recorded these rows. Returns those that were READY at the furthest: they end here."""
        before = (RowPhase.WAITING, RowPhase.DOWNLOADING, RowPhase.READY)
        skipped = [number for number in numbers if number in self._rows and self._rows[number].phase in before]
        for number in skipped:
            self._move(number, RowPhase.SKIPPED)
        return skipped

    def worker_ended(self, lost_device: str = "") -> WorkerEnd:
        """The worker is gone; `lost_device` names its device where that is why.

        The rows that it worked on go on one by one, first; others that were in it, or ready for it, go on as before.
        A row that was alone in two workers that ended, or with two devices that failed, is to blame.
        """
        self._dealt.clear()
        inside = list(self.in_worker().values())
        suspects = [row for row in inside if row.begun]
        others = [row.number for row in inside if not row.begun] + list(self._members[RowPhase.READY])
        blamed = suspects[0] if len(suspects) == 1 else None
        if blamed is not None:
            if lost_device:
                blamed.devices_lost.add(lost_device)
            else:
                blamed.deaths_alone += 1
            if not blamed.is_to_blame:
                blamed = None
        numbers = tuple(row.number for row in suspects)
        if blamed is not None:
            self.fruitless_workers = 0
            self._move(blamed.number, RowPhase.RECORDING)
            again = tuple(others)
        else:
            self.fruitless_workers += 1
            for row in suspects:
                row.suspect, row.begun = True, False
                self._suspects.add(row.number)
            again = (*numbers, *others)
        self._again(again)
        return WorkerEnd(numbers, blamed.number if blamed is not None else None, again)

    def _again(self, numbers: Sequence[int]) -> None:
        """Put these before all others that wait."""
        for number in numbers:
            self._move(number, RowPhase.WAITING)
        waiting = self._members[RowPhase.WAITING]
        first = set(numbers)
        later = [number for number in waiting if number not in first]
        self._members[RowPhase.WAITING] = dict.fromkeys([*numbers, *later])

    def _worker_was_fruitful(self, number: int) -> None:
        if self._rows[number].phase is RowPhase.IN_WORKER:
            self.fruitless_workers = 0

    def _has_suspect(self, phase: RowPhase) -> bool:
        return any(self._rows[number].suspect for number in self._members[phase])

    def _move(self, number: int, phase: RowPhase) -> None:
        row = self._rows[number]
        if phase not in _NEXT.get(row.phase, frozenset()):
            raise ValueError(f"row {number} cannot go from {row.phase} to {phase}")
        del self._members[row.phase][number]
        self._members[phase][number] = None
        row.phase = phase
        row.stage = ""
        if phase not in _HELD:
            self._held_bytes -= row.bytes
            row.bytes = 0
