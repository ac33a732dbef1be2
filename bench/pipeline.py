"""Does the pipeline keep a card busy? The product's own shard and worker around a device that sleeps.

`python -m bench.pipeline` paints a shard for each cell: batch sizes, sizes of source, one aspect or five, batches that
are filled up (as a compiled model's are) or not; the store answers each request after a delay. The device sleeps as
long as a card would paint, so the figures are of the plumbing and not of any card:

- batch: mean rows per batch, and the share of the device's batch size;
- useful: seconds that the rows needed, as a share of the time from the first batch's begin to the last one's end;
- padding, waiting: where the rest went;
- CPU: seconds of processor time per image, of the supervisor and the worker.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inpaint_ops.config import Settings
from inpaint_ops.locations import Location
from inpaint_ops.planning import JobOptions
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor import ShardRun

WORKER = Path(__file__).with_name("sleeping_worker.py")
ASPECTS = ((1, 1), (3, 2), (2, 3), (16, 9), (9, 16))


@dataclass(frozen=True, slots=True)
class Cell:
    """One shard to paint."""

    batch: int
    megapixels: float
    aspects: int
    padded: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a cell. Shares are 0 to 1."""

    rows: int
    batches: int
    mean_batch: float
    useful: float
    padding: float
    waiting: float
    cpu_seconds_per_image: float
    seconds: float


class DelayedStorage(Storage):
    """A store that answers each request for an object after `delay` seconds."""

    delay = 0.0

    def download(self, *arguments: Any, **options: Any) -> Any:
        """As Storage."""
        time.sleep(self.delay)
        return super().download(*arguments, **options)

    def put(self, *arguments: Any, **options: Any) -> Any:
        """As Storage."""
        time.sleep(self.delay)
        return super().put(*arguments, **options)


def photo(megapixels: float, aspect: tuple[int, int], seed: int) -> Image.Image:
    """Smooth shapes with a little grain, which compress as photographs do."""
    unit = (megapixels * 1e6 / (aspect[0] * aspect[1])) ** 0.5
    width, height = round(aspect[0] * unit), round(aspect[1] * unit)
    noise = np.random.default_rng(seed)
    small = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = noise.integers(-3, 4, (height, width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def write_inputs(folder: Path, cell: Cell, rows: int) -> Path:
    """The sources, masks and manifest of a cell: one file per aspect, which its rows share, in turn."""
    lines = []
    for index, aspect in enumerate(ASPECTS[: cell.aspects]):
        source = photo(cell.megapixels, aspect, index)
        source.save(folder / f"{index}.jpg", quality=92)
        mask = np.zeros(source.size[::-1], np.uint8)
        mask[source.height // 4 : source.height // 2, source.width // 4 : source.width // 2] = 255
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        (folder / f"{index}.mask.png").write_bytes(buffer.getvalue())
    order = np.random.default_rng(0).permutation(rows) % cell.aspects
    for row, index in enumerate(order):
        lines.append({"id": f"r{row}", "image": f"{index}.jpg", "mask": f"{index}.mask.png", "prompt": "a wall"})
    manifest = folder / "job.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def run(cell: Cell, *, rows: int, seconds: float, delay: float, prefetch: int | None) -> Figures:
    """Paint one shard of `rows` rows, each of which costs the device `seconds`."""
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        manifest = write_inputs(folder / "in", cell, rows)
        settings = Settings(scratch=folder / "scratch", shard_rows=rows, prefetch=prefetch)
        workspace = Workspace.open(settings, store=str(folder / "out"), also_readable=[str(folder / "in")])
        plan = prepare(workspace, str(manifest), "run", JobOptions(model="tiny-random"))
        storage = DelayedStorage(readable=[Location(None, str(folder / "in"))], writable=[workspace.store])
        storage.delay = delay
        journal = folder / "journal"
        command = [sys.executable, str(WORKER), "--batch", str(cell.batch), "--seconds", str(seconds)]
        command += ["--journal", str(journal), *(["--padded"] if cell.padded else [])]
        before = _cpu_seconds()
        result = ShardRun(
            storage, workspace.layout("run"), "00000", workspace.shard_rows(plan, "00000"), plan.job, settings,
            worker_command=command,
        ).run()  # fmt: skip
        assert result.done == rows, result
        return figures([json.loads(line) for line in journal.read_text().splitlines()], _cpu_seconds() - before)


def figures(batches: Sequence[dict[str, float]], cpu_seconds: float) -> Figures:
    """A journal's figures."""
    rows = int(sum(batch["rows"] for batch in batches))
    total = batches[-1]["ended"] - batches[0]["began"]
    painting = sum(batch["ended"] - batch["began"] for batch in batches)
    needed = sum((batch["ended"] - batch["began"]) * batch["rows"] / batch["filled"] for batch in batches)
    return Figures(
        rows=rows,
        batches=len(batches),
        mean_batch=rows / len(batches),
        useful=needed / total,
        padding=(painting - needed) / total,
        waiting=(total - painting) / total,
        cpu_seconds_per_image=cpu_seconds / rows,
        seconds=total,
    )


def _cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def _numbers(text: str) -> list[float]:
    return [float(one) for one in text.split(",")]


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    """Every combination of what was asked for."""
    padded = {"no": [False], "yes": [True], "both": [False, True]}[given.padded]
    for batch, size, aspects, filled in itertools.product(given.batch, given.megapixels, given.aspects, padded):
        yield Cell(int(batch), size, int(aspects), filled)


def main() -> None:
    """Print one line per cell, and save them where `--out` says."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=_numbers, default=[1, 4, 8], help="the device's batch sizes (1,4,8)")
    parser.add_argument("--megapixels", type=_numbers, default=[0.2, 12, 24], help="of the sources (0.2,12,24)")
    parser.add_argument("--aspects", type=_numbers, default=[1, 5], help="how many aspects the sources have (1,5)")
    parser.add_argument("--padded", choices=["no", "yes", "both"], default="both", help="are batches filled up")
    parser.add_argument("--rows", type=int, default=200, help="in the shard")
    parser.add_argument("--seconds", type=float, default=2.0, help="that the device takes per row")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before the store answers a request")
    parser.add_argument("--prefetch", type=int, help="INPAINT_PREFETCH; default: chosen")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    done = []
    print("A device that sleeps stands for the card.")
    print("| batch | megapixels | aspects | padded | mean batch | useful | padding | waiting | CPU s per image |")
    print("|---|---|---|---|---|---|---|---|---|")
    for cell in cells(given):
        found = run(cell, rows=given.rows, seconds=given.seconds, delay=given.delay, prefetch=given.prefetch)
        done.append({"cell": asdict(cell), "figures": asdict(found)})
        share = found.mean_batch / cell.batch
        print(
            f"| {cell.batch} | {cell.megapixels:g} | {cell.aspects} | {'yes' if cell.padded else 'no'} "
            f"| {found.mean_batch:.2f} ({share:.0%}) | {found.useful:.1%} | {found.padding:.1%} | {found.waiting:.1%} "
            f"| {found.cpu_seconds_per_image:.2f} |",
            flush=True,
        )
    if given.out is not None:
        about = {
            "device": "sleeps", "date": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count(),
            "load": os.getloadavg(), "rows": given.rows, "seconds_per_row": given.seconds, "delay": given.delay,
            "prefetch": given.prefetch,
        }  # fmt: skip
        given.out.write_text(json.dumps({"about": about, "cells": done}, indent=1) + "\n")


if __name__ == "__main__":
    main()
