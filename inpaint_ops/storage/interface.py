"""What every object store can do, and the data it speaks in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from inpaint_ops.errors import ObjectTooLargeError
from inpaint_ops.locations import Location

MAX_PRESIGN = timedelta(minutes=15)
"""The longest that a presigned link may live, where its caller says no other limit."""

MAX_SIGNED = timedelta(days=7)
"""The longest that any can: Signature Version 4 allows no more."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store describes it.

    `size` is in bytes. `etag` changes with the content, carries no quotes, and means nothing across stores. `modified`
    is in UTC, by the store's clock.
    """

    location: Location
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that was begun and not ended: an open multipart upload, or in a folder a temporary file.

    `location` is of the object that was to be, in a folder of the file itself; `started` is by the store's clock.
    """

    location: Location
    upload: str
    started: datetime


class ObjectStore(Protocol):
    """One bucket, or the file system. Keys are those of `Location.key`.

    Every method raises AccessDeniedError when the store refuses us, StorageUnavailableError (transient) when it did not
    answer or broke off on every try, and StorageError for anything else that the store says.
    """

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        max_bytes: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """The object's bytes, checked for length, and against the store's checksum where it gives one.

        `byte_range` is (first, last), both inclusive; a `last` beyond the end is cut, a `first` beyond it raises
        StorageError. Raises ObjectNotFoundError; ObjectTooLargeError, before any byte is read, if more than `max_bytes`
        would come; ObjectChangedError if the object's ETag is not `if_match`.
        """

    def get_unchecked(self, key: str, *, max_bytes: int) -> bytes:
        """As `get`, but compared with no checksum of the store: for who has its digest, and reads many objects."""

    def download(self, key: str, path: Path, *, max_bytes: int | None = None) -> ObjectInfo:
        """Write the object to the local `path`: whole, or not at all.

        Raises as `get` does, and OSError if the local file cannot be written.
        """

    def put(
        self,
        key: str,
        data: bytes | Path,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> ObjectInfo:
        """Write the object: whole, or not at all. A `Path` is streamed.

        With `if_absent`, raises ObjectExistsError if the key is taken, unless by these very bytes: then an earlier try
        of ours won and its reply was lost. So bodies that compete for a key must carry something unique.

        With `if_match`, replaces the object that has this ETag, and raises ObjectChangedError if there is another or
        none, unless there are these very bytes. Give one condition at most. Not every store honours this one:
        docs/storage.md.
        """

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo | None:
        """Have the store copy an object of its own, in any of its buckets, as it was when `source` described it.

        None where the store cannot: then its bytes must be read and put. Raises ObjectNotFoundError if the source is
        gone; StorageError if it has changed.
        """

    def list(self, prefix: str, *, direct: bool = False, starting: str = "") -> Iterator[ObjectInfo]:
        """Every object below `prefix` (which ends with `/`, or is empty), once, in no promised order, page by page.

        With `direct`, those alone that lie in no folder below it; the others are not looked at, however many there are.
        With `starting`, those alone whose key goes on with it after the prefix.

        Objects put or deleted meanwhile may or may not show. A prefix that holds nothing lists as empty.
        """

    def folders(self, prefix: str) -> Iterator[str]:
        """The names directly below `prefix` that hold objects, once, in no promised order, however much lies in them.

        A name has no slash. A prefix that holds nothing has none.
        """

    def stat(self, key: str) -> ObjectInfo:
        """The object's size, ETag and age. Raises ObjectNotFoundError."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is fine."""

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Every unfinished write below `prefix`; those that are under way as well, so look at their age."""

    def discard(self, unfinished: Unfinished) -> None:
        """End an unfinished write and free what it holds; one that is gone is fine."""

    def presign(self, key: str, expires: timedelta, *, longest: timedelta = MAX_PRESIGN) -> str:
        """A link that reads the object, without credentials, for at most `longest`. It is a secret: never log it.

        It ends earlier where the credentials do (`credentials_end`). Raises ValueError if `expires` is not within
        `longest`, or that not within `MAX_SIGNED`; StorageError where the store has no links.
        """

    def credentials_end(self) -> datetime | None:
        """When the credentials end that links are signed with; None where they do not, or where nobody says when."""


def check_size(where: Location, size: int, max_bytes: int | None) -> None:
    """Raise ObjectTooLargeError if `size` exceeds `max_bytes`."""
    if max_bytes is not None and size > max_bytes:
        raise ObjectTooLargeError(f"{where} is too large: {size:,} bytes, and the limit is {max_bytes:,}")


def check_expiry(expires: timedelta, longest: timedelta) -> int:
    """The whole seconds of `expires`. Raises ValueError unless there are 1 to `longest`, which is 7 days at most."""
    if not timedelta(seconds=1) <= expires <= longest <= MAX_SIGNED:
        minutes = min(longest, MAX_SIGNED) / timedelta(minutes=1)
        raise ValueError(f"a presigned link lives 1 second to {minutes:g} minutes, not {expires}")
    return int(expires.total_seconds())
