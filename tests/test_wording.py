"""Numbers agree with their nouns."""

from __future__ import annotations

import pytest

from inpaint_ops.wording import counted


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("row",), "0 rows"), (1, ("row",), "1 row"), (12000, ("row",), "12,000 rows"),
        (1, ("row is", "rows are"), "1 row is"), (2, ("row is", "rows are"), "2 rows are"),
    ],
)  # fmt: skip
def test_a_number_agrees_with_its_noun(number: int, words: tuple[str, ...], text: str) -> None:
    assert counted(number, *words) == text
