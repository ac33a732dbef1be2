"""Objects piece by piece, so that a large one costs a piece of memory and no place on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from inpaint_ops.locations import Location
from inpaint_ops.storage.guard import Storage, Where
from inpaint_ops.storage.interface import check_size

PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """An object of `size` bytes, to be read piece by piece, once or more often."""

    location: Location
    size: int
    etag: str
    _storage: Storage

    def __iter__(self) -> Iterator[bytes]:
        """The bytes in order. Raises StorageError, also if the object has changed since it was looked at."""
        for first in range(0, self.size, PIECE_BYTES):
            last = min(first + PIECE_BYTES, self.size) - 1
            yield self._storage.get(self.location, byte_range=(first, last), if_match=self.etag)


def in_pieces(storage: Storage, where: Where, *, max_bytes: int | None = None) -> Pieces:
    """Look at an object that will be read in pieces. Raises StorageError, ObjectTooLargeError above `max_bytes`."""
    info = storage.stat(where)
    check_size(info.location, info.size, max_bytes)
    return Pieces(info.location, info.size, info.etag, storage)
