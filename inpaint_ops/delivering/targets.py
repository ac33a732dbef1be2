"""Where a delivery goes: a prefix (a folder, or one of a bucket), or a ZIP file on this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar

from inpaint_ops.delivering.contents import Image
from inpaint_ops.errors import (
    ConfigError,
    DamagedObjectError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.images import MEDIA_TYPES
from inpaint_ops.layout import StoreLayout
from inpaint_ops.locations import Location
from inpaint_ops.records import now
from inpaint_ops.storage import Storage
from inpaint_ops.storage.files import temporary_beside
from inpaint_ops.storage.interface import DEFAULT_CONTENT_TYPE

Outcome = Literal["written", "copied", "there"]
"""`copied`: by the store itself, so that no byte was read here. `there`: by an earlier delivery, the same bytes."""

_THREADS = 8
_AHEAD = 16
"""Images that are under way at most: as many may lie in the temporary folder."""
_NOTE_BYTES = 2**20
_ZIP64_FROM = 2**30

A = TypeVar("A")
B = TypeVar("B")


class Target(Protocol):
    """A delivery's place. Used as a context; what it holds counts once the context is left without an error."""

    resumes: bool
    """Whether a delivery that was interrupted leaves what it has put, and the next one goes on there."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """Put these images, and tell of each in the same order how that ended.

        Raises StorageUnavailableError, and ConfigError where another file has an image's name.
        """

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """Put a file that describes the delivery; one of an earlier delivery of the same run is replaced."""

    def read(self, name: str) -> bytes | None:
        """A file that is there from an earlier delivery; None where there is none."""


def check_target(where: Location, store: StoreLayout) -> None:
    """Raise ConfigError for a place in which this program keeps runs, or what starts them."""
    if store.is_kept_for_runs(where):
        raise ConfigError(
            f"{where} is where the store keeps its runs or what starts them: give a prefix beside them, "
            f"for example {store.store.join('delivered/')}"
        )


class Prefix:
    """A folder or a prefix of a bucket. Goes on where an earlier delivery of the same run stopped."""

    resumes = True

    def __init__(self, storage: Storage, prefix: Location, *, replace: bool) -> None:
        self._storage, self._prefix, self._replace = storage, prefix.as_prefix(), replace
        self._there: dict[str, int] = {}

    def __enter__(self) -> Self:
        start = len(self._prefix.key)
        self._there = {info.location.key[start:]: info.size for info in self._storage.list(self._prefix)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """See Target."""
        with tempfile.TemporaryDirectory(prefix="inpaint-ops-deliver-") as folder:
            yield from in_order(lambda image: _or_why(self._put_image, image, Path(folder)), images)

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """See Target."""
        self._storage.put(self._prefix.join(name), data, content_type=content_type)

    def read(self, name: str) -> bytes | None:
        """See Target."""
        return self._storage.get(self._prefix.join(name), max_bytes=_NOTE_BYTES) if name in self._there else None

    def _put_image(self, image: Image, folder: Path) -> Outcome:
        where = self._prefix.join(image.name)
        if image.name in self._there and not self._replace:
            if self._there[image.name] != image.size or self._digest(
                where, folder / f"there-{image.row.record.row}"
            ) != (image.sha256):
                raise _taken(image, where)
            return "there"
        info = self._storage.stat(image.place)
        _check_size(image, info.size)
        if self._storage.copy(info, where) is not None:
            return "copied"
        path = _fetched(self._storage, image, folder)
        media_type = next((kind for name, kind in MEDIA_TYPES.items() if name == image.format), DEFAULT_CONTENT_TYPE)
        try:
            self._storage.put(where, path, if_absent=not self._replace, content_type=media_type)
        except ObjectExistsError:
            raise _taken(image, where) from None
        finally:
            path.unlink()
        return "written"

    def _digest(self, where: Location, path: Path) -> str:
        self._storage.download(where, path)
        try:
            return _sha256(path)
        finally:
            path.unlink()


class ZipFile:
    """A ZIP file on this machine: it appears whole or not at all. Images are stored as they are, in one folder."""

    resumes = False

    def __init__(self, storage: Storage, path: Path, folder: str, *, replace: bool) -> None:
        self._storage, self._path, self._folder, self._replace = storage, path, folder, replace
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._path.is_dir():
            raise ConfigError(f"{self._path} is a folder: give the name of a file")
        if self._path.exists() and not self._replace:
            raise ConfigError(f"{self._path} is there already: choose another name, or add --replace")
        try:
            self._file, self._temporary = self._stack.enter_context(temporary_beside(self._path))
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error
        self._zip = zipfile.ZipFile(self._file, "w")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            if kind is None:
                self._zip.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._temporary, self._path)

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """See Target."""
        with tempfile.TemporaryDirectory(prefix="inpaint-ops-deliver-") as folder:
            fetch = partial(_fetched, self._storage)
            for image, got in in_order(lambda image: _or_why(fetch, image, Path(folder)), images):
                if isinstance(got, StorageError):
                    yield image, got
                    continue
                with (
                    got.open("rb") as source,
                    self._zip.open(
                        self._entry(image.name, image.row.made.finished_at), "w", force_zip64=image.size > _ZIP64_FROM
                    ) as out,
                ):
                    shutil.copyfileobj(source, out)
                got.unlink()
                yield image, "written"

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """See Target."""
        body = data.read_bytes() if isinstance(data, Path) else data
        self._zip.writestr(self._entry(name, now()), body, zipfile.ZIP_DEFLATED)

    def read(self, name: str) -> bytes | None:
        """None: a ZIP file that is there is replaced as a whole."""
        return None

    def _entry(self, name: str, moment: datetime) -> zipfile.ZipInfo:
        at = moment.astimezone(UTC)
        entry = zipfile.ZipInfo(f"{self._folder}/{name}", (max(at.year, 1980), *at.timetuple()[1:6]))
        entry.external_attr = 0o644 << 16
        return entry


def in_order(call: Callable[[A], B], items: Iterable[A]) -> Iterator[tuple[A, B]]:
    """What `call` returns of each item, in their order, while threads are at work on the next ones."""
    waiting: deque[tuple[A, Future[B]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="deliver") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(call, item)))
                if len(waiting) >= _AHEAD:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
        finally:
            for _, open_one in waiting:
                open_one.cancel()


def _or_why(call: Callable[[Image, Path], B], image: Image, folder: Path) -> B | StorageError:
    try:
        return call(image, folder)
    except StorageUnavailableError:
        raise
    except StorageError as error:
        return error


def _fetched(storage: Storage, image: Image, folder: Path) -> Path:
    """The image as a file in `folder`, its digest compared. Raises StorageError."""
    path = folder / f"{image.row.record.row}"
    info = storage.download(image.place, path, max_bytes=image.size)
    _check_size(image, info.size)
    if _sha256(path) != image.sha256:
        path.unlink()
        raise DamagedObjectError(f"row {image.row.record.row}: {image.place} is not the image that its record names")
    return path


def _check_size(image: Image, size: int) -> None:
    if size != image.size:
        raise DamagedObjectError(
            f"row {image.row.record.row}: {image.place} has {size:,} bytes, and its record says {image.size:,}"
        )


def _taken(image: Image, where: Location) -> ConfigError:
    return ConfigError(
        f"row {image.row.record.row}: {where} is there already, with other bytes: "
        "choose another place, or add --replace"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
