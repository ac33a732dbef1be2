"""Which records count: those of a frozen row, in its shard, and of a done row only with its image.

Whoever may write to the store can write a record. Here its content is checked against what was frozen and what is
there; docs/security.md says what remains possible.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inpaint_ops.config import Settings
from inpaint_ops.errors import StorageError
from inpaint_ops.layout import REJECTED, RunLayout, retry_of
from inpaint_ops.locations import Location
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import Plan
from inpaint_ops.records import Record
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, each, listed, read_each, smallest_first

log = logging.getLogger(__name__)

_CHUNK = 8 * 2**20
_BYTES_PER_RECORD = 8 * 2**10
"""What records have on average, at most, beyond what their rows have; ours have one to two thousand."""

_SLACK = 64 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENDING = re.compile(r"(?:~[0-9]{1,4})?\.[a-z]{2,5}")
"""What follows an id in the name of its image: a retry's number where that image is beside an earlier one."""


@dataclass(frozen=True, slots=True)
class CountedRecords:
    """The records of a run that count, by line, and how many of their images were read to compare the digest.

    Of a row that was done again, `records` holds the newest, and `earlier` the others, the oldest first.
    """

    records: tuple[Record, ...]
    images_checked: int
    earlier: Mapping[int, tuple[Record, ...]] = field(default_factory=dict)


def why_not(
    record: Record, *, shard: str, number: int, row: AcceptedRow | None, layout: RunLayout | None
) -> str | None:
    """Why the record does not stand for its row, as far as the record itself shows; None if it does.

    `shard` and `number` are of its key, and `row` is the frozen row where that is known. With a `layout`, the image
    must lie where the run's images do.
    """
    if record.row != number:
        return f"it says row {record.row}"
    if (record.status == "rejected") != (shard == REJECTED):
        return f"its status is {record.status}"
    if record.retry != retry_of(shard):
        return f"it says retry {record.retry}"
    if row is not None and record.id != row.id:
        return f"its id is {record.id!r}, and the row's is {row.id!r}"
    if row is not None and (record.source, record.mask) != (row.image, row.mask):
        return "it names another image or mask than the row"
    if record.output is not None and layout is not None:
        if image_of(record, layout) is None:
            return "its image is not where the run's images lie"
        if not _SHA256.fullmatch(record.output.sha256):
            return "it names no SHA-256"
    return None


def image_of(record: Record, layout: RunLayout) -> Location | None:
    """Where the image of a done row lies, if the record says what the layout says; else None."""
    if record.output is None:
        return None
    stem = layout.image(record.id, "").uri
    ending = record.output.uri.removeprefix(stem)
    found = record.output.uri == stem + ending and _ENDING.fullmatch(ending)
    return layout.image(record.id, ending) if found else None


def read_records(
    storage: Storage,
    layout: RunLayout,
    plan: Plan,
    rows: Mapping[str, Sequence[AcceptedRow]],
    settings: Settings,
    left: Leftovers,
) -> CountedRecords:
    """The records of a run that count; the others are left out, each with a line. `rows` are those of its shards,
    the shards of its retries among them.

    Asks for a listing of the records, each record once, a listing of the images, and, for the digests, as many images
    as `check_image_bytes` allows: all of them, or a random sample. Raises StorageError.
    """
    frozen = {shard: {row.row: row for row in members} for shard, members in rows.items()}
    numbers: dict[str, Collection[int]] = {shard: members.keys() for shard, members in frozen.items()}
    numbers[REJECTED] = set(plan.rejected_rows)
    infos = list(_candidates(listed(storage, layout.records, left), layout, numbers, left))
    count = sum(map(len, numbers.values()))
    budget = _SLACK + count * _BYTES_PER_RECORD + sum(_weight(row) for some in rows.values() for row in some)
    found: list[Record] = []
    bounded = smallest_first(infos, budget, left)
    for info, record in read_each(storage, bounded, Record, left, max_bytes=row_bytes(settings)):
        shard, number = _place(layout, info)
        row = frozen.get(shard, {}).get(number)
        if why := why_not(record, shard=shard, number=number, row=row, layout=layout):
            left.add(f"{info.location} does not count: {why}.")
        else:
            found.append(record)
    sound, checked = _with_images(storage, layout, found, settings.check_image_bytes, left)
    by_row: dict[int, list[Record]] = {}
    for record in sorted(sound, key=lambda record: (record.row, record.retry)):
        by_row.setdefault(record.row, []).append(record)
    earlier = {row: tuple(records[:-1]) for row, records in by_row.items() if len(records) > 1}
    return CountedRecords(tuple(records[-1] for records in by_row.values()), checked, earlier)


def _place(layout: RunLayout, info: ObjectInfo) -> tuple[str, int]:
    place = layout.shard_and_row(info.location)
    assert place is not None, "candidates have one"
    return place


def _candidates(
    infos: Iterable[ObjectInfo], layout: RunLayout, numbers: Mapping[str, Iterable[int]], left: Leftovers
) -> Iterator[ObjectInfo]:
    for info in infos:
        place = layout.shard_and_row(info.location)
        if place is None:
            left.add(f"{info.location} is no record of this run: it was left out.")
        elif place[1] not in numbers.get(place[0], ()):
            left.add(f"{info.location} is the record of no row of that shard: it was left out.")
        else:
            yield info


def _weight(row: AcceptedRow) -> int:
    """What the row brings into its record, in bytes, and no less."""
    return 6 * (len(row.prompt) + len(row.image) + len(row.mask)) + (len(row.model_dump_json()) if row.extra else 0)


def _with_images(
    storage: Storage, layout: RunLayout, records: Sequence[Record], check_bytes: int, left: Leftovers
) -> tuple[list[Record], int]:
    """The records less those of done rows whose image is not there, or is another; and how many were read for that."""
    wanted: dict[str, list[Record]] = {}
    for record in records:
        if (place := image_of(record, layout)) is not None:
            wanted.setdefault(place.key, []).append(record)  # a retry that painted the very same bytes shares an image
    there: dict[str, ObjectInfo] = {}
    if wanted:
        infos = listed(storage, layout.images, left)
        there = {info.location.key: info for info in infos if info.location.key in wanted}
    bad: set[tuple[int, int]] = set()
    for key, some in wanted.items():
        for record in some:
            assert record.output is not None
            if key not in there:
                left.add(f"row {record.row} does not count as done: its image {Location(None, key).name} is not there.")
                bad.add((record.row, record.retry))
            elif there[key].size != record.output.bytes:
                left.add(f"row {record.row} does not count as done: its image has {there[key].size:,} bytes, and its "
                         f"record says {record.output.bytes:,}.")  # fmt: skip
                bad.add((record.row, record.retry))
    sound = [key for key, some in wanted.items() if any((record.row, record.retry) not in bad for record in some)]
    chosen = _chosen([there[key] for key in sound], check_bytes)
    if len(chosen) < len(sound):
        log.info(
            "the digests of %d of %d images are compared (INPAINT_CHECK_IMAGE_BYTES); of the others the size was",
            len(chosen), len(sound),
        )  # fmt: skip
    digests = {info.location.key: got for info, got in each(chosen, lambda info: _digest(storage, info), left)}
    for key in {info.location.key for info in chosen}:
        for record in wanted[key]:
            if record.output is None or digests.get(key) != record.output.sha256:
                if key in digests:
                    left.add(f"row {record.row} does not count as done: its image is not the one of its record.")
                bad.add((record.row, record.retry))
    kept = [record for record in records if record.output is None or (record.row, record.retry) not in bad]
    return kept, len(digests)


def _chosen(infos: list[ObjectInfo], check_bytes: int) -> list[ObjectInfo]:
    """All, or a random sample of `check_bytes` together: nobody can know beforehand which."""
    random.SystemRandom().shuffle(infos)
    chosen = []
    for info in infos:
        check_bytes -= info.size
        if check_bytes < 0:
            break
        chosen.append(info)
    return chosen


def _digest(storage: Storage, info: ObjectInfo) -> str:
    """The SHA-256 of an object, read piece by piece. Raises StorageError."""
    digest = hashlib.sha256()
    for first in range(0, info.size, _CHUNK):
        piece = storage.get(
            info.location, byte_range=(first, min(first + _CHUNK, info.size) - 1), max_bytes=_CHUNK, if_match=info.etag
        )
        digest.update(piece)
    return digest.hexdigest()


def check_image(storage: Storage, record: Record, layout: RunLayout) -> None:
    """Raise StorageError unless the image of a done row is there, with the size that the record says."""
    place = image_of(record, layout)
    if place is None or record.output is None:
        return
    info = storage.stat(place)
    if info.size != record.output.bytes:
        raise StorageError(f"{place} has {info.size:,} bytes, and its record says {record.output.bytes:,}")
