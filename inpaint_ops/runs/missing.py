"""Which images and masks of a manifest are not there: found out by listings, where they cost less than asking for each.

A page of a listing covers a thousand objects, so few folders are listed one by one. A bucket with a folder for each of
very many products is listed by what its keys begin with. Listings of a store run beside each other: it takes its time
for each page. No object is read.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from inpaint_ops.errors import ForbiddenLocationError, StorageError
from inpaint_ops.layout import PART, NamePrefixes
from inpaint_ops.locations import Location
from inpaint_ops.manifest import ParsedManifest
from inpaint_ops.run_files.inventory import text_mark
from inpaint_ops.storage import Storage

_PAGE = 1000
"""Objects in a page of a listing."""
_KEYS_PER_PAGE = 10
"""Keys that must be looked for per page of a listing: a page costs about as much as ten single requests."""
_FOLDERS = 1000
"""Of a bucket, that are listed one by one. Where it has more, `_KEYS` keys that begin alike are listed together."""
_KEYS = 1000
_AT_ONCE = 16
_WAITING = 512
"""Listings or objects that wait to be asked for, at most."""
_S3 = "s3://"


def missing_objects(storage: Storage, parsed: ParsedManifest, *, ask_each: bool) -> Iterator[str]:
    """A line for each image or mask of an accepted row that is not there, in the order of the rows.

    Files where a listing would cost more than looking for each are looked for one by one if `ask_each`; else they are
    left to the downloads. One that a listing does not have is looked for once more by its name, as a download would.
    """
    marks, places = array("q"), dict[str, _Place]()
    for row in parsed.accepted:
        for uri in (row.image, row.mask):
            marks.append(text_mark(uri))
            bucket = _bucket(uri)
            place = places.get(bucket)
            if place is None:
                place = places[bucket] = _Place(bucket)
            place.add(uri)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        absent = _absent(storage, pool, places.values(), marks)
        while some := list(islice(absent, _WAITING)):
            looked_for = []
            for at in some:
                row, name = parsed.accepted[at // 2], ("image", "mask")[at % 2]
                uri = getattr(row, name)
                if ask_each or places[_bucket(uri)].is_listed(uri):
                    looked_for.append((f"row {row.row}: {name}", uri))
            errors = pool.map(lambda one: _error(storage, one[1]), looked_for)
            for (which, _), error in zip(looked_for, errors, strict=True):
                if error is not None and (ask_each or error.permanent):  # at another time the store may have it
                    yield f"{which}: {error}"


def _absent(storage: Storage, pool: ThreadPoolExecutor, places: Iterable[_Place], marks: array[int]) -> Iterator[int]:
    """Which of the marks, by their index, stand for objects that no listing has."""
    if not marks:
        return
    asked = np.frombuffer(marks, np.int64)
    wanted = np.unique(asked)
    is_there = np.zeros(len(wanted), bool)
    for place in places:
        listings = place.listings(storage)
        while some := list(islice(listings, _WAITING)):
            for listing, found in zip(some, pool.map(lambda one: one.marks(storage), some), strict=True):
                if found is None:
                    place.unlisted.add(listing.covers)
                    continue
                there = np.frombuffer(found, np.int64) if found else np.empty(0, np.int64)
                nearest = np.minimum(np.searchsorted(wanted, there), len(wanted) - 1)
                is_there[nearest[wanted[nearest] == there]] = True
    yield from np.flatnonzero(~is_there[np.searchsorted(wanted, asked)]).tolist()


def _error(storage: Storage, uri: str) -> StorageError | None:
    try:
        storage.stat(uri)
    except (StorageError, ForbiddenLocationError) as error:
        return error
    return None


def _bucket(uri: str) -> str:
    """What a URI of S3 begins with; empty for a local path."""
    return uri[: uri.find("/", len(_S3)) + 1] if uri.startswith(_S3) else ""


@dataclass(frozen=True, slots=True)
class _Listing:
    """One that is asked for, if it has not too many pages."""

    prefix: Location
    starting: str
    direct: bool
    objects: int
    """More than so many cost more than looking for each object that is wanted."""
    covers: str
    """What the URIs in it begin with."""

    def marks(self, storage: Storage) -> array[int] | None:
        """Those of the URIs; None if it cannot be listed, or has too many."""
        found = array("q")
        if self.prefix.bucket is None and not Path(self.prefix.key).is_dir():
            return found
        try:
            for info in storage.list(self.prefix, direct=self.direct, starting=self.starting):
                if len(found) >= self.objects:
                    return None
                found.append(text_mark(info.location.uri))
        except (StorageError, ForbiddenLocationError):
            return None
        return found


@dataclass(slots=True)
class _Place:
    """What is wanted of one bucket, or of this machine's folders."""

    bucket: str
    """Of S3, as a URI with a closing slash; empty for local folders."""
    unlisted: set[str] = field(default_factory=set)
    """What listings that were given up would have covered."""
    _folders: Counter[str] = field(default_factory=Counter)
    """With a closing slash each; emptied where they are too many."""
    _are_many: bool = False
    _names: NamePrefixes = field(default_factory=NamePrefixes)
    _parts: tuple[str, ...] = ()

    def add(self, uri: str) -> None:
        """Note an object that is wanted."""
        if self.bucket:
            self._names.add(uri)
        if not self._are_many:
            self._folders[uri[: uri.rfind("/") + 1]] += 1
            if self.bucket and len(self._folders) > _FOLDERS:
                self._are_many = True
                self._folders.clear()

    def listings(self, storage: Storage) -> Iterator[_Listing]:
        """Those that find the objects."""
        can_part = storage.lists_parts(Location(self.bucket[len(_S3) : -1], "")) if self.bucket else False
        if self._are_many:
            counts = self._names.counts(_KEYS)
            self._parts = tuple(counts)
            if can_part:
                yield from (self._listing(part, count) for part, count in counts.items())
            else:
                self.unlisted.update(self._parts)
            return
        for folder, count in self._folders.items():
            parts = self._names.counts(PART, below=folder) if can_part and count > PART else {}
            yield from (self._listing(part, some, folder) for part, some in (parts or {folder: count}).items())

    def _listing(self, part: str, count: int, folder: str = "") -> _Listing:
        """Of what begins with `part`, of which so many are wanted; with a `folder`, of what lies directly in it."""
        above = folder or part[: part.rfind("/") + 1]
        place = Location(self.bucket[len(_S3) : -1] or None, above[len(self.bucket) :])
        most = max(1, count // _KEYS_PER_PAGE) * _PAGE
        return _Listing(place, part[len(above) :], bool(folder), most, folder or part)

    def is_listed(self, uri: str) -> bool:
        """Whether a listing would have had the object."""
        if not self._are_many:
            return uri[: uri.rfind("/") + 1] not in self.unlisted
        part = self._parts[bisect_right(self._parts, uri) - 1]
        return uri.startswith(part) and part not in self.unlisted
