"""The prefixes of names cover each name once, and split them as far as they are asked to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.layout import NamePrefixes, cover, prefixes, without_longer

NAME = st.text("ab-é1", max_size=6)


def begin(name: str, found: tuple[str, ...]) -> list[str]:
    return [prefix for prefix in found if name.startswith(prefix)]


@given(st.lists(NAME, max_size=40), st.integers(1, 9), st.integers(1, 12))
def test_each_name_begins_with_just_one(names: list[str], most: int, kept: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prefixes, "_KEPT", kept)
        collected = NamePrefixes()
        for name in names:
            collected.add(name)
        found = collected.cover(most)
        assert sum(collected._counts.values()) == len(names)
    assert all(len(begin(name, found)) == 1 for name in names)
    assert all(begin(one, found) == [one] for one in found)
    assert all(any(name.startswith(one) for name in names) for one in found)


@given(st.dictionaries(NAME, st.integers(1, 9), max_size=30), st.integers(1, 20))
def test_one_stands_for_few_unless_a_name_counts_more_or_begins_others(counts: dict[str, int], most: int) -> None:
    for prefix in cover(counts, most):
        under = [name for name in counts if name.startswith(prefix)]
        assert sum(counts[name] for name in under) <= most or prefix in under


@pytest.mark.parametrize(
    ("names", "most", "expected"),
    [
        ([], 5, ()),
        (["cup-1.png"], 5, ("cup-1.png",)),
        (["b", "a", "b1"], 5, ("",)),
        (["b", "a", "b1"], 2, ("a", "b")),
        ([f"cup-{number:04d}" for number in range(2500)], 1000, ("cup-0", "cup-1", "cup-2")),
        (
            [f"cup-{number:04d}" for number in range(2500)],
            999,
            (*(f"cup-{number:02d}" for number in range(20)), "cup-2"),
        ),
    ],
)
def test_names_of_a_kind_are_split_where_they_differ(names: list[str], most: int, expected: Sequence[str]) -> None:
    collected = NamePrefixes()
    for name in names:
        collected.add(name)
    assert list(collected.cover(most)) == list(expected)


@pytest.mark.parametrize("kind", ["counted", "hashed", "long and hashed", "of all scripts"])
def test_many_names_are_split_into_tens_of_parts_of_like_size(kind: str) -> None:
    def name(at: int) -> str:
        if kind == "counted":
            return f"cup-{at:07d}"
        if kind == "of all scripts":
            return chr(0x4E00 + at % 9000) + str(at)
        digest = hashlib.sha256(b"%d" % at).hexdigest()
        return digest if kind == "hashed" else f"{'studio/' * 30}{digest}"

    names = [name(at) for at in range(60_000)]
    collected = NamePrefixes()
    for one in names:
        collected.add(one)
    found = collected.cover(2000)
    if kind == "of all scripts":  # more beginnings than are kept: then all are one part
        assert found == ("",)
        return
    sizes = Counter(begin(one, found)[0] for one in names[::7])
    assert 30 <= len(found) <= 300 and max(sizes.values()) <= 2000


def test_of_prefixes_of_each_other_the_shorter_stands() -> None:
    assert without_longer(["cup-1", "saucer", "cup-", "cup-2", "cup-"]) == ("cup-", "saucer")
    assert without_longer(["cup", ""]) == ("",)
    assert without_longer([]) == ()
