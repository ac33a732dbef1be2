"""The shard's records in one object, written as the last act of an attempt that brought every row to a record."""

from __future__ import annotations

import logging
import threading

from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.layout import RunLayout
from inpaint_ops.run_files.compacted import KeptRecord, compact
from inpaint_ops.run_files.ended import EndedShard, store_ended
from inpaint_ops.storage import Storage

log = logging.getLogger(__name__)

KEPT_BYTES = 64 * 2**20
"""Of the records that an attempt keeps for this; a report reads further ones by themselves."""


class KeptRecords:
    """The records that an attempt has written or read, as the store holds them. Threads may share it."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._lock = threading.Lock()
        self._records: dict[int, KeptRecord] = {}
        self._room = max_bytes
        self._left_out = 0

    def keep(self, row: int, etag: str, body: bytes) -> None:
        """Keep a row's record, in place of one that was kept before."""
        with self._lock:
            before = self._records.pop(row, None)
            self._room += len(before.body) if before else 0
            if len(body) > self._room:
                self._left_out += 1
            else:
                self._room -= len(body)
                self._records[row] = KeptRecord(etag, body)

    def store(self, storage: Storage, layout: RunLayout, shard: str) -> None:
        """Write the shard's compacted records, and what says that it has ended; best effort.

        Without the former a report reads each record by itself; without the latter a run that goes on reads the former.
        """
        with self._lock:
            records, left_out = dict(self._records), self._left_out
        if left_out:
            log.info("%d records of shard %s are not compacted: they are too large together", left_out, shard)
        try:
            storage.put(layout.compacted_shard(shard), compact(records), content_type="application/gzip")
            if not left_out:
                store_ended(storage, layout, shard, EndedShard.of(records, layout))
        except (InpaintOpsError, ValueError) as error:
            log.warning("the records of shard %s could not be compacted: %s", shard, error)
