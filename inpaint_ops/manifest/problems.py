"""Why a row cannot be read."""

from __future__ import annotations

NAME_SHOWN = 80
"""Characters of an unknown field's name that an error shows."""


class BadRowError(Exception):
    """A row cannot be read, and why; `field` is the one at fault, where there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


def shortened(name: str) -> str:
    """A name as an error shows it: its beginning, where it is long."""
    return name if len(name) <= NAME_SHOWN else name[:NAME_SHOWN] + "…"
