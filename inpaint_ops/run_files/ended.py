"""What an attempt left of a shard whose every row has ended, so that a run that goes on need not read its records.

`compacted/<shard>.ended.json` states each record's ETag and size, and each image's size. It decides nothing by itself:
it stands for the shard only while the store lists all of them just so. A report reads the records all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import model_validator

from inpaint_ops.errors import StorageError
from inpaint_ops.layout import RunLayout
from inpaint_ops.planning import Shard
from inpaint_ops.records import Model, Record
from inpaint_ops.run_files.compacted import KeptRecord
from inpaint_ops.run_files.counted import place_of
from inpaint_ops.run_files.inventory import Inventory, text_mark
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import Leftovers, read_each

log = logging.getLogger(__name__)

_MOST_BYTES, _BYTES_PER_ROW = 256 * 2**20, 20 * 2**10
"""Of such a file: a row has up to 16 images, whose names have 1,024 bytes each."""


class EndedShard(Model):
    """`compacted/<shard>.ended.json`: the records by row, and the images that they name; lists go in step."""

    rows: tuple[int, ...] = ()
    etags: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    """Of the records, in bytes."""
    images: tuple[str, ...] = ()
    """Names below `images/`."""
    image_sizes: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _lists_go_in_step(self) -> EndedShard:
        if not len(self.rows) == len(self.etags) == len(self.sizes) or len(self.images) != len(self.image_sizes):
            raise ValueError("the lists are not of one length")
        return self

    @classmethod
    def of(cls, records: Mapping[int, KeptRecord], layout: RunLayout) -> EndedShard:
        """What these records say. Raises ValueError for bytes that are no record of this run."""
        rows = sorted(records)
        outputs = list(_outputs(records.values(), layout))
        return cls(
            rows=tuple(rows),
            etags=tuple(records[row].etag for row in rows),
            sizes=tuple(len(records[row].body) for row in rows),
            images=tuple(name for name, _ in outputs),
            image_sizes=tuple(size for _, size in outputs),
        )

    def holds(self, shard: Shard, inventory: Inventory, layout: RunLayout) -> bool:
        """Whether the store lists a record of each of the shard's rows, and their images, just as this says."""
        if (
            len(set(self.rows)) != shard.rows
            or not shard.first_row <= min(self.rows) <= max(self.rows) <= shard.last_row
        ):
            return False
        listed = inventory.records[shard.name].by_row()
        stated = zip(self.rows, zip(self.sizes, map(text_mark, self.etags), strict=True), strict=True)
        if any(listed.get(row) != record for row, record in stated):
            return False
        prefix = layout.images.key
        return inventory.images.sizes_of([prefix + name for name in self.images]) == list(self.image_sizes)


def _outputs(records: Iterable[KeptRecord], layout: RunLayout) -> Iterator[tuple[str, int]]:
    """The name below `images/` and the size of each image that the records name."""
    for kept in records:
        record = Record.model_validate_json(kept.body)
        for variant, output in record.outputs():
            place = place_of(output, record.id, variant, layout)
            if place is None:
                raise ValueError(f"the image of row {record.row} is not where the run's images lie")
            yield place.key.removeprefix(layout.images.key), output.bytes


def ended_shards(
    storage: Storage, layout: RunLayout, shards: Sequence[Shard], inventory: Inventory, left: Leftovers
) -> frozenset[str]:
    """The names of those shards that such a file stands for. Raises StorageError."""
    by_name = {shard.name: shard for shard in shards if shard.name in inventory.ended}
    rows = max((shard.rows for shard in by_name.values()), default=0)
    limit = min(_MOST_BYTES, (rows + 1) * _BYTES_PER_ROW)
    by_place = {info.location: name for name, info in inventory.ended.items() if name in by_name}
    found = read_each(storage, (inventory.ended[name] for name in by_place.values()), EndedShard, left, max_bytes=limit)
    return frozenset(
        name for info, ended in found if ended.holds(by_name[name := by_place[info.location]], inventory, layout)
    )


def store_ended(storage: Storage, layout: RunLayout, shard: str, ended: EndedShard) -> None:
    """Write the file of a shard; without rows, it stands for nothing. Raises StorageError."""
    storage.put(layout.ended_shard(shard), ended.model_dump_json().encode(), content_type="application/json")


def take_back(storage: Storage, layout: RunLayout, shard: str) -> None:
    """A report found rows of the shard without a record that counts: the next run is to look at it; best effort."""
    try:
        if storage.exists(layout.ended_shard(shard)):
            store_ended(storage, layout, shard, EndedShard())
    except StorageError as error:
        log.warning("shard %s may be passed over when the run goes on: %s", shard, error)
