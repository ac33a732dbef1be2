"""What the rows of a run come to, added one by one or many at a time: numbers, and never records."""

from __future__ import annotations

import io
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO

from inpaint_ops.manifest import write_jsonl
from inpaint_ops.records import Record
from inpaint_ops.run_files.digests import NamedImages
from inpaint_ops.run_files.plain_shards import CountedRow
from inpaint_ops.tallies.history import History, with_earlier
from inpaint_ops.tallies.tables import result_line, timings_batch, timings_values
from inpaint_ops.tallies.tally import Tally


@dataclass(slots=True)
class RowSums:
    """Sums over rows that have a record, in the order of the manifest."""

    tally: Tally = field(default_factory=Tally)
    images: NamedImages = field(default_factory=NamedImages)
    history: History = field(default_factory=History)
    ended: Counter[str] = field(default_factory=Counter)
    """Rows of each of the run's own shards that have a record, of a retry perhaps."""

    def add(self, row: CountedRow) -> Record:
        """Add a row. Its newest record, with the earlier ones listed in it."""
        shard, newest = row.records[-1]
        record = with_earlier(newest, [one for _, one in row.records[:-1]])
        if record.flags:  # what a row is an outlier in is found by the report alone
            record = record.model_copy(update={"flags": ()})
        self.ended[row.shard] += 1
        for name, one in row.records:
            self.history.add(one, name)
        self.images.add(record)
        self.tally.add(record, shard)
        return record

    def extend(self, later: RowSums, ids: Iterable[str]) -> None:
        """Add those of later rows, which have these ids."""
        self.tally.extend(later.tally, ids)
        self.images.extend(later.images)
        self.history.extend(later.history)
        self.ended.update(later.ended)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows that follow each other: their sums, and their part of each table."""

    sums: RowSums
    rows: array[int]
    ids: list[str]
    lengths: array[int]
    """Of the lines, in bytes."""
    lines: bytes
    failed: bytes
    timings: bytes

    @classmethod
    def of(cls, rows: Iterable[CountedRow]) -> Stretch:
        """Go through the rows; none is kept."""
        sums, numbers, lengths, ids = RowSums(), array("i"), array("i"), []
        lines, failed, timings = io.BytesIO(), io.BytesIO(), []
        for row in rows:
            record = sums.add(row)
            numbers.append(row.number)
            ids.append(record.id)
            lengths.append(lines.write(result_line(record)))
            timings.append(timings_values(record))
            write_failed(row, record, failed)
        table = timings_batch(timings).serialize().to_pybytes()
        return cls(sums, numbers, ids, lengths, lines.getvalue(), failed.getvalue(), table)


def write_failed(row: CountedRow, record: Record, out: IO[bytes]) -> None:
    """Write a failed row as `failed.jsonl` has it; nothing of any other."""
    if record.status == "failed" and row.row is not None:
        write_jsonl([row.row.as_manifest_row()], out)
