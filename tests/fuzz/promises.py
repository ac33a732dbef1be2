"""What every reader promises of its errors."""

from __future__ import annotations

import unicodedata

LONGEST_LINE = 2000


def check_line(text: str) -> None:
    """An error is one line of bounded length that no terminal, log or page can take for anything else."""
    assert text and len(text) <= LONGEST_LINE, f"{len(text)} characters"
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text), ascii(text)
