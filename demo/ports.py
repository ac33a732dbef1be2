"""Loopback ports for servers that must be told their port before they start, and come back on it after a restart.

Port 0 does not do for them. A port is claimed by an abstract Unix socket of its number: as machine-wide as the port is,
and given up by the kernel when the last process that holds it ends. So no two of our servers are given the same port,
also while one of them is down. The ports lie below the kernel's ephemeral ones (32768 up), so that no outgoing
connection takes one in the meantime.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack

SINGLE = range(29_000, 32_768)
"""Where servers with one port find theirs; those of the object store lie below."""


class Claim:
    """Ports that are ours until `close`, or until the last process that was given `descriptors` has ended."""

    def __init__(self, ports: Sequence[int]) -> None:
        """Claim all of `ports`. Raises OSError if any of them is claimed or in use."""
        self.ports = tuple(ports)
        self._held: list[socket.socket] = []
        with ExitStack() as undo:
            for port in ports:
                name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                undo.callback(name.close)
                name.bind(f"\0inpaint-ops-port-{port}")
                self._held.append(name)
            for port in ports:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            undo.pop_all()

    @property
    def port(self) -> int:
        """The first of them."""
        return self.ports[0]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a server inherits (`pass_fds`), so that its ports stay claimed for as long as it lives."""
        return tuple(name.fileno() for name in self._held)

    def close(self) -> None:
        """Give them up."""
        for name in self._held:
            name.close()


def claim_port() -> Claim:
    """One port that is free and that no other caller gets. Raises RuntimeError."""
    for port in random.sample(SINGLE, k=200):
        try:
            return Claim([port])
        except OSError:
            continue
    raise RuntimeError(f"no free port between {SINGLE.start} and {SINGLE.stop - 1}")
