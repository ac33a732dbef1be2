"""Prefixes that many names begin with, so that the parts of a long listing can be asked for at once."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

PART = 10_000
"""Objects of a long listing that are asked for one page after the other; its parts are asked for beside each other."""

_KEPT = 4096
"""Beginnings of names that are kept, at most."""


class NamePrefixes:
    """Names go by, and of each only its beginning is kept: as many characters as leave few different ones."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._chars: int | None = None
        """Of each name; None for all."""

    def add(self, name: str) -> None:
        """Note a name."""
        self._counts[name[: self._chars]] += 1
        if len(self._counts) > _KEPT:
            self._shorten()

    def _shorten(self) -> None:
        while len(self._counts) > _KEPT:
            self._chars = max(map(len, self._counts)) - 1
            shorter: Counter[str] = Counter()
            for name, count in self._counts.items():
                shorter[name[: self._chars]] += count
            self._counts = shorter

    def cover(self, most: int) -> tuple[str, ...]:
        """See `cover`."""
        return cover(self._counts, most)

    def counts(self, most: int, *, below: str = "") -> dict[str, int]:
        """The same, in order, each with the number of names that begin with it; of the names that begin with `below`.

        Nothing where what is kept does not tell these apart from others.
        """
        if any(below.startswith(name) and name != below for name in self._counts):
            return {}
        names = sorted(name for name in self._counts if name.startswith(below))
        found: dict[str, int] = {}
        at = 0
        for prefix in cover({name: self._counts[name] for name in names}, most):
            found[prefix] = 0
            while at < len(names) and names[at].startswith(prefix):
                found[prefix] += self._counts[names[at]]
                at += 1
        return found


def cover(counts: Mapping[str, int], most: int) -> tuple[str, ...]:
    """Prefixes that cover the names, each name by one, in order; none is the prefix of another.

    A prefix stands for at most `most` of what the names count, unless one name counts more, or is itself the beginning
    of others, which then go with it.
    """
    found: list[str] = []
    rest: list[Sequence[str]] = [sorted(counts)] if counts else []
    while rest:
        names = rest.pop()
        shared = os.path.commonprefix([names[0], names[-1]])  # noqa: RUF071  # by characters
        if names[0] == shared or sum(counts[name] for name in names) <= most:
            found.append(shared)
        else:
            at = len(shared)
            rest.extend(list(some) for _, some in itertools.groupby(names, lambda name: name[at]))  # noqa: B023
    return tuple(sorted(found))


def without_longer(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The prefixes less those that begin with another one."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not (kept and prefix.startswith(kept[-1])):
            kept.append(prefix)
    return tuple(kept)
