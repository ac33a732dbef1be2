"""Numbers with their nouns, as sentences of logs, notes and errors have them."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `12,000 rows`; `many` is for words that take more than an s: `counted(2, "row is", "rows are")`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
