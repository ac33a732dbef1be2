"""What is taken from a worker: one regular file, of the row's own folder, of the format that was asked for.

A worker decodes images of strangers, so what it says is not believed. The supervisor alone knows where a row's output
lies and of what format it must be. It opens that file once, copies it into a file without a name that the worker cannot
reach, and looks at, hashes and stores that copy.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from inpaint_ops.config import EXTENSIONS, SideProduct
from inpaint_ops.errors import ImageError, WorkerProtocolError
from inpaint_ops.images import (
    MEDIA_TYPES,
    PREVIEW_BYTES,
    PREVIEW_SIZE,
    THUMBNAIL_BYTES,
    Format,
    side_product_file,
    thumbnail_name,
)
from inpaint_ops.images.header import FileHeader, read_file_header
from inpaint_ops.layout import SIDE_PRODUCT_FORMATS
from inpaint_ops.machine.scratch import room_for
from inpaint_ops.protocol import PROFILE

OUTPUT = "output"
"""The name of a row's output, in the row's folder."""

_BYTES_PER_PIXEL = 8
"""16 bits for each of four channels: the most that any of our formats stores, before it is packed."""
_ROOM = 16 * 2**20
"""Bytes for headers, a colour profile, and what packing adds to pixels that cannot be packed."""
_CHUNK = 2**20
PROFILE_BYTES = 64 * 2**20
"""Of a worker's profile, packed; what it may hold is bounded to a tenth of that."""
_NOT_A_FILE = {
    errno.ENOENT: "it is not there",
    errno.ELOOP: "it is a symbolic link",
    errno.ENOTDIR: "its folder was replaced",
    errno.ENXIO: "it is no regular file",
    errno.ENODEV: "it is no regular file",
    errno.EACCES: "it cannot be read",
    errno.EPERM: "it cannot be read",
}
"""What a worker can do to its output, by what the system then says; anything else is a fault of this machine."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a row's output must be.

    `size` is the source's (width, height) as its header says, None where that is not known; `owner` is the user id that
    the worker runs as.
    """

    folder: Path
    format: Format
    max_pixels: int
    owner: int
    size: tuple[int, int] | None = None

    @property
    def max_bytes(self) -> int:
        """Bytes of the largest file that could be an honest output."""
        pixels = self.max_pixels if self.size is None else min(self.size[0] * self.size[1], self.max_pixels)
        return pixels * _BYTES_PER_PIXEL * 9 // 8 + _ROOM


@dataclass(frozen=True, slots=True)
class Received:
    """A copy that only this process can open, under `path`, for as long as the block of `receive` lasts."""

    path: Path
    bytes: int
    sha256: str
    width: int
    height: int
    format: Format
    media_type: str
    extension: str


def source_size(image: Path) -> tuple[int, int] | None:
    """Width and height as a source's header says; None where they cannot be read: its decoder will say why."""
    try:
        with regular(image.parent, image.name) as file:
            header = read_file_header(file)
    except (ImageError, OSError):
        return None
    return header.width, header.height


@contextlib.contextmanager
def receive(expected: Expected) -> Iterator[Received]:
    """Take a row's output.

    Raises WorkerProtocolError where it is missing, not a regular file, another user's, linked from elsewhere, too
    large, of another format than asked for or of another size than the source; ScratchFullError where there is no room
    for the copy.
    """
    with _taken(
        expected, OUTPUT, expected.format, expected.max_bytes, partial(_checked, expected=expected)
    ) as received:
        yield received


@contextlib.contextmanager
def receive_side_product(expected: Expected, kind: SideProduct, size: tuple[int, int]) -> Iterator[Received]:
    """Take a file that the worker has left beside a row's output, which is of `size`, (width, height).

    Raises WorkerProtocolError where it is missing, or is not what such a file may be; ScratchFullError.
    """

    def check(copy: BinaryIO) -> FileHeader:
        try:
            header = read_file_header(copy)
        except ImageError as error:
            raise _refused(f"it {error}") from error
        found = header.width, header.height
        fits = {
            "patch": found[0] <= size[0] and found[1] <= size[1],
            "mask": found == size,
            "preview": max(found) <= PREVIEW_SIZE,
        }
        if header.format != form or not fits[kind]:
            raise _refused(f"it is {header.format} of {found[0]}x{found[1]}, which no {kind} of this image is")
        return header

    form = SIDE_PRODUCT_FORMATS[kind]
    most = PREVIEW_BYTES if kind == "preview" else expected.max_bytes
    with _taken(expected, side_product_file(kind), form, most, check) as received:
        yield received


@contextlib.contextmanager
def _taken(
    expected: Expected, name: str, form: Format, max_bytes: int, check: Callable[[BinaryIO], FileHeader]
) -> Iterator[Received]:
    with room_for(expected.folder), tempfile.TemporaryFile(dir=expected.folder.parent) as copy:
        digest = hashlib.sha256()
        with _opened(expected, name, max_bytes) as file:
            size = _copy(file, copy, digest.update, max_bytes)
        header = check(copy)
        copy.flush()
        yield Received(
            path=Path(f"/proc/self/fd/{copy.fileno()}"),
            bytes=size,
            sha256=digest.hexdigest(),
            width=header.width,
            height=header.height,
            format=form,
            media_type=MEDIA_TYPES[form],
            extension=EXTENSIONS[form],
        )


def receive_thumbnail(expected: Expected, size: int) -> bytes:
    """A small picture that the worker has left beside a row's output, `size` pixels long at most: a WebP file.

    Raises WorkerProtocolError where it is missing, or is not what a thumbnail may be.
    """
    most, copy = THUMBNAIL_BYTES[size], io.BytesIO()
    with _opened(expected, thumbnail_name(size), most) as file:
        _copy(file, copy, lambda _: None, most)
    try:
        header = read_file_header(copy)
    except ImageError as error:
        raise _refused(f"it {error}") from error
    if header.format != "webp" or max(header.width, header.height) > size:
        raise _refused(f"it is {header.format} of {header.width}x{header.height}, and a thumbnail is WebP up to {size}")
    return copy.getvalue()


def receive_profile(folder: Path, owner: int) -> bytes:
    """What a worker that is profiled, which runs as the user `owner`, has left in its own `folder`.

    Raises WorkerProtocolError where it is missing, or larger than such a file is.
    """
    copy = io.BytesIO()
    with _opened(Expected(folder, "png", 1, owner), PROFILE, PROFILE_BYTES) as file:
        _copy(file, copy, lambda _: None, PROFILE_BYTES)
    return copy.getvalue()


@contextlib.contextmanager
def _opened(expected: Expected, name: str, max_bytes: int) -> Iterator[BinaryIO]:
    """A file of the row's, opened once: what is checked is what is read, whatever names are moved meanwhile."""
    try:
        with regular(expected.folder, name) as file:
            status = os.fstat(file.fileno())
            if status.st_uid != expected.owner:
                raise _refused(f"it belongs to the user {status.st_uid}")
            if status.st_nlink != 1:
                raise _refused("it is linked from elsewhere")
            if status.st_size > max_bytes:
                raise _refused(f"it has {status.st_size:,} bytes, and {max_bytes:,} would be the most")
            yield file
    except OSError as error:
        if error.errno not in _NOT_A_FILE or error.filename is None:
            raise
        raise _refused(_NOT_A_FILE[error.errno]) from error


@contextlib.contextmanager
def regular(folder: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file directly in `folder`, for reading. No link is followed, and no pipe or device is waited for.

    Raises OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    directory = os.open(folder, flags | os.O_DIRECTORY)
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "no regular file", name)
    with open(descriptor, "rb") as file:
        yield file


def _copy(source: BinaryIO, target: BinaryIO, update: Callable[[bytes], None], max_bytes: int) -> int:
    """Copy a file that may grow while it is read; the bytes that it had."""
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise _refused(f"it grew beyond {max_bytes:,} bytes while it was read")
        update(chunk)
        target.write(chunk)
    return size


def _checked(copy: BinaryIO, expected: Expected) -> FileHeader:
    try:
        header = read_file_header(copy)
    except ImageError as error:
        raise _refused(f"it {error}") from error
    if header.format != expected.format:
        raise _refused(f"it is {header.format}, and {expected.format} was asked for")
    size = header.width, header.height
    # A turned source (EXIF) has its sides swapped; where its header says nothing, the limit on pixels is left.
    if expected.size is not None and size not in (expected.size, expected.size[::-1]):
        raise _refused(f"it is {size[0]}x{size[1]}, and its source is {expected.size[0]}x{expected.size[1]}")
    if size[0] * size[1] > expected.max_pixels:
        raise _refused(f"it is {size[0]}x{size[1]}, more than {expected.max_pixels:,} pixels (INPAINT_MAX_PIXELS)")
    return header


def _refused(why: str) -> WorkerProtocolError:
    return WorkerProtocolError(f"the worker's output was refused: {why}")
