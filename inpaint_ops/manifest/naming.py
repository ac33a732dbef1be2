"""Ids that no two rows share, whatever their case: they name objects, and not every store tells cases apart."""

from __future__ import annotations

import hashlib


class Names:
    """The ids that are taken. Each costs a digest of 16 bytes and a number, however long it is.

    What was tried after a stem is remembered by the stem's digest, case folded like the ids themselves, so N names take
    no more than some 2 N looks: a search ends behind the last one, and an id ends in one number alone.
    """

    def __init__(self) -> None:
        self._taken: dict[bytes, int] = {}
        """By digest: minus the row that claimed it, or the last number that was tried after it."""

    def claim(self, name: str, row: int) -> int | None:
        """Take `name` for the row whose author wrote it; or the row (1 and up) that has claimed it before."""
        owner = self._taken.setdefault(_digest(name), -row)
        return None if owner == -row else -owner

    def give(self, stem: str) -> str:
        """Take `stem`, or the first of `stem-2`, `stem-3`, ... that nobody has."""
        key = _digest(stem)
        last = self._taken.get(key)
        if last is None:
            self._taken[key] = 1
            return stem
        count = max(last, 1)
        while True:
            count += 1
            name = f"{stem}-{count}"
            numbered = _digest(name)
            if numbered not in self._taken:
                self._taken[key] = count
                self._taken[numbered] = 1
                return name


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.casefold().encode(), digest_size=16).digest()
