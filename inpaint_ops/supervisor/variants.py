"""The records of variants: how far a row with several images is, until all have ended and it gets its own record."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from inpaint_ops.errors import DamagedObjectError, ObjectExistsError, StorageError, StorageUnavailableError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.planning import PlannedRow
from inpaint_ops.records import PickedBy, Record, row_record
from inpaint_ops.run_files.counted import check_image, why_not
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, each, listed, parse_model

log = logging.getLogger(__name__)


@dataclass(slots=True)
class VariantRecords:
    """Those of one shard's rows. Threads may share it."""

    storage: Storage
    layout: RunLayout
    shard: str
    rows: Mapping[int, PlannedRow]
    """The shard's frozen rows by line."""
    pick: PickedBy
    record_bytes: int
    """Of one record, at most."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: dict[int, dict[int, Record]] = field(default_factory=dict)
    """By row and variant: the records that count, as far as they are known."""

    def read(self, rows: Collection[int]) -> dict[int, Collection[int]]:
        """The variants of these rows that have ended, by whichever attempt; each row that has any. Raises StorageError.

        What does not count is logged; its variant is painted again, and the new record replaces it.
        """
        left = Leftovers()
        there: list[ObjectInfo] = []
        for info in listed(self.storage, self.layout.shard_variants(self.shard), left):
            place = self.layout.row_and_variant(info.location)
            row = self.rows.get(place[0]) if place else None
            if place is None or row is None or place[1] >= row.parameters.variants:
                left.add(f"{info.location} is the record of no variant of this shard's rows: it was left out.")
            elif place[0] in rows and place[1] not in self._ended.get(place[0], {}):
                there.append(info)
        for _, record in each(there, partial(self._read_one), left):
            self.add(record)
        return {row: tuple(self._ended[row]) for row in rows if row in self._ended}

    def commit(self, record: Record) -> Record:
        """Put the record of a variant if absent: where another attempt has ended the variant, that record stands.

        Returns the row's record, which is to be put, where all variants have ended now; else the variant's.
        """
        body = record.model_dump_json().encode()
        place = self.layout.variant_record(self.shard, record.row, record.variant or 0)
        try:
            self.storage.put(place, body, if_absent=True, content_type="application/json")
        except ObjectExistsError:
            record = self._standing(place, record, body)
        self.add(record)
        return self.complete(record.row) or record

    def add(self, record: Record) -> None:
        """A variant has ended."""
        with self._lock:
            self._ended.setdefault(record.row, {})[record.variant or 0] = record

    def complete(self, row: int) -> Record | None:
        """The row's record, made of its variants'; None while one of them has not ended."""
        with self._lock:
            ended = dict(self._ended.get(row, {}))
        if len(ended) < self.rows[row].parameters.variants:
            return None
        return row_record([ended[variant] for variant in sorted(ended)], self.pick)

    def forget(self, row: int) -> None:
        """The row has its record: those of its variants are needed no more."""
        with self._lock:
            self._ended.pop(row, None)

    def _standing(self, place: Location, record: Record, body: bytes) -> Record:
        """The record that stands there; ours, in its place, where that is none."""
        try:
            return self._judged(place, self.storage.get(place, max_bytes=self.record_bytes))
        except StorageUnavailableError:
            raise
        except StorageError as error:
            log.warning("%s is replaced, for it is no record of that variant: %s", place, error)
        self.storage.put(place, body, content_type="application/json")
        return record

    def _read_one(self, info: ObjectInfo) -> Record:
        return self._judged(info.location, self.storage.get(info.location, max_bytes=self.record_bytes))

    def _judged(self, where: Location, body: bytes) -> Record:
        """The record of these bytes. Raises StorageError unless it counts."""
        record = parse_model(body, Record, where)
        row, variant = self.layout.row_and_variant(where) or (0, 0)
        why = why_not(record, shard=self.shard, number=row, row=self.rows.get(row), layout=self.layout, variant=variant)
        if why:
            raise DamagedObjectError(f"{where} does not count: {why}")
        check_image(self.storage, record, self.layout)
        return record
