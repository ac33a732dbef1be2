"""Where the records of a run are read from: its compacted results once it is finished, the single records before."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np

from inpaint_ops.browse.table import RecordTable, timings_bytes
from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.layout import REJECTED, RunLayout
from inpaint_ops.planning import Plan
from inpaint_ops.records import Record
from inpaint_ops.run_files.counted import why_not
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, listed, parse_model

_FIRST_CHUNK = 256 * 2**10
_CHUNK = 8 * 2**20
"""Bytes of results that are read at once: few for the first page, more for the following ones."""

RESULTS_BYTES = 512 * 2**20
"""The most that is read of `results.jsonl`: a search of prompts needs all of it in memory."""

LIVE_BYTES = 256 * 2**20
"""The most that is kept of the records of an unfinished run."""

_READERS = 16
_NEWLINE = ord("\n")


class Records(Protocol):
    """A run's records: columns for all of them, and each in full by its position."""

    @property
    def table(self) -> RecordTable:
        """The columns."""

    def record(self, position: int) -> Record:
        """One record in full."""

    def prompts(self) -> Sequence[str]:
        """Every prompt in lower case, by position."""

    def images(self) -> Sequence[str]:
        """The URI of every row's source, by position; empty where it has none."""

    @property
    def unread(self) -> int:
        """Records that exist and are not here yet."""


class FinishedRecords:
    """The records of a finished run: `timings.parquet` for the columns, and `results.jsonl` as far as it is needed.

    Both files hold the records in the same order. Safe to share between threads.
    """

    unread = 0

    def __init__(self, storage: Storage, layout: RunLayout, plan: Plan, settings: Settings, left: Leftovers) -> None:
        self._storage = storage
        self._rows = plan.rows
        self._line_bytes = row_bytes(settings)
        self._left = left
        self._results = layout.results
        self._timings = layout.timings
        self._lock = threading.RLock()
        self._table: RecordTable | None = None
        self._prompts: list[str] | None = None
        self._images: list[str] | None = None
        self._data = bytearray()
        self._size: int | None = None
        self._etag = ""
        self._starts = np.zeros(1, dtype=np.int64)

    @property
    def table(self) -> RecordTable:
        """See Records; empty where the file is missing or damaged. Raises StorageError."""
        with self._lock:
            if self._table is None:
                try:
                    data = self._storage.get(self._timings, max_bytes=timings_bytes(self._rows))
                    self._table = RecordTable.from_parquet(data, max_rows=self._rows)
                except (DamagedObjectError, ObjectTooLargeError, ObjectNotFoundError) as error:
                    self._left.add(
                        f"{self._timings} cannot be read, so no row is shown ({error}): report the run again."
                    )
                    self._table = RecordTable()
            return self._table

    def record(self, position: int) -> Record:
        """See Records. Raises StorageError."""
        what = f"line {position + 1} of {self._results}"
        record = parse_model(self._line(position), Record, what)
        if record.row != int(self.table.rows[position]):
            raise DamagedObjectError(f"{what} is of another row than {self._timings} has there: report the run again")
        return record

    def prompts(self) -> Sequence[str]:
        """See Records. Reads all results, once."""
        with self._lock:
            if self._prompts is None:
                self._prompts = [self._of_line(position, _searchable) for position in range(len(self.table))]
            return self._prompts

    def images(self) -> Sequence[str]:
        """See Records. Reads all results, once."""
        with self._lock:
            if self._images is None:
                self._images = [self._of_line(position, _source) for position in range(len(self.table))]
            return self._images

    def _of_line(self, position: int, read: Callable[[bytes], str]) -> str:
        try:
            return read(self._line(position))
        except DamagedObjectError as error:
            self._left.add(f"{error}.")
            return ""

    def _line(self, position: int) -> bytes:
        with self._lock:
            while len(self._starts) < position + 2:
                if len(self._data) - self._starts[-1] > self._line_bytes or not self._read_on():
                    raise DamagedObjectError(f"{self._results} has no line {position + 1}: report the run again")
            return bytes(self._data[self._starts[position] : self._starts[position + 1]])

    def _read_on(self) -> bool:
        """Read the next piece; False at the end. A file that was replaced meanwhile raises StorageError."""
        if self._size is None:
            info = self._storage.stat(self._results)
            if info.size > RESULTS_BYTES:
                self._left.add(f"{self._results} is too large for pages: its first {RESULTS_BYTES:,} bytes are shown.")
            self._size, self._etag = min(info.size, RESULTS_BYTES), info.etag
        have = len(self._data)
        if have >= self._size:
            return False
        last = min(have + (_CHUNK if have else _FIRST_CHUNK), self._size) - 1
        piece = self._storage.get(self._results, byte_range=(have, last), max_bytes=_CHUNK, if_match=self._etag)
        self._data += piece
        ends = np.flatnonzero(np.frombuffer(piece, dtype=np.uint8) == _NEWLINE) + have + 1
        self._starts = np.concatenate([self._starts, ends])
        return True


class LiveRecords:
    """The records of an unfinished run: each is read once, as it lands, some more with every `refresh`.

    What is no record of the run is left out. Its id, its image and its digest are the report's to
    check.
    """

    def __init__(self, storage: Storage, layout: RunLayout, plan: Plan, settings: Settings, left: Leftovers) -> None:
        self._storage = storage
        self._layout = layout
        self._numbers: dict[str, Container[int]] = {
            shard.name: range(shard.first_row, shard.last_row + 1) for shard in plan.shards
        } | {REJECTED: frozenset(plan.rejected_rows)}
        self._record_bytes = row_bytes(settings)
        self._left = left
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="browse")
        self._pending: dict[str, tuple[ObjectInfo, Future[bytes]]] = {}
        self._known: set[str] = set()
        self._held = 0
        self._ended: dict[str, int] = {}
        self._bodies: list[bytes] = []
        self._texts: list[str] = []
        self._table = RecordTable()

    @property
    def table(self) -> RecordTable:
        """See Records."""
        return self._table

    @property
    def unread(self) -> int:
        """See Records."""
        return len(self._pending)

    def record(self, position: int) -> Record:
        """See Records."""
        return Record.model_validate_json(self._bodies[position])

    def prompts(self) -> Sequence[str]:
        """See Records."""
        return self._texts

    def images(self) -> Sequence[str]:
        """See Records."""
        return [_source(body) for body in self._bodies]

    def refresh(self, ended: dict[str, int], *, seconds: float) -> None:
        """Look for new records in the shards whose count moved (`ended`: rows by shard), and read for `seconds`."""
        with self._lock:
            for shard, count in ended.items():
                if count and self._ended.get(shard) != count:
                    found = list(self._listed(shard))
                    self._ask(found)
                    if len(found) >= count:
                        self._ended[shard] = count
            if self._pending:
                done, _ = wait([future for _, future in self._pending.values()], timeout=seconds)
                self._take(done)

    def _listed(self, shard: str) -> Iterator[ObjectInfo]:
        for info in listed(self._storage, self._layout.shard_records(shard), self._left):
            place = self._layout.shard_and_row(info.location)
            if place is None or place[0] != shard or place[1] not in self._numbers.get(shard, ()):
                self._left.add(f"{info.location} is no record of a row of that shard: it was left out.")
            else:
                yield info

    def _ask(self, infos: Sequence[ObjectInfo]) -> None:
        for info in infos:
            key = info.location.key
            if key in self._known:
                continue
            self._known.add(key)
            if info.size > self._record_bytes or self._held + info.size > LIVE_BYTES:
                self._left.add(f"{info.location} was left out: it has {info.size:,} bytes, and there is a limit.")
                continue
            self._held += info.size
            self._pending[key] = info, self._pool.submit(self._storage.get, info.location, max_bytes=self._record_bytes)

    def _take(self, done: set[Future[bytes]]) -> None:
        ready = [(key, info, future) for key, (info, future) in self._pending.items() if future in done]
        found: list[tuple[Record, bytes]] = []
        for key, info, future in ready:
            del self._pending[key]
            try:
                body = future.result()
                found.append((self._parsed(body, info), body))
            except StorageUnavailableError:
                self._known.discard(key)  # the next refresh reads it again
                self._held -= info.size
                self._ended.clear()
            except StorageError as error:
                self._left.add(f"{error}: it was left out.")
        if found:
            found.sort(key=lambda pair: _order(pair[0]))
            self._bodies = self._bodies + [body for _, body in found]
            self._texts = self._texts + [_searchable(body) for _, body in found]
            self._table = self._table + RecordTable.of(record for record, _ in found)

    def _parsed(self, body: bytes, info: ObjectInfo) -> Record:
        record = parse_model(body, Record, info.location)
        shard, number = self._layout.shard_and_row(info.location) or ("", 0)
        if why := why_not(record, shard=shard, number=number, row=None, layout=None):
            raise DamagedObjectError(f"{info.location} does not count: {why}")
        return record

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _order(record: Record) -> tuple[Any, ...]:
    """The order in which a table holds records."""
    return (record.row, record.finished_at, record.attempt)


def _source(body: bytes) -> str:
    """The source's URI; nothing where there is none, or the line is damaged."""
    try:
        found = json.loads(body)["source"]
        return found if isinstance(found, str) else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _searchable(body: bytes) -> str:
    """The prompt, the id and what `extra` holds; nothing where the line is damaged."""
    try:
        found = json.loads(body)
        extra = json.dumps(found["extra"], ensure_ascii=False) if found.get("extra") else ""
        return f"{found['prompt']}\n{found['id']}\n{extra}".lower()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


class Throttle:
    """True at most once in `seconds`, whoever asks."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = 0.0

    def due(self) -> bool:
        """Whether it is time again."""
        moment = time.monotonic()
        if moment < self._due:
            return False
        self._due = moment + self._seconds
        return True
