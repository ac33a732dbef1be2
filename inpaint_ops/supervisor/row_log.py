"""The lines of log that a row's record keeps: few, short, and without what a URL in them may give away."""

from __future__ import annotations

from collections.abc import Iterable

from inpaint_ops.errors import one_line
from inpaint_ops.locations import without_secrets
from inpaint_ops.records import LOG_BYTES, LOG_LINE_CHARS, LOG_LINES, now


def line(text: str) -> str:
    """A warning of the supervisor's own about a row, with its time."""
    return f"{now():%Y-%m-%d %H:%M:%S} WARNING {text}"


def kept(lines: Iterable[str]) -> tuple[str, ...]:
    """The last of these lines, as far as a record takes them; what is left out before is counted in the first."""
    shown = [_cut(one_line(without_secrets(text))) for text in lines]
    most, size = LOG_LINES, 0
    for number, text in enumerate(reversed(shown)):
        size += len(text.encode())
        if size > LOG_BYTES - 100:
            most = number
            break
    if len(shown) > most:
        left = len(shown) - min(most, LOG_LINES - 1)
        shown = [f"... {left} earlier lines are in the task's log", *shown[left:]]
    return tuple(shown)


def _cut(text: str) -> str:
    return text if len(text) <= LOG_LINE_CHARS else text[: LOG_LINE_CHARS - 1] + "…"
