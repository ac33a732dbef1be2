"""What a reviewer says of a result: one line of a reviews file each, and what a reviewer's lines come to. Pure."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from inpaint_ops.records import MAX_VARIANTS, Model, Moment, now

Verdict = Literal["accept", "reject", "redo"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

MAX_NOTE, MAX_REASON = 1000, 200
"""Characters of a note and of a reason, at most."""

LINE_BYTES = 16 * 2**10
"""Of a line, at most. Ours have two to four hundred, and 5,500 with the longest note and reason."""


def plain_text(text: str) -> str:
    """`text` in NFC without spaces around it. Raises ValueError for characters that have no picture of their own."""
    text = (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()
    if not text.isprintable():
        raise ValueError("holds line breaks or control characters: remove them")
    return text


Note = Annotated[str, Field(max_length=MAX_NOTE), AfterValidator(plain_text)]
Reason = Annotated[str, Field(max_length=MAX_REASON), AfterValidator(plain_text)]
RowId = Annotated[str, Field(min_length=1, max_length=200)]


class Change(Model):
    """What one reviewer says of one result now. What is None stays as the reviewer left it."""

    id: RowId = Field(description="The row's id.")
    mark: Literal["accept", "reject", "redo", "clear"] | None = Field(
        default=None,
        description="clear: removes all of this reviewer's marks of the row; then the rest of the line applies.",
    )
    variant: Annotated[int, Field(ge=0, lt=MAX_VARIANTS, strict=True)] | None = Field(
        default=None, description="With accept, of a row with variants: which one; None: the one that the run picked."
    )
    rating: Annotated[int, Field(ge=0, le=5, strict=True)] | None = Field(default=None, description="1 to 5; 0: none.")
    reason: Reason | None = Field(default=None, description="Why a row is done again or rejected.")
    note: Note | None = None

    @model_validator(mode="after")
    def _picks_what_it_accepts(self) -> Self:
        if self.variant is not None and self.mark != "accept":
            raise ValueError("a variant is named by mark accept alone: leave it out, or accept it")
        return self


class Mark(Change):
    """A line of `reviews/<reviewer>.jsonl`."""

    key: Annotated[str, Field(min_length=8, max_length=64)] = Field(
        default_factory=lambda: secrets.token_hex(8),
        description="Unique to the line, so that a writer knows its own line again.",
    )
    at: Moment = Field(default_factory=now)
    attempt: Annotated[str, Field(max_length=200)] = Field(
        default="", description="The attempt that made the result: a mark of another attempt's does not count."
    )

    def line(self) -> bytes:
        """The mark as it is stored, with its line feed."""
        return (
            self.model_dump_json(exclude_none=True, exclude={"attempt"} if not self.attempt else None).encode() + b"\n"
        )


@dataclass(frozen=True, slots=True)
class Opinion:
    """All that one reviewer says of one result, once their lines are read in order."""

    attempt: str = ""
    verdict: Verdict | None = None
    decided_at: datetime | None = None
    """When the verdict was given: a later note does not make it younger."""
    rating: int | None = None
    rated_at: datetime | None = None
    reason: str = ""
    note: str = ""
    variant: int | None = None
    """Which of the row's variants is accepted; None: the one that the run picked."""

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return self.verdict is None and self.rating is None and not self.reason and not self.note

    def after(self, mark: Mark) -> Opinion:
        """The opinion once the reviewer has written this line."""
        before = _NOTHING if mark.mark == "clear" or mark.attempt != self.attempt else self
        verdict, rating, variant = before.verdict, before.rating, before.variant
        decided_at, rated_at = before.decided_at, before.rated_at
        if mark.mark is not None and mark.mark != "clear":
            verdict, decided_at, variant = mark.mark, mark.at, mark.variant
        if mark.rating is not None:
            rating, rated_at = mark.rating or None, mark.at if mark.rating else None
        return Opinion(
            mark.attempt, verdict, decided_at, rating, rated_at,
            before.reason if mark.reason is None else mark.reason,
            before.note if mark.note is None else mark.note,
            variant,
        )  # fmt: skip

    def as_marks(self, row: str) -> list[Mark]:
        """The fewest lines that come to this opinion: one, or two where verdict and rating are of different times."""
        if self.is_empty:
            return []
        moment = self.decided_at or self.rated_at or _LONG_AGO
        rated_then = self.rating if self.rated_at == moment else None
        first = Mark(
            id=row, at=moment, attempt=self.attempt, mark=self.verdict, rating=rated_then,
            reason=self.reason or None, note=self.note or None, variant=self.variant,
        )  # fmt: skip
        if self.rating is None or rated_then is not None or self.rated_at is None:
            return [first]
        return [first, Mark(id=row, at=self.rated_at, attempt=self.attempt, rating=self.rating)]


_NOTHING = Opinion()
_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def add_marks(opinions: MutableMapping[str, Opinion], marks: Iterable[Mark]) -> None:
    """Bring a reviewer's opinions, by the row's id, up to these further lines."""
    for mark in marks:
        found = opinions.get(mark.id, _NOTHING).after(mark)
        if found.is_empty:
            opinions.pop(mark.id, None)
        else:
            opinions[mark.id] = found
