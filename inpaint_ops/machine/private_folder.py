"""Folders and files that no other user of this machine can read, replace or plant: how they are made and opened.

A name below the shared temporary folder belongs to whoever makes it first. So no name is trusted here: each folder on
the way is opened without following links and looked at through its descriptor, and a file is used only if it is a
regular file with one name, of an owner that is expected.

A folder is *trusted* if it belongs to this user or to root and nobody else can write to it. Above the folder that is
asked for, a sticky one (`/tmp`, mode 1777) will do as well: there nobody can rename or remove what is ours.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import pwd
import secrets
import stat
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from inpaint_ops.errors import UnsafePathError

log = logging.getLogger(__name__)

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_LINKS = 40
"""As many symbolic links in one path as Linux follows."""
_TRIES = 10
"""Of opening a file that others remove and make anew meanwhile."""


def private_folder(path: Path) -> Path:
    """The folder `path`, made with mode 0700 if it is missing, as an absolute path without links.

    Only this user can enter it. One that others may read is closed to them, and the log says so. Raises OSError, and
    UnsafePathError where it is another user's, others can write to it, or others could put another folder in its place.
    """
    descriptor, real = _open_folder(path, make=True)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise UnsafePathError(f"{real} belongs to uid {found.st_uid}, not to uid {os.geteuid()}: remove it")
        _check_writers(found, real)
        if stat.S_IMODE(found.st_mode) & 0o077:
            log.warning("%s had the mode %04o; only its owner can enter it now", real, stat.S_IMODE(found.st_mode))
            _set_mode(descriptor, 0o700)
        return real
    finally:
        os.close(descriptor)


def trusted_folder(path: Path, *, make: bool = True, sticky: bool = False) -> Path:
    """The folder `path`, made with mode 0700 if it is missing (and `make`), as an absolute path without links.

    Others may read what is in it; only this user and root can change it. With `sticky`, others may add to it, but not
    rename or remove what is ours: for a folder in which we only make new folders. Raises UnsafePathError, OSError.
    """
    descriptor, real = _open_folder(path, make=make)
    try:
        found = os.fstat(descriptor)
        _check_owner(found, real)
        _check_writers(found, real, sticky=sticky)
        return real
    finally:
        os.close(descriptor)


def open_file(path: Path, flags: int, mode: int = 0o600, *, owners: Collection[int] | None = ()) -> int:
    """A descriptor of the regular file `path`, opened with `flags` (O_CREAT makes one with `mode`).

    `path.parent` is a folder that one of the functions above has returned. The owner must be this user or one of
    `owners`; None allows any. Never waits (a FIFO), never follows a link, never opens a device. Raises UnsafePathError
    for what is no such file, FileNotFoundError, OSError.
    """
    create, flags = flags & os.O_CREAT, flags & ~(os.O_CREAT | os.O_EXCL)
    if flags & os.O_TRUNC:
        raise ValueError("truncate the file after it is opened: until then it may be any file")
    folder = os.open(path.parent, _FOLDER)
    try:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                _check_file(os.stat(path.name, dir_fd=folder, follow_symlinks=False), path, owners)
                return _opened(os.open(path.name, flags | _FILE, dir_fd=folder), path, owners)
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            with contextlib.suppress(FileExistsError):
                # Without O_EXCL, Linux refuses to create over another user's file in a sticky folder.
                created = os.open(path.name, flags | _FILE | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
                return _opened(created, path, owners)
        raise UnsafePathError(f"{path} is made and removed all the time by another process")
    finally:
        os.close(folder)


def read_bounded(path: Path, limit: int, *, tail: bool = False, owners: Collection[int] | None = ()) -> bytes:
    """The first `limit` bytes of the file, or with `tail` its last ones. Raises as `open_file` does."""
    descriptor = open_file(path, os.O_RDONLY, owners=owners)
    with open(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        file.seek(max(0, size - limit) if tail else 0)
        found = bytearray()
        while len(found) < limit and (piece := file.read(limit - len(found))):
            found += piece
        return bytes(found)


def replace_file(path: Path, data: bytes) -> None:
    """Write the whole file at once, for its owner's eyes: a reader sees the old one or the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = open_file(temporary, os.O_WRONLY | os.O_CREAT)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open_folder(path: Path, *, make: bool) -> tuple[int, Path]:
    """An O_PATH descriptor of the folder and its path without links; each folder above it is trusted."""
    absolute = os.path.abspath(path)
    todo = list(reversed(Path(absolute).parts[1:]))
    links, here, descriptor = 0, Path("/"), os.open("/", _FOLDER)
    closed = True  # whether only root and this user could have put there what is looked at
    try:
        while todo:
            above = os.fstat(descriptor)
            _check_owner(above, here, closed=closed)
            _check_writers(above, here, sticky=True)
            closed = not _others_write(above)
            name = todo.pop()
            if make and name != "..":
                _make(name, descriptor)
            entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(entry.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), absolute)
                _check_owner(entry, here / name, closed=closed)
                target = Path(os.readlink(name, dir_fd=descriptor))
                todo += [part for part in reversed(target.parts) if part != "/"]
                if not target.is_absolute():
                    continue
                step, here, closed = os.open("/", _FOLDER), Path("/"), True
            else:
                step = os.open(name, _FOLDER, dir_fd=descriptor)
                here = here.parent if name == ".." else here / name
            os.close(descriptor)
            descriptor = step
        return descriptor, here
    except BaseException:
        os.close(descriptor)
        raise


def _make(name: str, parent: int) -> None:
    """Make the folder where nothing has this name; what has it, or gets it at the same moment, is looked at next."""
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)


def _set_mode(folder: int, mode: int) -> None:
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _check_owner(found: os.stat_result, path: Path, *, closed: bool = False) -> None:
    """Refuse what belongs to another user. Where root has no number, what none but root could put there is root's."""
    if found.st_uid not in (0, os.geteuid()) and not (closed and found.st_uid == _nobody()):
        raise UnsafePathError(
            f"{path} belongs to uid {found.st_uid}, neither to uid {os.geteuid()} nor to root: remove it, or choose "
            "another folder"
        )


def _check_writers(found: os.stat_result, path: Path, *, sticky: bool = False) -> None:
    """Refuse a folder to which others may write, unless it is sticky and that is enough."""
    if _others_write(found) and not (sticky and found.st_mode & stat.S_ISVTX):
        cure = "chmod +t" if sticky else "look at what is in it, then chmod go-w"
        raise UnsafePathError(
            f"other users can write to {path} (mode {stat.S_IMODE(found.st_mode):04o}): {cure} it, or choose another "
            "folder"
        )


def _others_write(found: os.stat_result) -> bool:
    by_group = found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid, os.geteuid())
    return bool(found.st_mode & stat.S_IWOTH or by_group)


@lru_cache(maxsize=1)
def _nobody() -> int | None:
    """The owner that the kernel shows for files of users without a number in this user namespace, root among them.

    None where root has one, as outside of namespaces and in containers (user_namespaces(7)).
    """
    try:
        numbers = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
        shown = int(Path("/proc/sys/fs/overflowuid").read_text())
    except (OSError, ValueError):
        return None
    return None if any(first <= one < first + count for first, _, count in numbers for one in (0, shown)) else shown


@lru_cache(maxsize=64)
def _is_own_group(gid: int, uid: int) -> bool:
    """Whether nobody but this user and root is in the group: it is root's, or the one that bears this user's name."""
    if gid == 0:
        return True
    try:
        name, group = pwd.getpwuid(uid).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == name and set(group.gr_mem) <= {name}


def _opened(descriptor: int, path: Path, owners: Collection[int] | None) -> int:
    """The descriptor, if it is what it should be; else it is closed."""
    try:
        _check_file(os.fstat(descriptor), path, owners)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_file(found: os.stat_result, path: Path, owners: Collection[int] | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
        raise UnsafePathError(f"{path} is {kind}: remove it")
    if found.st_nlink > 1:
        raise UnsafePathError(f"{path} is one file under {found.st_nlink} names (hard links): remove it")
    if owners is not None and found.st_uid not in (os.geteuid(), *owners):
        raise UnsafePathError(f"{path} belongs to uid {found.st_uid}, not to uid {os.geteuid()}: remove it")
