"""The way in: storage by location, within the allowed prefixes and nowhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from inpaint_ops.errors import ForbiddenLocationError, ObjectNotFoundError, StorageError
from inpaint_ops.locations import Location, check_relative, is_directory_bucket, parse
from inpaint_ops.storage.folder import FolderStore
from inpaint_ops.storage.interface import DEFAULT_CONTENT_TYPE, MAX_PRESIGN, ObjectInfo, ObjectStore, Unfinished
from inpaint_ops.storage.links import Links
from inpaint_ops.storage.tries import Repeats
from inpaint_ops.storage.twins import find_twin

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

    from inpaint_ops.storage.s3 import S3Store

Where: TypeAlias = Location | str | os.PathLike[str]
"""A location, its URI, or a path."""


MAX_GET_BYTES = 2**30
"""Bytes that `Storage.get` brings into memory where its caller names no limit of its own."""


class Storage:
    """All of a run's storage: each method is that of `ObjectStore`, by location or URI in place of a key.

    Every method first raises ForbiddenLocationError unless the location lies under an allowed prefix, in a folder also
    after symbolic links are followed. What may be written may be read. Safe to share between threads. The S3 client is
    made once, when first needed, by `s3_client`; for `attempts`, `deadline` (seconds), `backoff` and `etag_md5` see
    `S3Store`.

    A folder is checked before it is opened: whoever can swap links inside an allowed folder at that moment can lead a
    read astray, so do not allow folders that strangers write to.
    """

    def __init__(
        self,
        readable: Iterable[Where] = (),
        writable: Iterable[Where] = (),
        s3_client: Callable[[], S3Client] | None = None,
        *,
        attempts: int = 5,
        deadline: float = 600.0,
        backoff: float = 0.2,
        etag_md5: bool = True,
    ) -> None:
        self._writable = tuple(_located(where) for where in writable)
        self._readable = (*self._writable, *(_located(where) for where in readable))
        self._make_client = s3_client or _s3_client
        self._attempts = attempts
        self._deadline = deadline
        self._backoff = backoff
        self._etag_md5 = etag_md5
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._buckets: dict[str, S3Store] = {}
        self._folder = FolderStore(self._may_follow)
        self._repeats = Repeats()

    def for_another(self) -> Storage:
        """Storage of the same prefixes, client and limits, which counts its own repeats: for work done beside this."""
        with self._lock:
            client = self._client
        other = Storage(
            self._readable, self._writable, self._make_client,
            attempts=self._attempts, deadline=self._deadline, backoff=self._backoff, etag_md5=self._etag_md5,
        )  # fmt: skip
        other._client = client
        return other

    @property
    def repeated(self) -> int:
        """Requests and bodies that were asked for again so far, and then answered."""
        return self._repeats.count

    def renew(self) -> None:
        """Make the S3 client anew when it is next needed, by credentials as they are then."""
        with self._lock:
            self._client = None
            self._buckets.clear()

    def get(
        self,
        where: Where,
        *,
        byte_range: tuple[int, int] | None = None,
        max_bytes: int = MAX_GET_BYTES,
        if_match: str | None = None,
    ) -> bytes:
        """The object's bytes; see `ObjectStore.get`. There is always a limit: they come into memory."""
        location = self.check_readable(where)
        with self._twin_named(location):
            return self._store(location).get(
                location.key, byte_range=byte_range, max_bytes=max_bytes, if_match=if_match
            )

    def get_unchecked(self, where: Where, *, max_bytes: int) -> bytes:
        """The object's bytes, for who has its digest; see `ObjectStore.get_unchecked`."""
        location = self.check_readable(where)
        with self._twin_named(location):
            return self._store(location).get_unchecked(location.key, max_bytes=max_bytes)

    def download(self, where: Where, path: Path, *, max_bytes: int | None = None) -> ObjectInfo:
        """Write the object to a local file (which no prefix guards); see `ObjectStore.download`."""
        location = self.check_readable(where)
        with self._twin_named(location):
            return self._store(location).download(location.key, path, max_bytes=max_bytes)

    def put(
        self,
        where: Where,
        data: bytes | Path,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> ObjectInfo:
        """Write the object; see `ObjectStore.put`."""
        location = self.check_writable(where)
        return self._store(location).put(
            location.key, data, if_absent=if_absent, if_match=if_match, content_type=content_type
        )

    def copy(self, source: ObjectInfo, where: Where) -> ObjectInfo | None:
        """Have the store copy an object of its own; see `ObjectStore.copy`. None between a folder and a bucket, too."""
        self.check_readable(source.location)
        location = self.check_writable(where)
        if source.location.bucket is None or location.bucket is None:
            return None
        return self._store(location).copy(source, location.key)

    def list(self, prefix: Where, *, direct: bool = False, starting: str = "") -> Iterator[ObjectInfo]:
        """Every object below the prefix; see `ObjectStore.list`. The prefix is checked now, not at the first item."""
        location = self._check(_located(prefix).as_prefix(), self._readable, "read", prefix=True)
        return self._store(location).list(location.key, direct=direct, starting=starting)

    def lists_parts(self, prefix: Where) -> bool:
        """Whether a listing with `starting` costs no more than what it gives: not where all must be looked at."""
        location = _located(prefix)
        return location.bucket is not None and not is_directory_bucket(location.bucket)

    def folders(self, prefix: Where) -> Iterator[str]:
        """The names directly below the prefix that hold objects; see `ObjectStore.folders`."""
        location = self._check(_located(prefix).as_prefix(), self._readable, "read", prefix=True)
        return self._store(location).folders(location.key)

    def stat(self, where: Where) -> ObjectInfo:
        """The object's size, ETag and age; see `ObjectStore.stat`."""
        location = self.check_readable(where)
        with self._twin_named(location):
            return self._store(location).stat(location.key)

    def exists(self, where: Where) -> bool:
        """Whether the object is there. Raises as `stat` does otherwise."""
        location = self.check_readable(where)
        try:
            self._store(location).stat(location.key)
        except ObjectNotFoundError:
            return False
        return True

    def delete(self, where: Where) -> None:
        """Remove the object; see `ObjectStore.delete`."""
        location = self.check_writable(where)
        self._store(location).delete(location.key)

    def unfinished(self, prefix: Where) -> Iterator[Unfinished]:
        """Unfinished writes below a prefix that may be written; see `ObjectStore.unfinished`."""
        location = self._check(_located(prefix).as_prefix(), self._writable, "written", prefix=True)
        return self._store(location).unfinished(location.key)

    def discard(self, unfinished: Unfinished) -> None:
        """End an unfinished write; see `ObjectStore.discard`."""
        location = self.check_writable(unfinished.location)
        self._store(location).discard(unfinished)

    def presign(self, where: Where, expires: timedelta, *, longest: timedelta = MAX_PRESIGN) -> str:
        """A short-lived link that reads the object; see `ObjectStore.presign`."""
        location = self.check_readable(where)
        return self._store(location).presign(location.key, expires, longest=longest)

    def credentials_end(self, prefix: Where) -> datetime | None:
        """When the credentials end by which the prefix is read; see `ObjectStore.credentials_end`."""
        location = self._check(_located(prefix).as_prefix(), self._readable, "read", prefix=True)
        return self._store(location).credentials_end()

    def may_read(self, where: Where) -> bool:
        """Whether the object lies under an allowed prefix; says nothing of whether it is there."""
        try:
            self.check_readable(where)
        except ForbiddenLocationError:
            return False
        return True

    def may_read_each(self) -> Callable[[Location], bool]:
        """`may_read` for many locations in a row: what is found out of a local folder holds for all files in it.

        A file that becomes a link meanwhile is found when it is read.
        """
        folders: dict[str, bool] = {}
        links = Links()

        def may_read(location: Location) -> bool:
            if location.bucket is not None:
                return self.may_read(location)
            folder, _, name = location.key.rpartition("/")
            allowed = folders.get(folder)
            if allowed is None:
                allowed = folders[folder] = any(_under(root, location.parent) for root in self._readable)
            if not allowed or links.is_link(folder, name):
                return self.may_read(location)
            try:
                _check_plain(location, prefix=False)
            except ForbiddenLocationError:
                return False
            return True

        return may_read

    def check_readable(self, where: Where) -> Location:
        """The object's location. Raises ForbiddenLocationError unless it may be read."""
        return self._check(_located(where), self._readable, "read")

    def check_writable(self, where: Where) -> Location:
        """The object's location. Raises ForbiddenLocationError unless it may be written."""
        return self._check(_located(where), self._writable, "written")

    def _check(self, location: Location, allowed: tuple[Location, ...], verb: str, *, prefix: bool = False) -> Location:
        _check_plain(location, prefix=prefix)
        if not any(_under(root, location) for root in allowed):
            more = "" if verb == "read" else ", and writing is for the run's own prefix, INPAINT_STORE"
            raise ForbiddenLocationError(
                f"{location} is outside what may be {verb}: INPAINT_ALLOWED_PREFIXES adds prefixes to read{more}"
            )
        return location

    def _may_follow(self, link: Location) -> bool:
        return any(_under(root, link) for root in self._readable)

    @contextmanager
    def _twin_named(self, location: Location) -> Iterator[None]:
        """When an object is missing, name one whose key looks the same."""
        try:
            yield
        except ObjectNotFoundError as error:
            try:
                twin = find_twin(location.key, partial(self._has, location), partial(self._keys, location))
            except StorageError:  # it cannot be found out
                twin = None
            if twin is None:
                raise
            raise ObjectNotFoundError(
                f"{error}; but {twin[0]!a} is there, the same name in other Unicode characters ({twin[1]}): "
                "write the key as it is stored"
            ) from error

    def _has(self, beside: Location, key: str) -> bool:
        where = Location(beside.bucket, key)
        return self.may_read(where) and self.exists(where)

    def _keys(self, beside: Location, folder: str) -> Iterator[str]:
        """The keys below a folder, as far as all of it may be read."""
        with suppress(ForbiddenLocationError):
            for info in self.list(Location(beside.bucket, folder)):
                yield info.location.key

    def _store(self, location: Location) -> ObjectStore:
        if location.bucket is None:
            return self._folder
        from inpaint_ops.storage.s3 import S3Store  # boto3 takes a while to import, and memory: not for a folder

        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            store = self._buckets.get(location.bucket)
            if store is None:
                store = self._buckets[location.bucket] = S3Store(
                    self._client,
                    location.bucket,
                    attempts=self._attempts,
                    deadline=self._deadline,
                    backoff=self._backoff,
                    repeats=self._repeats,
                    etag_md5=self._etag_md5,
                )
            return store


def _s3_client() -> S3Client:
    from inpaint_ops.storage.s3_client import make_s3_client

    return make_s3_client()


def _located(where: Where) -> Location:
    return where if isinstance(where, Location) else parse(where)


def _check_plain(location: Location, *, prefix: bool) -> None:
    """Raise ForbiddenLocationError for a key that a store might read as another: `..`, `//`, a prefix for an object."""
    key = location.key
    if not prefix and (not key or key.endswith("/")):
        raise ForbiddenLocationError(f"{location} is a prefix, not an object")
    if location.bucket is None:
        if not key.startswith("/") or os.path.normpath(key) != (key.rstrip("/") or "/") or "\0" in key:
            raise ForbiddenLocationError(f"{key!r} is not a plain absolute path")
    elif key:
        check_relative(key)


def _under(root: Location, location: Location) -> bool:
    """Whether `root` contains `location`, in a folder also once every symbolic link is followed."""
    if location.bucket is not None or root.bucket is not None:
        return root.contains(location)
    if not root.contains(location):
        return False
    real_root, real = os.path.realpath(root.key), os.path.realpath(location.key)
    return real == real_root or real.startswith(real_root.rstrip("/") + "/")
