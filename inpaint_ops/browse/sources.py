"""Where the records of a run are read from: its compacted results once it is finished, its records while it goes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np

from inpaint_ops.browse.table import RecordTable
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.records import Record
from inpaint_ops.storage import Storage

_FIRST_CHUNK = 256 * 2**10
_CHUNK = 8 * 2**20
"""Bytes of results that are read at once: few for the first page, more for whoever goes on."""

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

    @property
    def unread(self) -> int:
        """Records that exist and are not here yet."""


class FinishedRecords:
    """The records of a finished run: `timings.parquet` for the columns, and `results.jsonl` as far as it is asked for.

    Both files hold the records in the same order. Safe to share between threads.
    """

    unread = 0

    def __init__(self, storage: Storage, layout: RunLayout) -> None:
        self._storage = storage
        self._results = layout.results
        self._timings = layout.timings
        self._lock = threading.RLock()
        self._table: RecordTable | None = None
        self._prompts: list[str] | None = None
        self._data = bytearray()
        self._size: int | None = None
        self._etag = ""
        self._starts = np.zeros(1, dtype=np.int64)

    @property
    def table(self) -> RecordTable:
        """See Records. Raises StorageError."""
        with self._lock:
            if self._table is None:
                self._table = RecordTable.from_parquet(self._storage.get(self._timings))
            return self._table

    def record(self, position: int) -> Record:
        """See Records. Raises StorageError, IndexError."""
        return Record.model_validate_json(self._line(position))

    def prompts(self) -> Sequence[str]:
        """See Records. Reads all results, once."""
        with self._lock:
            if self._prompts is None:
                self._prompts = [_searchable(self._line(position)) for position in range(len(self.table))]
            return self._prompts

    def _line(self, position: int) -> bytes:
        with self._lock:
            while len(self._starts) < position + 2:
                if not self._read_on():
                    raise IndexError(f"{self._results} has no line {position + 1}")
            return bytes(self._data[self._starts[position] : self._starts[position + 1]])

    def _read_on(self) -> bool:
        """Read the next piece; False at the end. A file that was replaced meanwhile raises StorageError."""
        if self._size is None:
            info = self._storage.stat(self._results)
            self._size, self._etag = info.size, info.etag
        have = len(self._data)
        if have >= self._size:
            return False
        last = min(have + (_CHUNK if have else _FIRST_CHUNK), self._size) - 1
        piece = self._storage.get(self._results, byte_range=(have, last), if_match=self._etag)
        self._data += piece
        ends = np.flatnonzero(np.frombuffer(piece, dtype=np.uint8) == _NEWLINE) + have + 1
        self._starts = np.concatenate([self._starts, ends])
        return True


class LiveRecords:
    """The records of a run that goes on: each is read once, as it lands, some more with every `refresh`."""

    def __init__(self, storage: Storage, layout: RunLayout) -> None:
        self._storage = storage
        self._layout = layout
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="browse")
        self._pending: dict[str, Future[bytes]] = {}
        self._known: set[str] = set()
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

    def refresh(self, ended: dict[str, int], *, seconds: float) -> None:
        """Look for new records in the shards whose count moved (`ended`: rows by shard), and read for `seconds`."""
        with self._lock:
            for shard, count in ended.items():
                if count and self._ended.get(shard) != count:
                    found = [info.location for info in self._storage.list(self._layout.shard_records(shard))]
                    self._ask(found)
                    if len(found) >= count:
                        self._ended[shard] = count
            if self._pending:
                done, _ = wait(self._pending.values(), timeout=seconds)
                self._take(done)

    def _ask(self, locations: Sequence[Location]) -> None:
        for location in locations:
            if location.key not in self._known:
                self._known.add(location.key)
                self._pending[location.key] = self._pool.submit(self._storage.get, location)

    def _take(self, done: set[Future[bytes]]) -> None:
        ready = [key for key, future in self._pending.items() if future in done]
        bodies = []
        for key in ready:
            future = self._pending.pop(key)
            if future.exception() is None:
                bodies.append(future.result())
            else:
                self._known.discard(key)  # the next look asks again
                self._ended.clear()
        if bodies:
            records = sorted(((Record.model_validate_json(body), body) for body in bodies), key=lambda p: _order(p[0]))
            self._bodies = self._bodies + [body for _, body in records]
            self._texts = self._texts + [_searchable(body) for _, body in records]
            self._table = self._table + RecordTable.of(record for record, _ in records)

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _order(record: Record) -> tuple[Any, ...]:
    """The order in which a table holds records."""
    return (record.row, record.finished_at, record.attempt)


def _searchable(body: bytes) -> str:
    found = json.loads(body)
    return f"{found['prompt']}\n{found['id']}".lower()


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
