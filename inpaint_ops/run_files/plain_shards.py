"""Shards whose compacted records hold all of their rows, as they should: these can be read in another process.

That process gets the bytes of two files and knows nothing of the store. So it says what it took for granted, and
whoever has the listings compares: each record's size and ETag, each image's key and size, and the rows' ids. Where
anything is otherwise, the shard is read again row by row, by `rows`, which says what is wrong.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.layout import RunLayout
from inpaint_ops.planning import JobOptions, PlannedRow, Shard
from inpaint_ops.records import Record
from inpaint_ops.run_files.compacted import CompactedShard
from inpaint_ops.run_files.counted import place_of, why_not
from inpaint_ops.run_files.frozen import shard_rows
from inpaint_ops.run_files.inventory import ListedImages, text_mark
from inpaint_ops.run_files.record_sizes import are_affordable
from inpaint_ops.storage.stored import Leftovers, parse_model

COMPACTED_AT_ONCE = 32
"""Rows whose compacted records are looked at together: what is freed is used again while it is in the processor's
cache."""


@dataclass(frozen=True, slots=True)
class CountedRow:
    """A row of the manifest, and its records that count, the oldest first, each with the shard that it is of."""

    number: int
    shard: str
    """The run's own shard that the row is in; `REJECTED` for a rejected row."""
    row: PlannedRow | None
    """As it was tried last; None for a rejected row that was never tried again."""
    records: tuple[tuple[str, Record], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A row in one shard of the run or of a retry, and its record there, if it counts."""

    number: int
    retry: int
    shard: str
    row: PlannedRow | None
    record: Record | None


@dataclass(frozen=True, slots=True)
class SummedUp:
    """Rows of one of the run's own shards that follow each other, each with one record, and what they came to."""

    number: int
    """Of the first row."""
    what: Any
    """What was made of them by the function that `read_plain` was given."""
    retry: int = 0


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """A shard as it lies in the store. Rows `alone`, in order, are not summed up with others."""

    shard: Shard
    rows: bytes
    compacted: CompactedShard
    alone: Sequence[int]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is the same for all shards of a run. `max_row` is the most bytes that a row may have."""

    layout: RunLayout
    job: JobOptions
    max_row: int


@dataclass(slots=True)
class PlainShard:
    """What was read of such a shard, and what was taken for granted of the store: of each row its id and its record,
    of each image that a record names its key and bytes.
    """

    read: list[Found | SummedUp] = field(default_factory=list)
    rows: array[int] = field(default_factory=lambda: array("q"))
    ids: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    etags: list[str] = field(default_factory=list)
    image_keys: list[str] = field(default_factory=list)
    image_sizes: array[int] = field(default_factory=lambda: array("q"))

    def stands(self, listed: Mapping[int, tuple[int, int]], images: ListedImages) -> bool:
        """Whether the store lists these records, all of them and no others, and these images."""
        marks = zip(self.sizes, map(text_mark, self.etags), strict=True)
        return (
            dict(zip(self.rows, marks, strict=True)) == listed
            and images.sizes_of(self.image_keys) == self.image_sizes.tolist()
        )


class _NotPlainError(Exception):
    pass


def read_plain(
    reading: Reading, files: ShardFiles, sum_up: Callable[[Iterable[CountedRow]], object]
) -> PlainShard | None:
    """Read a shard; None where it is not plain. `sum_up` is called once per stretch of consecutive rows."""
    shard, alone = files.shard.name, files.alone
    found = PlainShard()

    def stretch(one: CountedRow) -> tuple[int, bool]:
        """Between which of the rows that are alone it is, or that it is one of them."""
        at = bisect_left(alone, one.number)
        return at, at < len(alone) and alone[at] == one.number

    try:
        for (_, is_alone), some in itertools.groupby(_rows(reading, files, found), key=stretch):
            if is_alone:
                found.read += [Found(one.number, 0, shard, one.row, one.records[0][1]) for one in some]
            else:
                first = next(some)
                rows = itertools.chain([first], some)  # noqa: B031  # those after the first
                found.read.append(SummedUp(first.number, sum_up(rows)))
    except _NotPlainError:
        return None
    return found


def _rows(reading: Reading, files: ShardFiles, found: PlainShard) -> Iterator[CountedRow]:
    """The rows, each with its record. Raises _NotPlainError."""
    left, shard = Leftovers(), files.shard
    rows = shard_rows(files.rows, reading.layout, shard, reading.job, reading.max_row, left)
    if left.lines() or len(rows) < shard.rows:
        raise _NotPlainError
    rows.sort(key=attrgetter("row"))
    lines = files.compacted.lines()
    for first in range(0, len(rows), COMPACTED_AT_ONCE):
        some = rows[first : first + COMPACTED_AT_ONCE]
        for row in some:
            number, kept = next(lines, (0, None))
            if kept is None or number != row.row:
                raise _NotPlainError
            record = _record(reading.layout, shard.name, row, kept.body)
            found.rows.append(number)
            found.ids.append(row.id)
            found.sizes.append(len(kept.body))
            found.etags.append(kept.etag)
            _note_images(reading.layout, record, found)
            yield CountedRow(number, shard.name, row, ((shard.name, record),))
        if not are_affordable(found.sizes[first:], some):
            raise _NotPlainError


def _record(layout: RunLayout, shard: str, row: PlannedRow, body: bytes) -> Record:
    try:
        record = parse_model(body, Record, shard)
    except DamagedObjectError:
        raise _NotPlainError from None
    if why_not(record, shard=shard, number=row.row, row=row, layout=layout):
        raise _NotPlainError
    return record


def _note_images(layout: RunLayout, record: Record, found: PlainShard) -> None:
    for variant, output in record.outputs():
        if place := place_of(output, record.id, variant, layout):
            found.image_keys.append(place.key)
            found.image_sizes.append(output.bytes)
