"""The processes of a pool that this process has started."""

from __future__ import annotations

import contextlib

import psutil

from tests.support.waiting import wait_until


def children(module: str) -> list[psutil.Process]:
    """Those that run `python -m MODULE`, and have not ended."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # ended, perhaps waited for
            if module in _command(one):
                found.append(one)
    return found


def _command(one: psutil.Process) -> list[str]:
    """Raises psutil.NoSuchProcess, for one that has ended and was not waited for too. Within exec a process has no
    arguments for a moment.
    """
    return list(wait_until(one.cmdline))


class KillsOne:
    """Kills one of them with SIGKILL, once, whoever calls it first."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._asked: list[None] = [None]
        self.pid = 0

    def __call__(self) -> None:
        with contextlib.suppress(IndexError):
            self._asked.pop()  # atomic: threads may call this at once
            one = children(self._module)[0]
            self.pid = one.pid
            one.kill()
