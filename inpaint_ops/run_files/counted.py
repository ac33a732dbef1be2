"""Whether a record counts: it is of a frozen row, in its shard, and of a done row only with its image.

Whoever may write to the store can write a record. Here its content is checked against what was frozen and what is
there; docs/security.md says what remains possible.
"""

from __future__ import annotations

import re

from inpaint_ops.errors import StorageError
from inpaint_ops.layout import REJECTED, RunLayout, retry_of, variant_name
from inpaint_ops.locations import Location
from inpaint_ops.manifest import why_no_name
from inpaint_ops.planning import PlannedRow
from inpaint_ops.records import Output, Record
from inpaint_ops.storage import Storage

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENDING = re.compile(r"(?:~[0-9]{1,4})?\.[a-z]{2,5}")
"""What follows an id in the name of its image: a retry's number where that image is beside an earlier one."""
_ENDING_OF_RETRY = re.compile(r"~[0-9]{1,4}(?=\.[a-z]{2,5}$)")


def why_not(
    record: Record,
    *,
    shard: str,
    number: int,
    row: PlannedRow | None,
    layout: RunLayout | None,
    variant: int | None = None,
) -> str | None:
    """Why the record does not stand for its row, as far as the record itself shows; None if it does.

    `shard`, `number` and `variant` are of its key, and `row` is the frozen row where that is known. With a `layout`,
    the images must lie where the run's images do.
    """
    if record.variant != variant:
        return f"it says variant {record.variant}"
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
    if row is not None and variant is None and record.status != "rejected":
        wanted = row.parameters.variants
        if (len(record.variants) or 1) != wanted:
            return f"it lists {len(record.variants)} variants, and the row has {wanted}"
    if layout is not None:
        for of, output in record.outputs():
            if place_of(output, record.id, of, layout) is None or (row and not _is_named(output, row, of)):
                return "its image is not where the run's images lie"
            if not _SHA256.fullmatch(output.sha256):
                return "it names no SHA-256"
    return None


def plain_name(name: str) -> str:
    """The name of an image without what tells it from an earlier attempt's beside it: `sofa~2.png` is `sofa.png`."""
    return _ENDING_OF_RETRY.sub("", name)


def image_of(record: Record, layout: RunLayout) -> Location | None:
    """Where the image of a done row lies, if the record says what the layout says; else None."""
    if record.output is None:
        return None
    variant = record.variant if record.pick is None else record.pick.variant
    return place_of(record.output, record.id, variant, layout)


def place_of(output: Output, row_id: str, variant: int | None, layout: RunLayout) -> Location | None:
    """Where an image of a row lies, or of one of its variants, if its URI says what the layout says; else None."""
    if output.name is not None:
        place = layout.image(output.name, "")
        return place if place.uri == output.uri and not why_no_name(plain_name(output.name)) else None
    stem = layout.image(variant_name(row_id, variant), "")
    if not output.uri.startswith(stem.uri):
        return None
    ending = output.uri[len(stem.uri) :]
    return Location(stem.bucket, stem.key + ending) if _ENDING.fullmatch(ending) else None


def _is_named(output: Output, row: PlannedRow, variant: int | None) -> bool:
    """Whether the image has the name that its row was planned with; by its id, `place_of` has looked."""
    if not row.names or output.name is None:
        return not row.names and output.name is None
    name = row.names[variant or 0] if (variant or 0) < len(row.names) else ""
    return bool(name) and output.name.startswith(name) and _ENDING.fullmatch(output.name[len(name) :]) is not None


def check_image(storage: Storage, record: Record, layout: RunLayout) -> None:
    """Raise StorageError unless each image that the record names is there, with the size that it says."""
    for variant, output in record.outputs():
        place = place_of(output, record.id, variant, layout)
        if place is None:
            continue
        info = storage.stat(place)
        if info.size != output.bytes:
            raise StorageError(f"{place} has {info.size:,} bytes, and its record says {output.bytes:,}")
