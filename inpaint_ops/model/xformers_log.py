"""Hold back what xFormers logs when it is imported on a machine that its extension was not built for."""

from __future__ import annotations

import logging

_BEGINNING = "WARNING[XFORMERS]"


class _HoldBack(logging.Filter):
    """Keeps the known warning for the ledger's reason; every other record passes."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not message.startswith(_BEGINNING):
            return True
        self.messages.append(" ".join(message.removeprefix(f"{_BEGINNING}: ").split()))
        return False


_FILTER = _HoldBack()


def hold_back() -> None:
    """From here on xFormers' six lines about its missing extension go into `held_back()`, not to the log."""
    logging.getLogger("xformers").addFilter(_FILTER)


def held_back() -> str:
    """What was held back, shortened to its first sentences; "" where xFormers logged none."""
    return _FILTER.messages[0].partition(" Please reinstall")[0] if _FILTER.messages else ""
