"""What starting a worker costs, by exec and by a fork of the warm host: `python -m bench.start [--rounds 7]`.

Each round starts one of each, in turns the one and the other first, with the tiny model, and stops the clock at the
first denoising step. Processor seconds are those of the worker, and of the guard and the warm host for it; they are
the firm figure, since a wall clock counts whatever else the machine does. The warm host's own imports come once and are
printed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Signal

import psutil

from inpaint_ops.config import load_settings
from inpaint_ops.model.random_weights import ensure
from inpaint_ops.protocol import Event, Flush, Item, Job, Step
from inpaint_ops.supervisor.worker_process import WorkerProcess

STEPS = 2


@dataclass(frozen=True)
class Start:
    """Seconds from the request for a worker to its first step, and its memory then, bytes not shared with others."""

    wall: float
    cpu: float
    private: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.start")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-start-") as folder:
        print(table(measure(Path(folder), given.rounds)))


def measure(folder: Path, rounds: int, *, warm_ups: int = 1) -> dict[str, list[Start]]:
    """Starts by `exec` and by `fork`, a pair per round, after rounds that fill caches and are left out.

    Raises RuntimeError where a worker was not started as asked.
    """
    os.environ.update(HF_HOME=str(folder / "hub"), TMPDIR=str(folder))
    ensure("tiny-random", folder / "hub")
    found: dict[str, list[Start]] = {"exec": [], "fork": []}
    with warm_host(folder) as (host, seconds, private):
        print(f"the warm host: {seconds:.1f} CPU s once, {private / 2**20:.0f} MiB of its own", flush=True)
        for number in range(1 - warm_ups, rounds + 1):
            order = ("exec", "fork") if number % 2 else ("fork", "exec")
            for how in order:
                start = _start(folder / f"{how}-{number}", host if how == "fork" else None)
                if number > 0:
                    found[how].append(start)
                    print(f"round {number}: {how} {start.cpu:.2f} CPU s, {start.wall:.2f} s", flush=True)
    return found


def table(found: dict[str, Sequence[Start]] | dict[str, list[Start]]) -> str:
    """Medians with least and most, and of the pairs the ratio."""
    lines = ["| to the first step | exec | fork | fork / exec, paired |", "|---|---|---|---|"]
    for name, unit in (("cpu", "CPU s"), ("wall", "wall s")):
        both = [[getattr(start, name) for start in found[how]] for how in ("exec", "fork")]
        ratios = [fork / once for once, fork in zip(*both, strict=True)]
        cells = [_spread(values, 2) for values in both] + [_spread(ratios, 3)]
        lines.append(f"| {unit} | {' | '.join(cells)} |")
    private = [_spread([start.private / 2**20 for start in found[how]], 0) for how in ("exec", "fork")]
    lines.append(f"| MiB of its own | {' | '.join(private)} | |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@contextlib.contextmanager
def warm_host(folder: Path) -> Iterator[tuple[psutil.Process, float, int]]:
    """A running one: its process, the CPU seconds that its start took, and its memory in bytes."""
    socket = folder / "warm" / "socket"
    os.environ["INPAINT_WARM_HOST"] = str(socket)
    process = subprocess.Popen([sys.executable, "-m", "inpaint_ops.cli", "warm-host"], stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise RuntimeError(f"the warm host ended with {process.returncode}")
            time.sleep(0.05)
        host = psutil.Process(process.pid)
        yield host, _cpu(host), host.memory_full_info().uss
    finally:
        process.terminate()
        process.wait()


def _start(folder: Path, host: psutil.Process | None) -> Start:
    folder.mkdir()
    stepped, ended = Signal(), Signal()
    walls: list[float] = []
    used: list[Start] = []
    worker: WorkerProcess | None = None
    known = Signal()

    def on_event(event: Event) -> None:
        if isinstance(event, Step) and not used:
            known.wait()
            assert worker is not None
            walls.append(time.monotonic())
            process = psutil.Process(worker.pid)
            cpu = _cpu(process)
            if host is not None:
                cpu += _cpu(process.parent()) + _cpu(host) - before
            used.append(Start(walls[0] - began, cpu, process.memory_full_info().uss))
            stepped.set()

    before = _cpu(host) if host is not None else 0.0
    began = time.monotonic()
    worker = WorkerProcess.start(
        cwd=folder,
        on_event=on_event,
        on_exit=lambda _: (ended.set(), stepped.set()),  # type: ignore[arg-type,func-returns-value]
        warm_host=load_settings().warm_host if host is not None else "",
    )
    known.set()
    if worker.process.started_by != ("fork" if host is not None else "exec"):
        raise RuntimeError(worker.not_forked)
    worker.send(Job(model="tiny-random", device="cpu", expected_rows=1, lease_timeout=600, scratch=str(folder)))
    worker.send(_row(folder))
    worker.send(Flush())
    stepped.wait()
    worker.kill()
    ended.wait()
    if not used:
        raise RuntimeError(f"the worker ended before its first step: {list(worker._tail)[-3:]}")
    return used[0]


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _row(folder: Path) -> Item:
    """A photo of noise, 64 pixels per side, with a square to paint."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return Item(
        row=1, id="one", image=str(folder / "image.png"), mask=str(folder / "mask.png"), output=str(folder / "out"),
        prompt="a boat", seed=1, steps=STEPS, guidance_scale=7.5, strength=0.9999,
    )  # fmt: skip


if __name__ == "__main__":
    main()
