"""The lease: the right of one process to use one device of this machine."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from inpaint_ops.device.lease_files import LeaseFolder
from inpaint_ops.errors import ConfigError, DeviceBusyError, DeviceLostError

_POLL = 0.2
_SAY_EVERY = 15.0

MAX_LOSSES = 2
"""Failures within that time after which a device is leased to nobody."""


class Lease:
    """The right to use one device of this host, held by this process alone.

    It is a `flock` on a file: the kernel takes it back when the process ends, however it ends. The descriptor does not
    survive `exec`, and a forked child drops its copy, so no child keeps a dead parent's lease.
    """

    def __init__(self, device: str, folder: LeaseFolder, descriptor: int, clock: Callable[[], float]) -> None:
        """Use `acquire`."""
        self.device = device
        self.path = folder.lock_path(device)
        self._folder = folder
        self._descriptor = descriptor
        self._clock = clock
        _HELD.add(self)

    @classmethod
    def acquire(
        cls,
        candidates: Sequence[str],
        folder: Path | LeaseFolder,
        timeout: float,
        on_wait: Callable[[str], None] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Lease the first free of `candidates`, waiting up to `timeout` seconds for one.

        A device that failed under a worker of this host within LOSS_SECONDS comes last; one that did so MAX_LOSSES
        times is left out, so that a broken card does not use up every attempt. `on_wait` is called with who holds them
        when the waiting begins and every 15 s. All processes that share the devices must name the same `folder`; a path
        is this user's own. `clock` says when devices failed, in epoch seconds. Raises DeviceBusyError that names the
        holders; DeviceLostError where every candidate has failed; ConfigError when the folder cannot be used, or
        another user could read or change what is in it, or there is no candidate.
        """
        if not candidates:
            raise ConfigError("no device to lease")
        folder = folder if isinstance(folder, LeaseFolder) else LeaseFolder(folder, folder)
        deadline = time.monotonic() + timeout
        next_word = time.monotonic()
        while True:
            losses = {device: folder.losses_of(device, clock()) for device in candidates}
            sound = [device for device in candidates if len(losses[device]) < MAX_LOSSES]
            for device in sorted(sound, key=lambda device: len(losses[device])):
                descriptor = folder.lock(device)
                if descriptor is not None:
                    return cls(device, folder, descriptor, clock)
            now = time.monotonic()
            holders = ", ".join(
                f"{device} by {folder.holder(device)}" if device in sound
                else f"{device} by nobody: it has failed {len(losses[device])} times ({losses[device][-1]}); "
                f"once it is well remove {folder.losses_path(device)}"
                for device in candidates
            )  # fmt: skip
            if now >= deadline:
                kind = DeviceBusyError if sound else DeviceLostError
                raise kind(f"no free device after {timeout:.0f} s: held are {holders}")
            if on_wait is not None and now >= next_word:
                on_wait(f"waiting for a device: held are {holders}")
                next_word = now + _SAY_EVERY
            time.sleep(min(_POLL, max(0.0, deadline - now)))

    def release(self) -> None:
        """Give the device back. Harmless when repeated."""
        if self._descriptor >= 0:
            self._folder.unlock(self._descriptor)
            self._drop()

    def note_loss(self, why: str) -> None:
        """Tell the other workers of this host, those to come too, that the device failed; `why` is one line."""
        with contextlib.suppress(OSError, ConfigError):
            self._folder.note_loss(self.device, why, self._clock())

    def _drop(self) -> None:
        """Close the descriptor, which in a forked child does not end the parent's lease."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_HELD: weakref.WeakSet[Lease] = weakref.WeakSet()


def _drop_in_child() -> None:
    for lease in list(_HELD):
        lease._drop()


os.register_at_fork(after_in_child=_drop_in_child)
