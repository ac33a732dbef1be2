"""What reading a manifest changed or left out, in words: it is printed, and kept as warnings of the run."""

from __future__ import annotations

from collections import Counter

from inpaint_ops.errors import one_line
from inpaint_ops.manifest.problems import shortened
from inpaint_ops.wording import counted

_MOST = 20
"""Notes of one manifest; further ones are counted."""


class Notes:
    """Notes in the order in which they were made, each once."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._more = 0
        self._rows: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Note something about the file."""
        if text in self._lines:
            return
        if len(self._lines) < _MOST:
            self._lines[text] = None
        else:
            self._more += 1

    def left_out(self, column: str) -> None:
        """Note a column that pandas made and no row needs."""
        self.add(f"column {shortened(column)!r} is left out: it is an index that pandas wrote (index=False omits it)")

    def count_row(self, text: str) -> None:
        """Count a row to which `text` applies; `text` is one of a few."""
        self._rows[text] += 1

    def extend(self, later: Notes) -> None:
        """Add the notes of later rows, which are a few."""
        for text in later._lines:
            self.add(text)
        self._more += later._more
        self._rows.update(later._rows)

    def lines(self) -> tuple[str, ...]:
        """All notes, one line each."""
        found = [
            *self._lines,
            *(f"{counted(count, 'row')}: {text}" for text, count in self._rows.items()),
        ]
        if self._more:
            found.append(f"and {self._more} more notes")
        return tuple(map(one_line, found))
