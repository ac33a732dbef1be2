"""Where leases lie: a file per device, locked by the process that uses it, and a file of the times that it failed.

Each user has a folder of their own, so two users do not see each other's leases. Where several users share a machine's
devices, its administrator makes one folder for all (`INPAINT_LEASES`). There every user may lock every file, so any of
them can keep a device to themselves; none can make another read, change or wait for anything else. What failed is noted
in each user's own folder: nobody can have a device refused to others.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.errors import ConfigError, one_line
from inpaint_ops.machine.private_folder import open_file, private_folder, read_bounded, trusted_folder

LOSS_SECONDS = 3600.0
"""How long a device's failure is held against it."""

_HOLDER_BYTES = 200
_LOSSES_BYTES = 65_536
_LOSS = re.compile(r"(\d+(?:\.\d+)?) (.+)")


def own_folder() -> Path:
    """This user's folder of leases, below the temporary folder."""
    return Path(tempfile.gettempdir()) / f"inpaint_ops-leases-{os.geteuid()}"


@dataclass(frozen=True, slots=True)
class LeaseFolder:
    """Where the locks are, and where it is noted that a device failed. `shared`: other users lock files there too."""

    locks: Path
    losses: Path
    shared: bool = False

    @classmethod
    def of(cls, shared: str = "") -> LeaseFolder:
        """The folder that an administrator has made for all users, or, where none is named, this user's own."""
        own = own_folder()
        return cls(Path(shared), own, shared=True) if shared else cls(own, own)

    def lock(self, device: str) -> int | None:
        """An open descriptor that holds the lock of the device, or None while another has it. Raises ConfigError."""
        try:
            path = self._checked() / self.lock_path(device).name
            descriptor = self._open(path)
        except OSError as error:
            cure = "make its folder as docs/deploy.md says" if self.shared else "make its folder writable"
            raise ConfigError(
                f"cannot open the device lease {self.lock_path(device)}: {error.strerror}; {cure}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = path.lstat()
            if (there.st_dev, there.st_ino) != (os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino):
                raise FileNotFoundError  # removed between its opening and its locking: the next try has the new one
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return None
        _write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n")
        return descriptor

    def unlock(self, descriptor: int) -> None:
        """Say that nobody holds the device; closing the descriptor gives it back."""
        _write(descriptor, "")

    def holder(self, device: str) -> str:
        """What the file says of who holds the device: for people, it proves nothing."""
        try:
            path = self._checked() / self.lock_path(device).name
            text = read_bounded(path, _HOLDER_BYTES, owners=self._owners)
        except (OSError, ConfigError):
            return "an unknown process"
        return one_line(text.decode(errors="replace").strip("\0\n ")) or "an unknown process"

    def note_loss(self, device: str, why: str, at: float) -> None:
        """Note that the device failed `at` that time, in epoch seconds. Raises OSError, ConfigError."""
        path = private_folder(self.losses) / self.losses_path(device).name
        with open(open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8") as file:
            file.write(f"{float(at)!r} {' '.join(one_line(why).split())}\n")

    def losses_of(self, device: str, at: float) -> list[str]:
        """Why the device failed, each time within LOSS_SECONDS before `at`, oldest first; of the file's last 64 KiB."""
        try:
            path = private_folder(self.losses) / self.losses_path(device).name
            text = read_bounded(path, _LOSSES_BYTES, tail=True).decode(errors="replace")
        except OSError:
            return []
        found = [match for line in text.splitlines() if (match := _LOSS.fullmatch(line))]
        return [match[2] for match in found if abs(at - float(match[1])) < LOSS_SECONDS]

    def lock_path(self, device: str) -> Path:
        """The file that is locked."""
        return self.locks / f"{_file_name(device)}.lease"

    def losses_path(self, device: str) -> Path:
        """The file that says when the device failed."""
        return self.losses / f"{_file_name(device)}.losses"

    @property
    def _owners(self) -> tuple[int, ...] | None:
        return None if self.shared else ()

    def _checked(self) -> Path:
        """The folder of the locks, without links, if it may be used."""
        return trusted_folder(self.locks, make=False, sticky=True) if self.shared else private_folder(self.locks)

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT
        if not self.shared:
            return open_file(path, flags)
        try:
            descriptor = open_file(path, flags, 0o666, owners=None)
        except PermissionError:  # another user's, closed by their umask: it can be locked all the same
            return open_file(path, os.O_RDONLY, owners=None)
        if os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, 0o666)  # whoever holds the device says so in it, whatever our umask is
        return descriptor


def _write(descriptor: int, text: str) -> None:
    """Make `text` the file's only words, where it may be written."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _file_name(device: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", device)
