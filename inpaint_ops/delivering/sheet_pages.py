"""The pages of a delivery's contact sheet, made one after another of the rows that were shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

from inpaint_ops.delivering.contents import Image, Row
from inpaint_ops.delivering.fetching import in_order
from inpaint_ops.delivering.sheet import PAGE_ROWS, Card, Sheet, page_name, render, stored_thumbnail
from inpaint_ops.delivering.targets import Target
from inpaint_ops.locations import parse
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.runs import Workspace
from inpaint_ops.runs.gallery import RowPictures
from inpaint_ops.storage.stored import Leftovers


def shown_lines(row: Row, image: Image | None, why: str | None) -> bytes:
    """A row for `SheetPages.of`, as two lines; `image` is None where it has none, for the reason `why`."""
    name, place = (image.name, image.place.uri) if image is not None else ("", "")
    about = json.dumps([name, place, why or "", f"{row.run}/{row.made.id}"])
    return f"{about}\n{row.shown.model_dump_json()}\n".encode()


class SheetPages:
    """Makes the pages. What cannot be read of the rows' files is counted in `unread`."""

    def __init__(
        self, workspace: Workspace, summary: RunSummary, target: Target, sheet: Sheet, unread: Leftovers
    ) -> None:
        self._workspace, self._summary, self._target = workspace, summary, target
        self._sheet, self._unread = sheet, unread

    def of(self, shown: Path, *, delivered: int) -> Iterator[tuple[str, bytes]]:
        """The name of each page and its HTML, of a file of `shown_lines`; every row that was to be delivered is in it.

        `delivered` is the number of images.
        """
        with shown.open("rb") as lines:
            pages = max(1, math.ceil(sum(1 for _ in lines) / 2 / PAGE_ROWS))
        with shown.open("rb") as lines, ExitStack() as stack:
            pictured: Callable[[Sequence[tuple[Card, str]]], list[Card]] = self._with_thumbnails
            if self._sheet == "full":
                pictures = stack.enter_context(RowPictures(self._workspace.storage, self._workspace.settings))
                pictured = partial(self._with_pictures, pictures)
            for page in range(1, pages + 1):
                cards = []
                for name, place, why, made_as in map(json.loads, islice(lines, PAGE_ROWS)):
                    link = self._target.link(name, parse(place)) if name else ""
                    cards.append((Card(Record.model_validate_json(next(lines)), name, link, why), made_as))
                yield (
                    page_name(page),
                    render(
                        pictured(cards), self._summary, page=page, pages=pages, delivered=delivered,
                        sheet=self._sheet, link=self._target.link, end=self._target.end,
                    ),
                )  # fmt: skip

    def _with_pictures(self, pictures: RowPictures, cards: Sequence[tuple[Card, str]]) -> list[Card]:
        """The cards with source, mask and result, which helper processes make of the files."""
        there = [card for card, _ in cards if card.name]
        made = dict(zip((card.record.row for card in there), pictures.of(card.record for card in there), strict=True))
        for item in made.values():
            if isinstance(item, str):
                self._unread.add(f"contact sheet: {item}")
        return [card.showing(made[card.record.row]) if card.record.row in made else card for card, _ in cards]

    def _with_thumbnails(self, cards: Sequence[tuple[Card, str]]) -> list[Card]:
        """The cards with the thumbnails that painting wrote."""

        def one(card: tuple[Card, str]) -> Card:
            shown, made_as = card
            if not shown.name:
                return shown
            run, _, row = made_as.partition("/")
            record = shown.record.model_copy(update={"id": row})
            layout = self._workspace.layout(run or self._summary.run)
            return shown.showing_result(stored_thumbnail(self._workspace.storage, record, layout))

        return [shown for _, shown in in_order(one, cards)]
