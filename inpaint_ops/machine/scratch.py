"""Local scratch: a folder per try, swept when its owner is dead; and waiting for what may pass, a full disk above all.

The root belongs to this user or to root, and nobody else can rename what is in it (`trusted_folder`); a try's folder is
new and has the mode 0700. A root that is made here has that mode too: where a worker is to run as another user, give
the root the mode 0711 (names in it cannot be guessed) and the worker's folder to that user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from inpaint_ops.errors import InpaintOpsError, ScratchFullError
from inpaint_ops.machine.private_folder import trusted_folder

log = logging.getLogger(__name__)
T = TypeVar("T")

_OWNER, _UNLOCKED = ".owner", ".owner-to-be"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


@contextlib.contextmanager
def scratch_folder(root: Path, name: str) -> Iterator[Path]:
    """A new folder below `root` for as long as the block lasts.

    The owner holds a `flock` on a file in it, which the kernel gives up with the process, so a folder whose lock is
    free belongs to nobody, and `sweep` removes it. Raises UnsafePathError, ScratchFullError, OSError.
    """
    with room_for(root):
        folder = trusted_folder(root, sticky=True) / name
        folder.mkdir(mode=0o700)  # an error where it exists: what is there may be anyone's
        descriptor = os.open(folder / _UNLOCKED, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (folder / _UNLOCKED).rename(folder / _OWNER)  # only now may a sweep look at it
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path) -> None:
    """Remove this user's folders below `root` whose processes died. Raises UnsafePathError."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # reported when scratch is made
        root = trusted_folder(root, make=False, sticky=True)
        for folder in sorted(root.iterdir()):
            with contextlib.suppress(OSError):  # another sweeps it as well, or it is a file, or another user's
                _sweep_one(folder)


def _sweep_one(folder: Path) -> None:
    """Remove the folder if it is a try's of this user, and nobody holds its lock. Raises OSError."""
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(inside).st_uid != os.geteuid():
            return
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_OWNER, flags, dir_fd=inside)
    finally:
        os.close(inside)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        log.info("removed the scratch of a process that died: %s", folder)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, or whatever was put in its place; follows no link, raises nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.unlink()


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the system's error for a full disk, or a used-up quota, into ScratchFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ScratchFullError(f"no room left on the disk of {path}: free some, or set INPAINT_SCRATCH") from error
        raise


def patiently(
    call: Callable[[], T], may_pass: tuple[type[InpaintOpsError], ...], seconds: float, stop: threading.Event
) -> T:
    """What `call` returns, called again while it raises one of `may_pass`, for up to `seconds` from the first failure.

    Pauses grow from half a second to ten. Once `stop` is set, the next failure is the last.
    """
    deadline, pause = None, _FIRST_PAUSE
    while True:
        try:
            return call()
        except may_pass as error:
            now = time.monotonic()
            if deadline is None:
                deadline = now + seconds
                log.warning("%s; waiting up to %.0f s", error, seconds)
            if now + pause >= deadline or stop.wait(pause):
                raise
            pause = min(pause * 2, _LONGEST_PAUSE)
