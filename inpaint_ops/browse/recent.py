"""The last bytes that were asked for, by their key, up to a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, ValuesView
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Recent(Generic[Key]):
    """Keeps `max_bytes` of values at most: the one asked for longest ago goes first. For one thread at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> bytes | None:
        """The value, if it is kept."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: Key, value: bytes) -> None:
        """Keep a value, in place of the one that the key has, if any."""
        self._bytes -= len(self._kept.pop(key, b""))
        self._kept[key] = value
        self._bytes += len(value)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._kept.popitem(last=False)[1])

    def values(self) -> ValuesView[bytes]:
        """What is kept."""
        return self._kept.values()
