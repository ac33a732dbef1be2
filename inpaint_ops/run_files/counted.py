"""Whether a record counts: it is of a frozen row, in its shard, and of a done row only with its image.

Whoever may write to the store can write a record. Here its content is checked against what was frozen and what is
there; docs/security.md says what remains possible.
"""

from __future__ import annotations

import re

from inpaint_ops.errors import StorageError
from inpaint_ops.layout import REJECTED, RunLayout, retry_of
from inpaint_ops.locations import Location
from inpaint_ops.manifest import why_no_name
from inpaint_ops.planning import PlannedRow
from inpaint_ops.records import Output, Record
from inpaint_ops.storage import Storage

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENDING = re.compile(r"(?:~[0-9]{1,4})?\.[a-z]{2,5}")
"""What follows an id in the name of its image: a retry's number where that image is beside an earlier one."""
_ENDING_OF_RETRY = re.compile(r"~[0-9]{1,4}(?=\.[a-z]{2,5}$)")


def why_not(record: Record, *, shard: str, number: int, row: PlannedRow | None, layout: RunLayout | None) -> str | None:
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
        if image_of(record, layout) is None or (row is not None and not _is_named(record.output, row)):
            return "its image is not where the run's images lie"
        if not _SHA256.fullmatch(record.output.sha256):
            return "it names no SHA-256"
    return None


def image_of(record: Record, layout: RunLayout) -> Location | None:
    """Where the image of a done row lies, if the record says what the layout says; else None."""
    if record.output is None:
        return None
    uri, name = record.output.uri, record.output.name
    if name is not None:
        place = layout.image(name, "")
        return place if place.uri == uri and not why_no_name(_ENDING_OF_RETRY.sub("", name)) else None
    stem = layout.image(record.id, "")
    if not uri.startswith(stem.uri):
        return None
    ending = uri[len(stem.uri) :]
    return Location(stem.bucket, stem.key + ending) if _ENDING.fullmatch(ending) else None


def _is_named(output: Output, row: PlannedRow) -> bool:
    """Whether the image has the name that its row was planned with; by its id, `image_of` has looked."""
    if not row.names or output.name is None:
        return not row.names and output.name is None
    return any(
        output.name.startswith(name) and _ENDING.fullmatch(output.name[len(name) :]) is not None for name in row.names
    )


def check_image(storage: Storage, record: Record, layout: RunLayout) -> None:
    """Raise StorageError unless the image of a done row is there, with the size that the record says."""
    place = image_of(record, layout)
    if place is None or record.output is None:
        return
    info = storage.stat(place)
    if info.size != record.output.bytes:
        raise StorageError(f"{place} has {info.size:,} bytes, and its record says {record.output.bytes:,}")
