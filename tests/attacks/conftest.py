"""Helpers whose decoder does what its file says."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from inpaint_ops.previews import Helper, Limits, helper

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Scripted:
    """Two FIFOs: decoders that wait say so by their process id, and go on one by one."""

    gate: int
    begun: int

    def began(self) -> int:
        """The process id of the next decoder that waits; blocks until there is one."""
        return int(struct.unpack("i", os.read(self.begun, 4))[0])

    def let_go(self, count: int = 1) -> None:
        """Let so many go on, now or as soon as they wait."""
        os.write(self.gate, b"x" * count)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """Have every host that is started from here decode as `tests.attacks.decoder` does."""
    for name in ("gate", "begun"):
        os.mkfifo(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # where the host is started
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(helper, "HOST", "tests.attacks.decoder")
    ends = [os.open(tmp_path / name, os.O_RDWR) for name in ("gate", "begun")]
    yield Scripted(*ends)
    for end in ends:
        os.close(end)


@pytest.fixture
def helpers() -> Iterator[Callable[..., Helper]]:
    """Makes helpers, and ends them."""
    made: list[Helper] = []

    def make(limits: Limits | None = None) -> Helper:
        made.append(Helper(limits or Limits(wall_seconds=300)))
        return made[-1]

    yield make
    for one in made:
        one.close()
