"""How many bytes some rows' records may have together, before they are taken for somebody else's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from inpaint_ops.planning import PlannedRow

BYTES_PER_RECORD = 8 * 2**10
"""What records have on average, at most, beyond what their rows have; ours have one to two thousand."""

_BYTES_PER_CANVAS, _MOST_CANVASES = 2**10, 64
"""Of a region or a tile, in the record of a row that is painted in several."""


def allowed_bytes(rows: Collection[PlannedRow | None]) -> int:
    """What the records of these rows may have together; None stands for a rejected row."""
    return sum(BYTES_PER_RECORD + (weight(row) if row else 0) for row in rows)


def are_affordable(sizes: Sequence[int], rows: Collection[PlannedRow | None]) -> bool:
    """Whether records of these sizes may be those of the rows. The rows are looked at only where that is not clear."""
    total = sum(sizes)
    return total <= BYTES_PER_RECORD * len(rows) or total <= allowed_bytes(rows)


def weight(row: PlannedRow) -> int:
    """What the row brings into its record, in bytes, and no less."""
    files = 4 + len(row.parameters.side_products)  # the URIs of image, thumbnails, side products, and the name itself
    images = row.parameters.variants
    named = files * (sum(map(len, row.names)) or images * len(row.id))
    canvases = _BYTES_PER_CANVAS * _MOST_CANVASES if row.crop in ("regions", "tiles") else 0
    return (
        6 * (len(row.prompt) + len(row.image) + len(row.mask) + named)
        + (len(row.model_dump_json()) if row.extra else 0)
        + (images - 1) * BYTES_PER_RECORD
        + canvases
    )
