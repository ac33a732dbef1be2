"""The contact sheet: pages of small pictures, each page a file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from jinja2 import PackageLoader, Template

from inpaint_ops.records import Record, RunSummary
from inpaint_ops.report import GalleryItem
from inpaint_ops.report.gallery import data_uri
from inpaint_ops.report.page import environment, model_notice

PAGE_ROWS = 60
"""About 2 MB of pictures."""

_KINDS = ("source", "mask", "result")


@dataclass(frozen=True, slots=True)
class Card:
    """One row of the sheet: what its delivered file is called, or why there is none, and its pictures."""

    record: Record
    name: str
    why: str = ""
    images: tuple[tuple[str, str], ...] = ()

    @property
    def link(self) -> str:
        """The delivered file, from the folder of the sheet; empty where there is none."""
        return f"../{quote(self.name)}" if self.name else ""

    def showing(self, item: GalleryItem | str) -> Card:
        """The same with its pictures, or with a word that there are none: why names places of the store."""
        if isinstance(item, str):
            return Card(self.record, self.name, "no pictures could be made")
        images = tuple((kind, data_uri(getattr(item, kind))) for kind in _KINDS)
        return Card(self.record, self.name, self.why, images)


def page_name(page: int) -> str:
    """The file of a page, from 1."""
    return f"contact-sheet/{page:04d}.html"


def render(cards: Sequence[Card], summary: RunSummary, *, page: int, pages: int, delivered: int) -> bytes:
    """One page as HTML."""
    notice = model_notice(summary)
    return (
        _template()
        .render(
            run=summary.run, cards=cards, page=page, pages=pages, rows=summary.counts.rows, delivered=delivered,
            finished=summary.finished_at, notice=notice[1] if notice else "",
        )
        .encode()
    )  # fmt: skip


@lru_cache(maxsize=1)
def _template() -> Template:
    return environment(PackageLoader("inpaint_ops.delivering")).get_template("contact-sheet.html.j2")
