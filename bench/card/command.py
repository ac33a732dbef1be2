"""One case: run the command, see to what happens meanwhile, and read what the run says of itself."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from bench.card import job
from bench.card.cases import Case
from bench.card.watch import GB, Ballast, Watch
from bench.peers.usage import cpu_seconds
from inpaint_ops.records import BATCH_STAGES, Model

PATIENCE = 180.0
LEFT_FREE = int(2.2 * GB)
"""What of the card's memory is left to a worker that has just loaded its model."""
LOADED = 4 * GB
"""More of the card in use than before the command: its worker has loaded the model."""
SPANS = frozenset(BATCH_STAGES)


class Outcome(Model):
    """What one run took and said; None is not known."""

    name: str
    asks: str
    failed: str = Field(default="", description="Why there are no figures.")
    wall: float | None = Field(default=None, description="Seconds of the command.")
    cpu: float | None = Field(
        default=None, description="Processor seconds of it and of all it started; not of a warm host's workers."
    )
    counts: dict[str, int] = Field(default_factory=dict, description="Rows, as the summary has them.")
    start: dict[str, float] = Field(default_factory=dict, description="Seconds of the workers' start, by part: mean.")
    images_per_second: float | None = Field(default=None, description="Of the whole run.")
    images_per_second_warm: float | None = Field(default=None, description="Over the seconds spent painting.")
    painting: float | None = Field(
        default=None, description="Share of the time from the first batch to the last in which a batch was painted."
    )
    kernels: float | None = Field(default=None, description="Percent of that time with a kernel at work, by NVML.")
    cpu_per_image: float | None = Field(default=None, description="`cpu`, the start in it, over the images.")
    waiting: float | None = Field(default=None, description="Seconds per image of the workers' lifetimes not painting.")
    batch: float | None = Field(default=None, description="Mean rows of a batch.")
    stages: dict[str, float] = Field(default_factory=dict, description="Mean seconds of a row's stages.")
    card_before: int | None = Field(default=None, description="Bytes of the card in use, by NVML, with its own.")
    card_most: int | None = Field(default=None, description="The most, since the first case began.")
    card_after: int | None = Field(default=None, description="Half a second after the command ended.")
    peak: int | None = Field(default=None, description="Bytes that torch had reserved.")
    notes: tuple[str, ...] = Field(default=(), description="What the run warned of, and what was seen.")


@dataclass(frozen=True)
class Place:
    """Where the runs are made, and of what."""

    folder: Path
    model: str
    device: str
    socket: Path
    rows: int | None
    """Rows of each case, instead of its own number."""


def run(case: Case, place: Place, watching: Watch | None) -> Outcome:
    """The outcome of `case`. Raises nothing that a case can cause."""
    outcome = Outcome(name=case.name, asks=case.asks)
    try:
        return _run(case, place, watching, outcome)
    except Exception as error:  # a case that fails is a result too
        return outcome.model_copy(update={"failed": f"{type(error).__name__}: {error}"[:600]})


def _run(case: Case, place: Place, watching: Watch | None, outcome: Outcome) -> Outcome:
    if watching is None and case.meanwhile == "memory is taken":
        return outcome.model_copy(update={"failed": "needs a card"})
    rows = place.rows or case.rows
    manifest = job.write_job(place.folder, rows, case.megapixels)
    name = "".join(letter if letter.isalnum() else "-" for letter in case.name)
    folder = place.folder / "out" / "runs" / name
    before = watching.used() if watching else None
    notes: list[str] = []
    began = time.perf_counter()
    with _started(case, place, manifest, name) as command, _second(case, place, manifest, name) as second:
        meanwhile = threading.Thread(target=_meanwhile, args=(case, folder, watching, before, notes, command))
        meanwhile.start()
        output, cpu = _wait(command, began)
        wall = time.perf_counter() - began
        meanwhile.join()
        if second is not None:
            _wait(second, began)
    if watching is not None:
        time.sleep(0.5)  # the driver's own figure lags behind an end
    if not (folder / "run.json").exists():
        return outcome.model_copy(update={"failed": output[-600:], "wall": wall, "notes": tuple(notes)})
    found = _read(folder)
    begin, end = found.pop("window")
    if second is not None:
        notes.append(_overlap((begin, end), _read(folder.parent / f"{name}-2")["window"]))
    images = found["counts"]["done"]
    cpu = cpu if case.start == "exec" else None  # the warm host's workers are not the command's
    return outcome.model_copy(
        update={
            **found,
            "wall": wall,
            "cpu": cpu,
            "cpu_per_image": cpu / images if images and cpu is not None else None,
            "kernels": watching.busy(begin, end) if watching else None,
            "card_before": before,
            "card_most": watching.most() if watching else None,
            "card_after": watching.used() if watching else None,
            "notes": (*notes, *found["notes"]),
        }
    )


@contextlib.contextmanager
def _started(case: Case, place: Place, manifest: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """The command at work; ended with the block."""
    clip = place.folder / "clip"
    if case.clip and not clip.exists():  # in a process of its own: the model stack sets the environment
        size = "large" if place.model == "sdxl-random" else "small"
        subprocess.run([sys.executable, "-m", "bench.card.job", str(clip), size], check=True, capture_output=True)
    command = [
        sys.executable, "-m", "inpaint_ops.cli", "run", str(manifest), "--out", str(place.folder / "out"),
        "--run", name,
        "--model", place.model, "--device", place.device, "--steps", str(case.steps), "--shard-rows", "1000",
        *case.arguments, *(("--clip-model", str(clip)) if case.clip else ()),
    ]  # fmt: skip
    settings = {"INPAINT_WARM_HOST": str(place.socket)} if case.start == "fork" else {}
    process = subprocess.Popen(
        command, env=os.environ | settings | case.environment, cwd=place.folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_only(case.cores),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _only(cores: int | None) -> Callable[[], None] | None:
    if cores is None:
        return None
    some = sorted(os.sched_getaffinity(0))[:cores]
    return lambda: os.sched_setaffinity(0, some)


@contextlib.contextmanager
def _second(case: Case, place: Place, manifest: Path, name: str) -> Iterator[subprocess.Popen[str] | None]:
    if case.meanwhile != "a second command":
        yield None
        return
    with _started(case, place, manifest, f"{name}-2") as process:
        yield process


def _wait(process: subprocess.Popen[str], began: float) -> tuple[str, float | None]:
    """Its output, and the processor seconds of it and of what it started; None where they were last seen too early."""
    seen: list[float] = []
    over = threading.Event()

    def look() -> None:
        watched = psutil.Process(process.pid)
        while not over.wait(0.2):
            with contextlib.suppress(psutil.Error):
                seen.append(cpu_seconds([watched]))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        output, _ = process.communicate(timeout=max(1.0, PATIENCE - (time.perf_counter() - began)))
    finally:
        over.set()
        looking.join()
    return output, max(seen, default=None)


def _meanwhile(
    case: Case, folder: Path, watching: Watch | None, before: int | None, notes: list[str],
    command: subprocess.Popen[str],
) -> None:  # fmt: skip
    """What happens while the command runs."""
    if case.meanwhile == "memory is taken":
        assert watching is not None and before is not None
        ballast = Ballast()
        base = max(before, watching.used())
        while command.poll() is None and watching.used() < base + LOADED:
            time.sleep(0.01)
        notes.append(f"{ballast.leave(LEFT_FREE) / GB:.1f} GB of the card were taken, {LEFT_FREE / GB:.1f} left")
        command.wait()
        ballast.give_back()
    if case.meanwhile == "the worker is killed":
        while command.poll() is None and not (records := list(folder.glob("records/*/*.json"))):
            time.sleep(0.01)
        if command.poll() is None:
            pid = json.loads(records[0].read_bytes())["worker"]["pid"]
            holding = watching.used() if watching else 0
            os.kill(pid, signal.SIGKILL)
            killed = time.perf_counter()
            while watching and watching.used() > holding / 4 and time.perf_counter() - killed < 10:
                time.sleep(0.01)
            notes.append(
                f"killed: the card went from {holding / GB:.2f} to {watching.used() / GB:.2f} GB within "
                f"{time.perf_counter() - killed:.2f} s" if watching else "killed"
            )  # fmt: skip


def _overlap(one: tuple[float, float], two: tuple[float, float]) -> str:
    both = min(one[1], two[1]) - max(one[0], two[0])
    return f"they painted {both:.1f} s at the same time" if both > 0 else f"{-both:.1f} s lay between their painting"


def _read(folder: Path) -> dict[str, Any]:
    """What a run's files say, by the fields of Outcome; `window`: from the first batch to the last, epoch seconds."""
    summary = json.loads((folder / "run.json").read_bytes())
    reports = [json.loads(path.read_bytes()) for path in sorted(folder.glob("workers/*.json"))]
    trace = json.loads((folder / "trace.json").read_bytes())
    origin = trace["otherData"]["origin_posix_seconds"]
    spans = sorted(
        (event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6)
        for event in trace["traceEvents"]
        if event["ph"] == "X" and event["name"] in SPANS
    )
    records = [json.loads(path.read_bytes()) for path in folder.glob("records/*/*.json")]
    sizes = [record["batch"]["size"] for record in records if record.get("batch")]
    ledger = {entry["name"]: entry for report in reports for entry in report["ledger"]}
    notes = [
        *summary["warnings"],
        *([f"cuda_wait: {ledger['cuda_wait']['effective']}"] if "cuda_wait" in ledger else []),
        *(f"worker {one['exit']}, {one['started_by']} {one.get('not_forked', '')}".rstrip() for one in reports),
        *sorted({record["error"]["message"] for record in records if record.get("error")}),
        *(f"profile: {_lanes(path)}" for path in folder.glob("workers/*.profile.json.gz")),
    ]  # fmt: skip
    return {
        "counts": summary["counts"],
        "start": summary["cold_start"] or {},
        "images_per_second": summary["images_per_second"],
        "images_per_second_warm": summary["images_per_second_warm"],
        "painting": _covered(spans),
        "waiting": (summary.get("pace") or {}).get("waiting_seconds"),
        "batch": len(sizes) / sum(1 / size for size in sizes) if sizes else None,
        "stages": {name: one["mean"] for name, one in summary["stages"].items()},
        "peak": (summary["peak_memory"] or {}).get("peak_reserved"),
        "notes": notes,
        "window": (origin + spans[0][0], origin + max(end for _, end in spans)) if spans else (0.0, 0.0),
    }


def _covered(spans: Sequence[tuple[float, float]]) -> float | None:
    """The share of the time from the first span to the last that lies in one of them. `spans` in order."""
    if not spans:
        return None
    covered, until = 0.0, spans[0][0]
    for begin, end in spans:
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered / (until - spans[0][0]) if until > spans[0][0] else None


def _lanes(path: Path) -> str:
    """What a worker's profile has of kernels: how many, in how many lanes, how many of them within a batch."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    batches = [
        (event["ts"], event["ts"] + event["dur"]) for event in events if event["ph"] == "X" and event["name"] == "paint"
    ]
    names = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
    kernels = [event for event in events if event["ph"] == "X" and event.get("cat") == "kernel"]
    inside = sum(any(begin <= event["ts"] <= end for begin, end in batches) for event in kernels)
    lanes = {f"{names.get(event['pid'], event['pid'])}, {event['tid']}" for event in kernels}
    return f"{len(kernels):,} kernels, {inside:,} of them within a batch, in {len(lanes)} lanes: {sorted(lanes)[:4]}"
