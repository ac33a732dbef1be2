"""Which rows a page shows, and their thumbnails: source, mask and result, side by side."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from inpaint_ops.records import Record
from inpaint_ops.tallies.tally import Tally, find_among

_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """A row and its thumbnails, as bytes of JPEG or PNG files: raises ValueError for anything else.

    About 256 pixels per side, or 10 kB per picture: 24 rows then fit a page of 2 MB. `mask` is the mask alone or,
    better, laid over the source (`images.preview.mask_overlay`).
    """

    record: Record
    source: bytes
    mask: bytes
    result: bytes

    def __post_init__(self) -> None:
        for name in ("source", "mask", "result"):
            media_type(getattr(self, name))


def media_type(data: bytes) -> str:
    """`image/jpeg` or `image/png`, by the first bytes. Raises ValueError for anything else."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    raise ValueError("a thumbnail is neither JPEG nor PNG")


def data_uri(data: bytes) -> str:
    """A picture as a page holds it. Raises ValueError for anything but JPEG and PNG."""
    return f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"


def choose_gallery(records: Sequence[Record], limit: int = 24) -> list[Record]:
    """At most `limit` finished rows to show, by line: a quarter of them the slowest, the rest spread over the run."""
    find = find_among(records)
    return [find(row) for row in Tally.of(records).gallery(limit)]
