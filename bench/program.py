"""The benchmark's main loop: plan within the time, measure in child processes, save after each cell, print."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import schedule, tables
from bench.cells import PARTS, Cell
from bench.request import Request, Started
from bench.results import FOLDER, CellResult, Results, save, with_fractions
from inpaint_ops.records import now

ROOT = Path(__file__).resolve().parent.parent
_GRACE = 60.0
"""Seconds over its estimate after which a cell's process is killed, however much time is left."""


class Child:
    """A fresh process that measures. Ends with the block, and with this process."""

    def __init__(self, device: str, folder: Path) -> None:
        reading, writing = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        spawned = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.child", "--results-fd", str(writing), "--parent", str(os.getpid()),
             "--spawned", repr(spawned), "--device", device, "--folder", str(folder)],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, pass_fds=[writing], cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        os.close(writing)
        self._results = os.fdopen(reading, "rb", buffering=0)
        self._rest = b""

    def started(self, seconds: float) -> Started:
        """Wait for its imports. Raises ChildFailedError."""
        return Started.model_validate_json(self._line(seconds))

    def measure(self, cell: Cell, seconds: float, killed_after: float) -> CellResult:
        """The cell's result. Raises ChildFailedError when the process ends, or had to be ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(Request(cell=cell, seconds=seconds).model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailedError(self._end()) from None
        return CellResult.model_validate_json(self._line(killed_after))

    def _line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0:
                self._process.kill()
                self._end()
                raise ChildFailedError(f"killed after {seconds:.0f} s")
            if select.select([self._results], [], [], left)[0]:
                data = os.read(self._results.fileno(), 1 << 16)
                if not data:
                    raise ChildFailedError(self._end())
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _end(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        tail = " | ".join(line.strip() for line in lines[-4:] if line.strip())[-400:]
        return f"the process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}: {tail}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:  # fmt: skip
        assert self._process.stdin is not None
        if error is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._results.close()
        self._log.close()


class ChildFailedError(Exception):
    """A measuring process ended, or was ended: the message has the reason."""


def arguments(program: str, seconds: float, model: str | None) -> argparse.ArgumentParser:
    """What both programs understand."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{program}")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas: {', '.join(PARTS)}")
    parser.add_argument(
        "--cells", default="", help="of these parts only cells in whose names one of these texts occurs, with ; between"
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes; default: bench/results/<program>-<card>.json")
    if model is not None:
        parser.add_argument("--model", default=model, help=f"default {model}: full size, random weights, no download")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"time budget; default {seconds:.0f}")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu" if program == "cpu" else "auto")
    parser.add_argument("--steps", type=_counts, help="denoising steps of the presets, separated by commas")
    parser.add_argument("--repeats", type=int, help="timed batches a cell; default 3, on a CPU by size")
    parser.add_argument("--label", default="", help="a note on the machine, kept with the results")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and stop")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 2:
        raise argparse.ArgumentTypeError("at least 2: the pipeline's default strength drops one")
    return counts


def chosen_parts(text: str) -> tuple[str, ...]:
    """The parts that --only names. Exits with a message for an unknown one."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in parts:
        if part not in PARTS:
            sys.exit(f"--only {part}: there are {', '.join(PARTS)}")
    return parts


def named(cells: Sequence[Cell], texts: str) -> list[Cell]:
    """The cells in whose names one of `texts` (with semicolons between) occurs, those they need, and the ceilings."""
    parts = [text for text in texts.split(";") if text]
    found = {cell.name for cell in cells if not parts or any(text in cell.name for text in parts)}
    found |= {cell.needs for cell in cells if cell.name in found and cell.needs}
    return [cell for cell in cells if cell.name in found or cell.kind == "ceilings"]


def list_cells(cells: Sequence[Cell]) -> None:
    """Print the cells in their order."""
    for cell in cells:
        settings = " ".join(f"{name}={value}" for name, value in cell.overrides.items())
        batch = "planned" if cell.batch is None else cell.batch
        cap = f" cap={cell.cap / 1e9:.0f}GB" if cell.cap else ""
        print(f"{cell.importance:3}  {cell.process:28}  {cell.name:52}  {cell.preset} steps={cell.steps} batch={batch} "
              f"repeats={cell.repeats}{cap} {settings}".rstrip())  # fmt: skip
    print(
        f"{len(cells)} cells in {len({cell.process for cell in cells})} processes; the first column is the importance"
    )


def run(program: str, cells: Sequence[Cell], given: argparse.Namespace, say: Callable[[str], None] = print) -> Results:
    """Measure `cells` within `given.seconds`, print, and save. Cells are painted in their order, process by process."""
    began = time.monotonic()
    results = Results(
        program=program, command=f"python -m bench.{program} {' '.join(sys.argv[1:])}".strip(), label=given.label,
        started_at=now(), cores=os.cpu_count() or 1, load_average=os.getloadavg(), commit=_commit(),
        budget=given.seconds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{scratch}/inductor")
        results = _Loop(results, list(cells), given, began, Path(scratch), say).run()
    results = results.model_copy(
        update={
            "finished_at": now(),
            "used": time.monotonic() - began,
            "load_average_end": os.getloadavg(),
            "cells": with_fractions(results.cells, results),
        }
    )
    path = save(results, given.out or _default_path(program, results, getattr(given, "part", None)))
    say("")
    say(tables.render(results))
    say(f"saved: {path}")
    return results


class _Loop:
    """One run's state: what is measured, what is left, what it costs."""

    def __init__(self, results: Results, cells: list[Cell], given: argparse.Namespace, began: float, scratch: Path,
                 say: Callable[[str], None]) -> None:  # fmt: skip
        self.results, self.left, self.given, self.began, self.scratch, self.say = (
            results, cells, given, began, scratch, say,
        )  # fmt: skip
        self.costs = schedule.Costs()
        self.out: Path | None = given.out

    def remaining(self) -> float:
        return float(self.given.seconds) - schedule.RESERVE - (time.monotonic() - self.began)

    def run(self) -> Results:
        """Process by process, until nothing that is left fits the time; what was put off is looked at again then."""
        while wanted := self._next():
            self._process(wanted)
            for cell in [one for one in self.left if one.cap is not None and self.costs.kind == "cpu"]:
                self._done(cell, CellResult(cell=cell, status="failed", reason="a memory cap needs a CUDA GPU"))
        for cell in list(self.left):
            self._drop(cell)
        return self.results

    def _next(self) -> list[Cell]:
        """The cells of the first process that has any to measure within the time."""
        # Nothing is given up before the first cells have shown what this machine can do.
        kept = self._kept(()) if self.results.cells else {cell.name for cell in self.left}
        first = next((cell for cell in self.left if cell.name in kept), None)
        return [cell for cell in self.left if first and cell.process == first.process and cell.name in kept]

    def _process(self, cells: list[Cell]) -> None:
        began = time.monotonic()
        current: Cell | None = None
        try:
            with Child(self.given.device, self.scratch / "model") as child:
                started = child.started(max(30.0, self.remaining()))
                self.costs.start = time.monotonic() - began
                if self.results.device is None:
                    self.costs.kind = started.device.kind
                    self.results = self.results.model_copy(
                        update={"device": started.device, "versions": started.versions}
                    )
                for current in cells:
                    if current.kind != "ceilings" and current.name not in self._kept((current.process,)):
                        continue  # put off: others may take less time than is expected of them
                    expected = self.costs.of(current)  # with its start: the first of a process compiles
                    allowed = min(max(1.0, self.remaining()), 3 * expected + _GRACE)
                    result = child.measure(current, seconds=max(10.0, 2 * expected), killed_after=allowed)
                    self._done(current, result)
        except ChildFailedError as error:
            # What was being measured failed; the rest of the process is measured by another one. Where none of it had
            # begun, none of it can be.
            failed = cells if current is None else [current]
            for cell in failed:
                if cell in self.left:
                    self._done(cell, CellResult(cell=cell, status="failed", reason=str(error)))

    def _kept(self, running: Sequence[str]) -> set[str]:
        measured = [result.cell.name for result in self.results.cells if result.status in ("measured", "reduced")]
        return schedule.keep(self.left, self.remaining(), self.costs, running, measured)

    def _drop(self, cell: Cell) -> None:
        ended = {result.cell.name: result.status for result in self.results.cells}
        if cell.needs in ended and ended[cell.needs] not in ("measured", "reduced"):
            reason = f"it needs {cell.needs}, which was {ended[cell.needs]}"
        else:
            expected = self.costs.of(cell)
            reason = f"about {expected:.0f} s, and {max(0.0, self.remaining()):.0f} s were left"
        self._done(cell, CellResult(cell=cell, status="dropped", reason=reason))

    def _done(self, cell: Cell, result: CellResult) -> None:
        self.left.remove(cell)
        self.costs.learn(cell, result)
        if result.ceilings:
            dtype = "float32" if self.costs.kind == "cpu" else "float16"
            self.costs.ceiling = 1e12 * result.ceilings.get(f"matmul_{dtype}_tflops", self.costs.ceiling / 1e12)
        if result.step_flops:
            self.costs.flops[cell.model] = result.step_flops
        self.results = self.results.model_copy(
            update={"cells": (*self.results.cells, result), "used": time.monotonic() - self.began}
        )
        if self.out is not None:
            save(self.results, self.out)
        self.say(f"{time.monotonic() - self.began:6.1f} s  {cell.name}: {tables.line(result)}")


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run([git, "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def _default_path(program: str, results: Results, part: int | None) -> Path:
    card = results.device.name if results.device else "nothing"
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return FOLDER / (f"{program}-{slug}.json" if part is None else f"{program}-{slug}-part-{part}.json")
