"""The rows of a run with their records that count, one row after another: none is kept, so a run may have a million.

The shards of the run and of its retries are read side by side, in the order of the manifest. What is kept of a row is
numbers (see `inventory`), and the mark of its id.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import cast

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    AccessDeniedError,
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from inpaint_ops.layout import REJECTED, RunLayout
from inpaint_ops.planning import JobOptions, Plan, PlannedRow, RetryPlan, Shard
from inpaint_ops.records import Record
from inpaint_ops.run_files.compacted import KeptRecord, read_shard_compacted
from inpaint_ops.run_files.counted import place_of, why_not
from inpaint_ops.run_files.frozen import read_shard, row_bytes
from inpaint_ops.run_files.inventory import Inventory, SeenMarks, text_mark
from inpaint_ops.run_files.plain_shards import COMPACTED_AT_ONCE, CountedRow, Found, PlainShard, SummedUp
from inpaint_ops.run_files.record_sizes import allowed_bytes, are_affordable
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, parse_model, read_each

log = logging.getLogger(__name__)

_AT_ONCE = 1000
"""Rows whose records are looked at together where each is read by itself."""

_SLACK = 64 * 2**20
_NO_MOMENT = datetime.fromtimestamp(0, UTC)


_ORDER = attrgetter("number", "retry")

ReadPlain = Callable[[Inventory, Sequence[int]], Iterator[PlainShard | None]]
"""Reads a run's own shards by the listings, in their order; the rows given, in order, are not summed up. None stands
for a shard that is to be read here.
"""


class CountedRows:
    """Reads a run's rows and records once, in the order of the manifest. What does not count gets a line each.

    Asks for a listing of the records, of the compacted ones and of the images; for each shard's rows and compacted
    records; and for each single record that the compacted ones do not have as it stands. Images are not read:
    `swapped` names the records, by row and retry, whose images were found to be others. Where an `inventory` is given,
    nothing is listed; with `shards`, only the rows of these of the run's own shards come, and no retry's records.

    `rows_read` and `unreadable` are known once the rows were gone through: by shard of the run, how many frozen rows it
    has, and why they cannot be read.
    """

    def __init__(
        self,
        storage: Storage,
        layout: RunLayout,
        plan: Plan,
        retries: Sequence[RetryPlan],
        settings: Settings,
        left: Leftovers,
        *,
        swapped: Collection[tuple[int, int]] = frozenset(),
        inventory: Inventory | None = None,
        shards: Sequence[Shard] | None = None,
    ) -> None:
        self.rows_read: dict[str, int] = {}
        self.unreadable: dict[str, str] = {}
        self._storage, self._layout, self._plan, self._retries = storage, layout, plan, retries
        self._settings, self._left, self._swapped = settings, left, swapped
        self._inventory, self._shards = inventory, shards
        self._record_bytes = row_bytes(settings)
        self._slack = _SLACK
        self._refused: AccessDeniedError | None = None
        self._read_any = False
        self._alone: set[int] | None = None

    def __iter__(self) -> Iterator[CountedRow]:
        """The rows by line, those without a record too. Raises StorageError."""
        return (part for part in self.parts() if isinstance(part, CountedRow))

    def parts(self, plain: ReadPlain | None = None) -> Iterator[CountedRow | SummedUp]:
        """The same, where `plain` may read shards elsewhere: of those, rows that follow each other come summed up."""
        asked = self._storage, self._layout, self._plan, self._retries, self._left
        inventory = self._inventory or Inventory.of(*asked)
        self._records = dict(inventory.records) if self._inventory else inventory.records  # emptied as the rows go by
        self._compacted, self._images = inventory.compacted, inventory.images
        shards = self._plan.shards if self._shards is None else self._shards
        if plain is None:
            read: Iterator[PlainShard | None] = itertools.repeat(None)
        else:
            self._alone = {*self._plan.rejected_rows, *self._retried_rows()}
            read = plain(inventory, sorted(self._alone))
        streams = [self._own(shards, read), self._rejected(), *map(self._retried, self._retries)]
        if self._shards is not None:
            streams = streams[:1]
        for number, found in itertools.groupby(heapq.merge(*streams, key=_ORDER), key=attrgetter("number")):
            some = list(found)
            if isinstance(some[0], SummedUp):
                yield some[0]
            elif (row := self._merged(number, cast("list[Found]", some))) is not None:
                yield row
        if self._refused is not None and not self._read_any:
            raise self._refused

    def _merged(self, number: int, found: list[Found]) -> CountedRow | None:
        """One row of the manifest, of what each shard has of it; None for one that the run has not."""
        if len(found) == 1 and not found[0].retry:  # as most rows are
            one = found[0]
            return CountedRow(number, one.shard, one.row, () if one.record is None else ((one.shard, one.record),))
        own = [one for one in found if not one.retry]
        ids = {one.row.id if one.row else None for one in own}
        counted = []
        for one in found:
            if one.retry and not (None in ids or (one.row and one.row.id in ids)):
                self._left.add(
                    f"shard {one.shard} of retry {one.retry} holds rows that the run has not: they were left out."
                )
                if one.record is not None:
                    self._is_of_no_row(one.shard, number)
            else:
                counted.append(one)
        if not counted:
            return None
        return CountedRow(
            number,
            own[-1].shard,
            next((one.row for one in reversed(counted) if one.row is not None), None),
            tuple((one.shard, one.record) for one in counted if one.record is not None),
        )

    def _own(self, shards: Sequence[Shard], plain: Iterator[PlainShard | None]) -> Iterator[Found | SummedUp]:
        """The run's own rows. Of rows that share an id the first counts: an image has one row."""
        ids = SeenMarks()
        for shard, found in zip(shards, plain, strict=False):
            if found is not None and self._stands(shard.name, found, ids):
                yield from found.read
                continue
            rows: list[PlannedRow] = []
            try:
                rows = self._frozen(shard, self._plan.job, self._left)
            except (ObjectNotFoundError, ObjectTooLargeError, DamagedObjectError) as error:
                self.unreadable[shard.name] = str(error)
                self._left.add(f"shard {shard.name} cannot be read, so none of its records counts: {error}")
            self.rows_read[shard.name] = len(rows)
            marks = [text_mark(row.id.casefold()) for row in rows]
            seen = ids.among(marks)
            for row, mark in zip(rows, marks, strict=True) if seen else ():
                if mark in seen:
                    self._left.add(f"row {row.row} of shard {shard.name} has the id of another row: it was left out.")
            kept = [row for row, mark in zip(rows, marks, strict=True) if mark not in seen]
            ids.add(marks)
            yield from self._with_records(shard.name, 0, [(row.row, row) for row in kept])

    def _stands(self, shard: str, plain: PlainShard, ids: SeenMarks) -> bool:
        """Whether the shard may be taken as it was read elsewhere; then its `ids` are those of rows, and its records
        are done with.
        """
        marks = {text_mark(one.casefold()) for one in plain.ids}
        if ids.among(marks) or any((row, 0) in self._swapped for row in plain.rows if self._swapped):
            return False
        if not plain.stands(self._records[shard].by_row(), self._images):
            return False
        ids.add(marks)
        self._records.pop(shard)
        self.rows_read[shard] = len(plain.ids)
        self._read_any = True
        return True

    def _retried_rows(self) -> Iterator[int]:
        for retry in self._retries:
            for shard in retry.shards:
                with contextlib.suppress(ObjectNotFoundError, ObjectTooLargeError, DamagedObjectError):
                    unsaid = Leftovers()  # `_retried` says it
                    yield from [row.row for row in self._frozen(shard, retry.job, unsaid)]

    def _rejected(self) -> Iterator[Found]:
        return self._with_records(REJECTED, 0, [(number, None) for number in sorted(self._plan.rejected_rows)])

    def _retried(self, retry: RetryPlan) -> Iterator[Found]:
        for shard in retry.shards:
            rows: list[PlannedRow] = []
            try:
                rows = self._frozen(shard, retry.job, self._left)
            except (ObjectNotFoundError, ObjectTooLargeError, DamagedObjectError) as error:
                self._left.add(
                    f"shard {shard.name} of retry {retry.number} cannot be read, so none of its records counts: {error}"
                )
            if self._alone is not None:  # as they were read before
                rows = [row for row in rows if row.row in self._alone]
            yield from self._with_records(shard.name, retry.number, [(row.row, row) for row in rows])

    def _frozen(self, shard: Shard, job: JobOptions, left: Leftovers) -> list[PlannedRow]:
        rows = read_shard(self._storage, self._layout, shard, job, self._settings, left)
        return sorted(rows, key=attrgetter("row"))

    def _with_records(self, shard: str, retry: int, rows: Sequence[tuple[int, PlannedRow | None]]) -> Iterator[Found]:
        listed = self._records.pop(shard).by_row()
        for number in sorted(listed.keys() - dict(rows).keys()):
            self._is_of_no_row(shard, number)
        compacted = self._read_compacted(shard, sum(size for size, _ in listed.values()), len(listed))
        at_once = COMPACTED_AT_ONCE if shard in self._compacted else _AT_ONCE
        for first in range(0, len(rows), at_once):
            some = rows[first : first + at_once]
            records = self._sound(shard, dict(some), listed, compacted)
            for number, row in some:
                yield Found(number, retry, shard, row, records.get(number))

    def _is_of_no_row(self, shard: str, number: int) -> None:
        where = self._layout.record(shard, number)
        self._left.add(f"{where} is the record of no row of that shard: it was left out.")

    def _read_compacted(self, shard: str, total: int, count: int) -> Iterator[tuple[int, KeptRecord]]:
        """The shard's compacted records, by row; none where it has none."""
        if shard not in self._compacted:
            return iter(())
        return read_shard_compacted(
            self._storage, self._layout, shard, records=count, total=total, max_record=self._record_bytes
        )

    def _sound(
        self,
        shard: str,
        rows: dict[int, PlannedRow | None],
        listed: dict[int, tuple[int, int]],
        compacted: Iterator[tuple[int, KeptRecord]],
    ) -> dict[int, Record]:
        """The records of some rows of a shard that count."""
        wanted = self._affordable(shard, rows, listed)
        found: dict[int, Record] = {}
        for number, kept in _up_to(compacted, max(rows)):
            if wanted.get(number) == (len(kept.body), text_mark(kept.etag)) and number not in found:
                where = self._layout.record(shard, number)
                try:
                    record = parse_model(kept.body, Record, where)
                except DamagedObjectError:
                    continue
                if not why_not(record, shard=shard, number=number, row=rows[number], layout=self._layout):
                    found[number] = record
        self._read_any = self._read_any or bool(found)
        for number, record in self._single(shard, [number for number in wanted if number not in found], wanted):
            if why := why_not(record, shard=shard, number=number, row=rows[number], layout=self._layout):
                self._left.add(f"{self._layout.record(shard, number)} does not count: {why}.")
            else:
                found[number] = record
        return self._with_images(found)

    def _affordable(
        self, shard: str, rows: dict[int, PlannedRow | None], listed: dict[int, tuple[int, int]]
    ) -> dict[int, tuple[int, int]]:
        """Those listed records of the rows that are read: large ones, which somebody else may have made, come last, and
        only so many bytes are read for so many rows.
        """
        there = {number: listed[number] for number in rows if number in listed}
        if are_affordable([size for size, _ in there.values()], rows.values()):
            return there
        allowed = allowed_bytes(rows.values())
        kept, total = {}, 0
        for number, (size, etag) in sorted(there.items(), key=lambda item: item[1][0]):
            if total + size > allowed + self._slack:
                self._left.add(
                    f"{self._layout.record(shard, number)} was left out: it and its like have more than "
                    f"{allowed + self._slack:,} bytes together."
                )
            else:
                total += size
                kept[number] = size, etag
        self._slack -= max(0, total - allowed)
        return {number: kept[number] for number in rows if number in kept}

    def _single(
        self, shard: str, numbers: Sequence[int], listed: dict[int, tuple[int, int]]
    ) -> Iterator[tuple[int, Record]]:
        """The records of these rows, each read by itself."""
        if not numbers:
            return
        by_place = {self._layout.record(shard, number): number for number in numbers}
        infos = (ObjectInfo(place, listed[number][0], "", _NO_MOMENT) for place, number in by_place.items())
        try:
            for info, record in read_each(self._storage, infos, Record, self._left, max_bytes=self._record_bytes):
                self._read_any = True
                yield by_place[info.location], record
        except AccessDeniedError as error:
            self._refused = self._refused or error

    def _with_images(self, records: dict[int, Record]) -> dict[int, Record]:
        """Those records less the ones of done rows whose image is not there, or is another."""
        places = [
            (number, place.key, output.bytes)
            for number, record in records.items()
            for variant, output in record.outputs()
            if (place := place_of(output, record.id, variant, self._layout))
        ]
        wrong: dict[int, str] = {}
        for (number, key, stated), size in zip(
            places, self._images.sizes_of([key for _, key, _ in places]), strict=True
        ):
            if size is None:
                wrong.setdefault(number, f"its image {key.rpartition('/')[2]} is not there")
            elif size != stated:
                wrong.setdefault(number, f"its image has {size:,} bytes, and its record says {stated:,}")
        sound = {}
        for number, record in records.items():
            why = wrong.get(number, "")
            if not why and record.output is not None and (number, record.retry) in self._swapped:
                why = "its image is not the one of its record"
            if why:
                self._left.add(f"row {number} does not count as done: {why}.")
            else:
                sound[number] = record
        return sound


def _up_to(compacted: Iterator[tuple[int, KeptRecord]], last: int) -> Iterator[tuple[int, KeptRecord]]:
    """The next ones as far as row `last`. Where that row has none, the one after it is lost: it is read by itself."""
    for number, kept in compacted:
        yield number, kept
        if number >= last:
            return
