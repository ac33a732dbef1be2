"""Images on their way: fetched by several threads, in their order, each with its digest compared."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from inpaint_ops.delivering.contents import Image
from inpaint_ops.errors import DamagedObjectError, StorageError, StorageUnavailableError
from inpaint_ops.storage import Storage

THREADS = 8
AHEAD = 16
"""Images that are under way at most: as many may lie in the temporary folder."""

A = TypeVar("A")
B = TypeVar("B")


def in_order(
    call: Callable[[A], B], items: Iterable[A], *, threads: int = THREADS, ahead: int = AHEAD
) -> Iterator[tuple[A, B]]:
    """What `call` returns of each item, in their order, while threads are at work on the next ones."""
    waiting: deque[tuple[A, Future[B]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="deliver") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(call, item)))
                if len(waiting) >= ahead:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
        finally:
            for _, open_one in waiting:
                open_one.cancel()


def or_why(call: Callable[[Image, Path], B], image: Image, folder: Path) -> B | StorageError:
    """What `call` returns, or the error of this image alone. Raises StorageUnavailableError."""
    try:
        return call(image, folder)
    except StorageUnavailableError:
        raise
    except StorageError as error:
        return error


def fetched(storage: Storage, image: Image, folder: Path) -> Path:
    """The image as a file in `folder`, its digest compared. Raises StorageError."""
    path = folder / f"{image.row.record.row}{image.beside}"
    info = storage.download(image.place, path, max_bytes=image.size)
    check_size(image, info.size)
    if sha256_of(path) != image.sha256:
        path.unlink()
        raise DamagedObjectError(f"row {image.row.record.row}: {image.place} is not the image that its record names")
    return path


def check_size(image: Image, size: int) -> None:
    """Raise DamagedObjectError unless the image has the size that its record says."""
    if size != image.size:
        raise DamagedObjectError(
            f"row {image.row.record.row}: {image.place} has {size:,} bytes, and its record says {image.size:,}"
        )


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
