"""Are the images the ones that their records name? Some of them are read again, and their SHA-256 is compared."""

from __future__ import annotations

import hashlib
import logging
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.records import Output, Record
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import Leftovers, each

log = logging.getLogger(__name__)

_CHUNK = 8 * 2**20


@dataclass(slots=True)
class NamedImages:
    """The images that a run's records name, each once: its row, which of the row's images it is, and its bytes."""

    rows: array[int] = field(default_factory=lambda: array("i"))
    places: array[int] = field(default_factory=lambda: array("H"))
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: Record) -> None:
        """Those of a row, by its newest record, which has the earlier ones in it."""
        for place, some in enumerate(_by_image(record).values()):
            self.rows.append(record.row)
            self.places.append(place)
            self.sizes.append(some[0][1].bytes)

    def extend(self, later: NamedImages) -> None:
        """Add those of later rows."""
        self.rows += later.rows
        self.places += later.places
        self.sizes += later.sizes


@dataclass(frozen=True, slots=True)
class Compared:
    """How many images were read, which records name others (by row and retry), and what could not be read."""

    checked: int
    swapped: frozenset[tuple[int, int]]
    lines: tuple[str, ...]


def compare_digests(
    storage: Storage, layout: RunLayout, named: NamedImages, find: Callable[[int], Record], check_bytes: int
) -> Compared:
    """Compare all, or a random sample of `check_bytes` together: nobody can know beforehand which.

    `find` gives the newest record of a row. Raises StorageError where the store does not answer, or lets none be read.
    """
    left = Leftovers()
    chosen = _chosen(named, check_bytes)
    if len(chosen) < len(named.rows):
        log.info(
            "the digests of %d of %d images are compared (INPAINT_CHECK_IMAGE_BYTES); of the others the size was",
            len(chosen), len(named.rows),
        )  # fmt: skip
    waiting: deque[_Image] = deque()

    def images() -> Iterator[_Image]:
        for at in chosen:
            record = find(named.rows[at])
            uri, some = list(_by_image(record).items())[named.places[at]]
            place = Location(layout.images.bucket, layout.images.key + uri.removeprefix(layout.images.uri))
            stated = tuple((retry, output.sha256) for retry, output in some)
            waiting.append(_Image(record.row, place, named.sizes[at], stated))
            yield waiting[-1]

    checked = 0
    swapped: set[tuple[int, int]] = set()
    for image, digest in each(images(), lambda image: _digest(storage, image), left):
        checked += 1
        while (one := waiting.popleft()) is not image:  # it could not be read
            swapped.update((one.row, retry) for retry, _ in one.stated)
        swapped.update((image.row, retry) for retry, stated in image.stated if stated != digest)
    swapped.update((one.row, retry) for one in waiting for retry, _ in one.stated)
    return Compared(checked, frozenset(swapped), left.lines())


@dataclass(frozen=True, slots=True)
class _Image:
    row: int
    place: Location
    size: int
    stated: tuple[tuple[int, str], ...]
    """The SHA-256 that each record of it names, by the record's retry."""


def _by_image(record: Record) -> dict[str, list[tuple[int, Output]]]:
    """The images that the row's records name, by URI, each with the retries whose records do: a retry that painted the
    very same bytes shares one. Of earlier records that is the row's image alone.
    """
    found: dict[str, list[tuple[int, Output]]] = {}
    for one in record.earlier:
        if one.output is not None:
            found.setdefault(one.output.uri, []).append((one.retry, one.output))
    for _, output in record.outputs():
        found.setdefault(output.uri, []).append((record.retry, output))
    return found


def _chosen(named: NamedImages, check_bytes: int) -> Sequence[int]:
    """The positions of all images, or of a random sample of `check_bytes` together."""
    sizes = np.asarray(named.sizes, dtype=np.int64)
    order = np.random.default_rng(random.SystemRandom().getrandbits(128)).permutation(len(sizes))
    count = int(np.searchsorted(np.cumsum(sizes[order]), check_bytes, side="right"))
    return [int(at) for at in np.sort(order[:count])]


def _digest(storage: Storage, image: _Image) -> str:
    """The SHA-256 of an object, read piece by piece. Raises StorageError."""
    digest = hashlib.sha256()
    etag = storage.stat(image.place).etag if image.size > _CHUNK else ""  # the pieces of one must be of one
    for first in range(0, image.size, _CHUNK):
        piece = storage.get(
            image.place, byte_range=(first, min(first + _CHUNK, image.size) - 1), max_bytes=_CHUNK,
            if_match=etag or None,
        )  # fmt: skip
        digest.update(piece)
    return digest.hexdigest()
