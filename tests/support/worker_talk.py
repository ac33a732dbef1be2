"""The real worker process and what a test sends to it: the job, and rows of noise with a rectangular mask."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.protocol import (
    Item,
    Job,
    Phase,
    dump,
    parse_event,
)
from inpaint_ops.records import Model
from inpaint_ops.supervisor import starting
from inpaint_ops.supervisor.confinement import worker_environment
from inpaint_ops.supervisor.starting import Process
from tests.support.waiting import PATIENCE
from tests.support.warm import Host


@dataclass
class Talk:
    """A started worker and what it has said so far."""

    process: subprocess.Popen[bytes] | Process
    commands: IO[bytes]
    """Its standard input."""
    said: list[Any] = field(default_factory=list)
    grown: threading.Condition = field(default_factory=threading.Condition)
    closed: bool = False

    def listen(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as events:
            for line in events:
                with self.grown:
                    self.said.append(parse_event(line))
                    self.grown.notify_all()
        with self.grown:
            self.closed = True
            self.grown.notify_all()

    def send(self, *messages: Model) -> None:
        for message in messages:
            self.commands.write(dump(message).encode())
        self.commands.flush()

    def all(self, kind: type) -> list[Any]:
        return [event for event in self.said if isinstance(event, kind)]

    def until(self, wanted: Callable[[], Any], patience: float = PATIENCE) -> Any:
        with self.grown:
            assert self.grown.wait_for(lambda: wanted() or self.closed, patience), self.said
            answer = wanted()
        assert answer, f"it ended before that: {self.said}"
        return answer

    def phase(self, name: str) -> None:
        self.until(lambda: any(phase.name == name for phase in self.all(Phase)))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """Start workers; their leases lie in the test's own temporary folder."""
    talks = []

    def starter(*command: str) -> Talk:
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "inpaint_ops.worker")), "--events-fd", str(writing),
             "--parent", str(os.getpid()), "--started", repr(time.time())],
            stdin=subprocess.PIPE, pass_fds=(writing,),
            env=os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        os.close(writing)
        assert process.stdin is not None
        talk = Talk(process, process.stdin)
        threading.Thread(target=talk.listen, args=(reading,), daemon=True).start()
        talks.append(talk)
        return talk

    yield starter
    for talk in talks:
        talk.process.kill()
        talk.process.wait()


@pytest.fixture
def fork(tmp_path: Path, shared_warm_host: Host) -> Iterator[Callable[[], Talk]]:
    """As `start`, forked from a warm host: for tests of what a worker does, in which its start, six seconds of imports,
    plays no part.
    """
    talks = []

    def starter() -> Talk:
        environment = worker_environment(os.environ) | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
        process, not_forked = starting.start(tmp_path, environment, None, warm_host=shared_warm_host.socket)
        talk = Talk(process, os.fdopen(process.pipes.commands, "wb"))
        talks.append(talk)
        assert not not_forked, not_forked
        threading.Thread(target=_read_to_the_end, args=(process.pipes.printed,), daemon=True).start()
        threading.Thread(target=talk.listen, args=(process.pipes.events,), daemon=True).start()
        return talk

    yield starter
    for talk in talks:
        talk.process.kill()
        talk.process.wait()
        with contextlib.suppress(BrokenPipeError):
            talk.commands.close()


def _read_to_the_end(descriptor: int) -> None:
    with os.fdopen(descriptor, "rb") as printed:
        for _ in printed:
            pass


def job(folder: Path, **options: Any) -> Job:
    chosen = {"model": "tiny-random", "device": "cpu", "expected_rows": 8, "lease_timeout": 0} | options
    return Job(scratch=str(folder), **chosen)


def picture(folder: Path, row: int, size: tuple[int, int], **options: Any) -> Item:
    """Write an image of noise with a masked rectangle, and ask for it to be painted."""
    width, height = size
    draw = np.random.default_rng(row)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    Image.fromarray(mask).save(folder / f"{row}-mask.png")
    return Item(
        row=row, id=f"row-{row}", image=str(folder / f"{row}.png"), mask=str(folder / f"{row}-mask.png"),
        output=str(folder / f"{row}-out"), prompt="a boat", seed=row,
        **({"steps": 2, "guidance_scale": 7.5, "strength": 0.9999} | options),
    )  # fmt: skip


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
