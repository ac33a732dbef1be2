"""What a run has in the store: each folder is listed once, and kept as numbers, 24 bytes per record and 16 per image.

A store takes its time for each page of a listing, so on S3 the parts of a long one are asked for beside each other: by
the shards' names, and by what the images' names begin with, which the plan says.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from inpaint_ops.layout import PART, REJECTED, RunLayout, cover, record_place, without_longer
from inpaint_ops.planning import Plan, RetryPlan, every_shard
from inpaint_ops.records import MAX_VARIANTS
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import MAX_OBJECTS, Leftovers, listed, listed_in_parts


def text_mark(text: str) -> int:
    """64 bits that stand for a text within this process, by a hash with a key that nobody knows beforehand.

    Of a million texts, two share one with a probability of 3 in 10^8.
    """
    return hash(text)


class SeenMarks:
    """Which marks were seen: 8 bytes each. A set takes 80."""

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._new: set[int] = set()

    def add(self, marks: Iterable[int]) -> None:
        """These are seen from now on."""
        self._new.update(marks)
        if len(self._new) > _NEW_MARKS:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._new, np.int64, len(self._new)))
            self._new = set()

    def among(self, marks: Collection[int]) -> set[int]:
        """Those of the marks that were seen."""
        found = self._new.intersection(marks)
        if len(self._sorted):
            asked = np.fromiter(marks, np.int64, len(marks))
            places = np.minimum(np.searchsorted(self._sorted, asked), len(self._sorted) - 1)
            found.update(asked[self._sorted[places] == asked].tolist())
        return found


_NEW_MARKS = 2**16
"""Marks that are kept in a set before they are sorted in among the others."""


@dataclass(slots=True)
class ListedRecords:
    """The records of one shard by row: each one's size in bytes, and the mark of its ETag (see `text_mark`)."""

    rows: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    etags: array[int] = field(default_factory=lambda: array("q"))

    def by_row(self) -> dict[int, tuple[int, int]]:
        """Size and mark by row."""
        return dict(zip(self.rows, zip(self.sizes, self.etags, strict=True), strict=True))


def list_records(
    storage: Storage, layout: RunLayout, shards: Mapping[str, int], left: Leftovers, *, limit: int
) -> dict[str, ListedRecords]:
    """The records of these shards, by the shard's name, each given with its rows; what else lies there is left out,
    each with a line.

    Raises StorageError.
    """
    prefix = layout.records
    start = len(prefix.key)

    def of(infos: Iterator[ObjectInfo]) -> dict[str, ListedRecords]:
        found: dict[str, ListedRecords] = {}
        for info in infos:
            place = record_place(info.location.key[start:])
            if place is None:
                left.add(f"{info.location} is no record of this run: it was left out.")
            elif place[0] not in shards:
                left.add(f"{info.location} is the record of no row of that shard: it was left out.")
            else:
                shard = found.get(place[0])
                if shard is None:
                    shard = found[place[0]] = ListedRecords()
                shard.rows.append(place[1])
                shard.sizes.append(info.size)
                shard.etags.append(text_mark(info.etag))
        return found

    found = {name: ListedRecords() for name in shards}
    if not storage.lists_parts(prefix) or sum(shards.values()) <= PART:
        return found | of(listed(storage, prefix, left, limit=limit))
    found |= of(listed(storage, prefix, left, limit=limit, direct=True))  # none, unless a store heeds no delimiter
    names = storage.folders(prefix)
    folders = {f"{folder}/": shards.get(folder, 0) for folder in islice(names, MAX_OBJECTS)}
    if next(names, None) is not None:
        left.add(f"{prefix} holds more than {MAX_OBJECTS:,} folders: the others were not looked at.")
    for part in listed_in_parts(storage, prefix, cover(folders, PART), of, left, limit=limit):
        found |= part
    return found


def _list_compacted(
    storage: Storage, layout: RunLayout, shards: Collection[str], left: Leftovers, *, limit: int
) -> tuple[set[str], dict[str, ObjectInfo]]:
    """The shards that have compacted records, and what says that they have ended, by the shard's name."""
    compacted = {layout.compacted_shard(shard).key: shard for shard in shards}
    ended = {layout.ended_shard(shard).key: shard for shard in shards}
    there, found = set(), {}
    for info in listed(storage, layout.compacted, left, limit=limit):
        if (shard := compacted.get(info.location.key)) is not None:
            there.add(shard)
        elif (shard := ended.get(info.location.key)) is not None:
            found[shard] = info
    return there, found


class ListedImages:
    """The finished images by key: whether one is there, and its size. The key is known by its mark alone."""

    def __init__(self, marks: array[int], sizes: array[int]) -> None:
        order = np.argsort(np.frombuffer(marks, dtype=np.int64) if marks else np.empty(0, np.int64), kind="stable")
        self._marks: npt.NDArray[np.int64] = np.asarray(marks, dtype=np.int64)[order]
        self._sizes: npt.NDArray[np.int64] = np.asarray(sizes, dtype=np.int64)[order]

    @classmethod
    def of(
        cls, storage: Storage, layout: RunLayout, prefixes: Sequence[str], left: Leftovers, *, limit: int
    ) -> ListedImages:
        """List them, those with each of the prefixes by themselves; all together without any. Raises StorageError."""
        if not prefixes or not storage.lists_parts(layout.images):
            return cls(*_marks_and_sizes(listed(storage, layout.images, left, limit=limit)))
        marks, sizes = array("q"), array("q")
        for part in listed_in_parts(storage, layout.images, prefixes, _marks_and_sizes, left, limit=limit):
            marks.extend(part[0])
            sizes.extend(part[1])
        return cls(marks, sizes)

    def sizes_of(self, keys: Sequence[str]) -> list[int | None]:
        """The size of each, in bytes; None for one that is not there."""
        if not len(self._marks):
            return [None] * len(keys)
        marks = np.fromiter(map(text_mark, keys), dtype=np.int64, count=len(keys))
        places = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        there = self._marks[places] == marks
        return [
            size if is_there else None
            for size, is_there in zip(self._sizes[places].tolist(), there.tolist(), strict=True)
        ]


def _marks_and_sizes(infos: Iterable[ObjectInfo]) -> tuple[array[int], array[int]]:
    marks, sizes = array("q"), array("q")
    for info in infos:
        marks.append(text_mark(info.location.key))
        sizes.append(info.size)
    return marks, sizes


def prefixes_of_run(plan: Plan, retries: Sequence[RetryPlan]) -> tuple[str, ...]:
    """What the names of all of a run's images begin with, as far as its plans say so of all; else nothing."""
    if not plan.image_prefixes or any(retry.image_prefixes is None for retry in retries):
        return ()
    return without_longer([*plan.image_prefixes, *(one for retry in retries for one in retry.image_prefixes or ())])


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the store lists of a run."""

    records: dict[str, ListedRecords]
    """By the shard's name; the rejected rows are one."""
    compacted: Collection[str]
    """The shards that have compacted records."""
    ended: Mapping[str, ObjectInfo]
    """By the shard's name, what says that all of its rows have ended."""
    images: ListedImages

    @classmethod
    def of(
        cls, storage: Storage, layout: RunLayout, plan: Plan, retries: Sequence[RetryPlan], left: Leftovers
    ) -> Inventory:
        """List the records, the compacted ones and the images. Raises StorageError."""
        shards = {shard.name: shard.rows for shard in every_shard(plan, retries)} | {REJECTED: plan.rejected}
        limit = MAX_OBJECTS + plan.rows + sum(retry.rows for retry in retries)
        records = list_records(storage, layout, shards, left, limit=limit)
        compacted, ended = _list_compacted(storage, layout, shards, left, limit=limit)
        prefixes = prefixes_of_run(plan, retries)
        images = ListedImages.of(  # last: each record's is there
            storage, layout, prefixes, left, limit=limit * MAX_VARIANTS
        )
        return cls(records, compacted, ended, images)
