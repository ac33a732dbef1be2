"""A folder as an object store: keys are absolute paths."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from inpaint_ops.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location
from inpaint_ops.storage.files import TEMP_PREFIX, locked, temporary_beside
from inpaint_ops.storage.interface import DEFAULT_CONTENT_TYPE, MAX_PRESIGN, ObjectInfo, Unfinished, check_size

_CHUNK = 2**20
_LATEST = 7_258_118_400.0
"""The year 2200, as a POSIX time."""
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE,
    errno.EAGAIN, errno.EBUSY, errno.ENOTCONN,
}  # fmt: skip
"""What a disk or a network mount may get over."""


class FolderStore:
    """The local file system, or a network mount. Safe to use from many threads and processes at once.

    A put is a temporary file in the same folder, synced, then renamed over the key, or hard-linked to it if it must be
    absent: the kernel lets exactly one link win. A put that replaces one version holds a lock on a file beside the key
    while it compares and renames; a put without a condition does not ask for that lock. Content types are not kept.
    Symbolic links to files are objects; those to folders are not walked into. A listing leaves out the links that
    `may_follow` does not allow.
    """

    def __init__(self, may_follow: Callable[[Location], bool] = lambda _: True) -> None:
        self._may_follow = may_follow

    def get(
        self,
        key: str,
        *,
        byte_range: tuple[int, int] | None = None,
        max_bytes: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """See ObjectStore."""
        where = Location(None, key)
        with _open_object(where) as file:
            info = _describe(where, os.fstat(file.fileno()))
            if if_match is not None and if_match != info.etag:
                raise ObjectChangedError(f"cannot read {where}: it has changed since it was last looked at")
            first, last = byte_range if byte_range is not None else (0, info.size - 1)
            if byte_range is not None and first >= info.size:
                raise StorageError(f"cannot read {where}: the range begins beyond its end")
            size = min(last, info.size - 1) - first + 1
            check_size(where, size, max_bytes)
            file.seek(first)
            data = _read(file, size, where)
        if len(data) != size:
            raise StorageUnavailableError(f"cannot read {where}: it shrank while it was read")
        return data

    def get_unchecked(self, key: str, *, max_bytes: int) -> bytes:
        """See ObjectStore."""
        return self.get(key, max_bytes=max_bytes)

    def download(self, key: str, path: Path, *, max_bytes: int | None = None) -> ObjectInfo:
        """See ObjectStore."""
        where = Location(None, key)
        with _open_object(where) as source:
            info = _describe(where, os.fstat(source.fileno()))
            check_size(where, info.size, max_bytes)
            with temporary_beside(path) as (file, temporary):
                copied = 0
                while chunk := _read(source, _CHUNK, where):
                    copied += file.write(chunk)
                if copied != info.size:
                    raise StorageUnavailableError(f"cannot read {where}: it changed while it was read")
                file.flush()
                os.replace(temporary, path)
        return info

    def put(
        self,
        key: str,
        data: bytes | Path,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str = DEFAULT_CONTENT_TYPE,
    ) -> ObjectInfo:
        """See ObjectStore. Raises StorageError if a folder has this key, or an object that of one of its folders."""
        where = Location(None, key)
        with (
            io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as source,
            _folder_errors(where, "write"),
            temporary_beside(Path(key)) as (file, temporary),
        ):
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
            info = _describe(where, os.fstat(file.fileno()))
            if if_match is not None:
                with locked(Path(key)):
                    try:
                        if self.stat(key).etag != if_match:
                            return self._ours(where, file)
                    except (ObjectExistsError, ObjectNotFoundError):
                        raise ObjectChangedError(f"{where} has changed since it was last looked at") from None
                    os.replace(temporary, key)
            elif not if_absent:
                os.replace(temporary, key)
            else:
                try:
                    os.link(temporary, key)
                except FileExistsError:
                    return self._ours(where, file)
            _sync_folder(os.path.dirname(key))
        return info

    def copy(self, source: ObjectInfo, key: str) -> ObjectInfo | None:
        """None: nothing copies without reading here. See ObjectStore."""
        return None

    def list(self, prefix: str, *, direct: bool = False, starting: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        wanted = prefix + starting
        folders = [prefix]
        while folders:
            folder = folders.pop()
            with (
                _folder_errors(Location(None, folder), "list"),
                suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(folder) as found,
            ):
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        is_on_the_way = entry.path.startswith(wanted) or wanted.startswith(entry.path + "/")
                        folders += [entry.path] if is_on_the_way and not direct else []
                    elif not entry.path.startswith(wanted):
                        continue
                    elif entry.is_file() and not entry.name.startswith(TEMP_PREFIX):
                        where = Location(None, entry.path)
                        if entry.is_symlink() and not self._may_follow(where):
                            continue
                        try:
                            status = entry.stat()
                        except FileNotFoundError:  # deleted meanwhile
                            continue
                        yield _describe(where, status)

    def folders(self, prefix: str) -> Iterator[str]:
        """See ObjectStore. Empty folders count too: a file system has them."""
        with _folder_errors(Location(None, prefix), "list"), suppress(FileNotFoundError, NotADirectoryError):
            with os.scandir(prefix) as found:
                names = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
            yield from names

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        where = Location(None, key)
        with _folder_errors(where, "read"):
            status = Path(key).stat()
        if not modes.S_ISREG(status.st_mode):
            raise ObjectNotFoundError(f"there is no object {where}: it is a folder, or no plain file")
        return _describe(where, status)

    def delete(self, key: str) -> None:
        """See ObjectStore. Folders that become empty stay."""
        if Path(key).is_dir():
            return
        with _folder_errors(Location(None, key), "delete"), suppress(FileNotFoundError, NotADirectoryError):
            Path(key).unlink()

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """See ObjectStore: temporary files of processes that died before they could rename them."""
        for folder, _, names in os.walk(prefix):
            for name in names:
                path = Path(folder) / name
                if name.startswith(TEMP_PREFIX) and not path.is_symlink():
                    with _folder_errors(Location(None, str(path)), "list"), suppress(FileNotFoundError):
                        started = _moment(path.stat().st_mtime)
                        yield Unfinished(Location(None, str(path)), "", started)

    def discard(self, unfinished: Unfinished) -> None:
        """See ObjectStore."""
        self.delete(unfinished.location.key)

    def presign(self, key: str, expires: timedelta, *, longest: timedelta = MAX_PRESIGN) -> str:
        """Raises StorageError: a folder has no links."""
        raise StorageError(f"{key} is in a folder, which has no links: read the file, or use an S3 store")

    def credentials_end(self) -> datetime | None:
        """None: a folder has none."""
        return None

    def _ours(self, where: Location, file: BinaryIO) -> ObjectInfo:
        """The object there, if it holds the file's very bytes. Raises ObjectExistsError if it does not."""
        try:
            info = self.stat(where.key)
        except ObjectNotFoundError:
            raise StorageError(f"cannot write {where}: it is a folder that holds other objects") from None
        file.seek(0)
        if info.size != os.fstat(file.fileno()).st_size or self.get(where.key) != file.read():
            raise ObjectExistsError(f"{where} exists already")
        return info


@contextmanager
def _open_object(where: Location) -> Iterator[BinaryIO]:
    # Non-blocking, or a named pipe would wait for a writer for ever.
    with _folder_errors(where, "read"):
        descriptor = os.open(where.key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not modes.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ObjectNotFoundError(f"there is no object {where}: it is a folder, or no plain file")
    with open(descriptor, "rb") as file:
        yield file


def _read(file: BinaryIO, size: int, where: Location) -> bytes:
    with _folder_errors(where, "read"):
        return file.read(size)


def _describe(where: Location, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(where, status.st_size, etag, _moment(status.st_mtime))


def _moment(seconds: float) -> datetime:
    """When; a file may be given any time, beyond what a calendar has too."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST), UTC)


def _sync_folder(folder: str) -> None:
    """Make a rename in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_above(where: Location) -> Path | None:
    """The file that stands where one of an object's folders would be; None if there is none."""
    return next((path for path in Path(where.key).parents if path.exists() and not path.is_dir()), None)


@contextmanager
def _folder_errors(where: Location, action: str) -> Iterator[None]:
    """Raise our error in place of the system's."""
    try:
        yield
    except OSError as error:
        message = f"cannot {action} {where}: {error.strerror or type(error).__name__}"
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise AccessDeniedError(f"{message}; check the owner and the mode of the folder") from error
        if error.errno in _PASSING:
            raise StorageUnavailableError(message) from error
        if action == "write" and isinstance(error, FileNotFoundError):  # as below /proc, where nobody makes a folder
            raise AccessDeniedError(
                f"cannot write {where}: no folder can be made there; choose another store (--out, INPAINT_STORE)"
            ) from error
        if action == "write" and (file := _file_above(where)) is not None:
            raise StorageError(
                f"cannot write {where}: {file} is a file and no folder; rename it, or choose another store (--out, "
                "INPAINT_STORE)"
            ) from error
        if action == "write" and isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError)):
            raise StorageError(
                f"cannot write {where}: in a folder no key can be an object and hold others too; rename one of them"
            ) from error
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise ObjectNotFoundError(f"there is no object {where}") from error
        raise StorageError(message) from error
