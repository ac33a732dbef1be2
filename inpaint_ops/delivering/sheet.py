"""The contact sheet: pages of small pictures, each page a file that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Literal

from jinja2 import PackageLoader, Template

from inpaint_ops.delivering.targets import SHEET
from inpaint_ops.errors import StorageError, StorageUnavailableError
from inpaint_ops.images import THUMBNAIL_BYTES, THUMBNAIL_SIZES
from inpaint_ops.layout import RunLayout
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.report import GalleryItem
from inpaint_ops.report.gallery import data_uri
from inpaint_ops.report.page import environment, model_notice
from inpaint_ops.run_files.counted import image_of
from inpaint_ops.storage import Storage

Sheet = Literal["full", "results"]
"""`full`: source, mask and result, made anew of the files. `results`: the thumbnails that painting wrote."""

PAGE_ROWS = 60
"""About 2 MB of pictures."""

_KINDS = ("source", "mask", "result")


@dataclass(frozen=True, slots=True)
class Card:
    """One row of the sheet: what its delivered file is called, or why there is none, and its pictures."""

    record: Record
    name: str
    link: str = ""
    """To the delivered file; empty where there is none."""
    why: str = ""
    images: tuple[tuple[str, str], ...] = ()

    def showing(self, item: GalleryItem | str) -> Card:
        """The same with its pictures, or with a word that there are none: why names places of the store."""
        if isinstance(item, str):
            return replace(self, why="no pictures could be made")
        images = tuple((kind, data_uri(getattr(item, kind))) for kind in _KINDS)
        return replace(self, images=images)

    def showing_result(self, webp: bytes | None) -> Card:
        """The same with the thumbnail of its result that painting wrote; None where it has none."""
        if webp is None:
            return replace(self, why="it has no thumbnail")
        uri = f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
        return replace(self, images=(("result", uri),))


def stored_thumbnail(storage: Storage, record: Record, layout: RunLayout) -> bytes | None:
    """The small WebP picture of the row's image that painting wrote, where it lies where the run's do and is what the
    record states; it is decoded by whoever looks at the sheet, and not here. Raises StorageUnavailableError.
    """
    image = image_of(record, layout)
    stated = next((one for one in record.thumbnails if one.size == THUMBNAIL_SIZES[0]), None)
    if image is None or stated is None:
        return None
    place = layout.thumbnail(image, stated.size)
    try:
        body = storage.get(place, max_bytes=THUMBNAIL_BYTES[THUMBNAIL_SIZES[0]]) if place.uri == stated.uri else b""
    except StorageUnavailableError:
        raise
    except StorageError:
        return None
    is_sound = hashlib.sha256(body).hexdigest() == stated.sha256 and body[:4] == b"RIFF" and body[8:12] == b"WEBP"
    return body if is_sound else None


def page_name(page: int) -> str:
    """The file of a page, from 1."""
    return f"{SHEET}/{page:04d}.html"


def jumps(page: int, pages: int) -> list[int]:
    """The pages that each page links to, beside the one before and after it: first, last, and some ten between."""
    step = max(1, math.ceil(pages / 10))
    return sorted({1, *range(step, pages, step), pages} - {page}) if pages > 3 else []


def render(
    cards: Sequence[Card],
    summary: RunSummary,
    *,
    page: int,
    pages: int,
    delivered: int,
    sheet: Sheet,
    link: Callable[[str], str],
    end: datetime | None = None,
) -> bytes:
    """One page as HTML. `link` makes links of names in the delivery; at `end` they stop working."""
    notice = model_notice(summary)
    return (
        _template()
        .render(
            run=summary.run, cards=cards, page=page, pages=pages, rows=summary.counts.rows, delivered=delivered,
            finished=summary.finished_at, sheet=sheet, notice=notice[1] if notice else "",
            to=link, to_page=lambda number: link(page_name(number)), jumps=jumps(page, pages), end=end,
        )
        .encode()
    )  # fmt: skip


@lru_cache(maxsize=1)
def _template() -> Template:
    return environment(PackageLoader("inpaint_ops.delivering")).get_template("contact-sheet.html.j2")
