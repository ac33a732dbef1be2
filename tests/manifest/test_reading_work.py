"""Reading a manifest takes work in proportion to its size, whatever is in it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import (
    ManifestLimits,
    explaining,
    formats,
    naming,
    problems,
    reading,
)
from tests.support.manifests import GOOD, only_rejection, read


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
@pytest.mark.parametrize("blank", [b"\n", b" \r\n", b"\t\n"])
def test_a_million_blank_lines_are_one_clear_error(name: str, blank: bytes) -> None:
    header = b"image,mask,prompt\n" if name == "m.csv" else b""
    with pytest.raises(ManifestError, match="has no rows"):
        read(header + blank * 1_000_000, name)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_blank_lines_are_neither_kept_nor_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(reading, "validate", _counted(reading.validate, seen))
    row = b"a.png,m.png,x\n" if name == "m.csv" else json.dumps(GOOD).encode() + b"\n"
    header = b"image,mask,prompt\n" if name == "m.csv" else b""
    blank = b"\n" * 50_000
    tracemalloc.start()
    parsed = read(header + blank + row + blank + row, name, limits=ManifestLimits(max_rows=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    first = 50_001 + (name == "m.csv")
    assert [row.row for row in parsed.accepted] == seen == [first, first + 50_001]
    assert peak < 2 * 2**20, "the file's text, and nothing for each line"


def _counted(function: Any, seen: list[int]) -> Any:
    def counted(number: int, *arguments: Any, **options: Any) -> Any:
        seen.append(number)
        return function(number, *arguments, **options)

    return counted


class _Counting(str):
    """A field's name that counts how often it is compared or hashed."""

    work = 0

    def __hash__(self) -> int:
        _Counting.work += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        _Counting.work += 1
        return super().__eq__(other)


def test_a_field_given_twice_among_many_is_found_in_linear_work() -> None:
    pairs = [(_Counting(at), at) for at in range(2000)] + [(_Counting(1999), 0)]
    _Counting.work = 0
    with pytest.raises(problems.BadRowError, match="1999: the field is given twice"):
        formats._no_duplicates(pairs)
    assert _Counting.work < 20 * len(pairs)


def test_a_row_of_many_unknown_fields_explains_three(monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[int] = []
    monkeypatch.setattr(explaining, "_explain_one", lambda *_: explained.append(1) or "wrong")
    message = only_rejection(read([GOOD, {f"k{at}": 0 for at in range(5000)}]))
    assert "and 5000 more" in message  # 5000 unknown and 3 missing ones, three of which are explained
    assert len(explained) == 3


def test_many_rows_of_one_stem_are_named_in_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    digest = naming._digest
    monkeypatch.setattr(naming, "_digest", lambda name: (looked.append(name), digest(name))[1])
    parsed = read([GOOD] * 2000)
    assert {row.id for row in parsed.accepted} == {"a", *(f"a-{at}" for at in range(2, 2001))}
    assert 2000 <= len(looked) < 3 * 2000
