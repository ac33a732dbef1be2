"""Why a row cannot be read."""

from __future__ import annotations

from typing import Any

NAME_SHOWN = 80
"""Characters of an unknown field's name that an error shows."""


class BadRowError(Exception):
    """A row cannot be read, and why; `field` is the one at fault, where there is one.

    `written` is the row as far as it was taken apart; else `text` is its text, or the beginning of `size` bytes.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.written: dict[str, Any] = {}
        self.text = ""
        self.size: int | None = None

    def of(self, written: dict[str, Any] | None = None, text: str | bytes = "", size: int | None = None) -> BadRowError:
        """This error, with the row that it is of."""
        self.written, self.size = written or {}, size
        self.text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return self


def shortened(name: str) -> str:
    """A name as an error shows it: its beginning, where it is long."""
    return name if len(name) <= NAME_SHOWN else name[:NAME_SHOWN] + "…"
