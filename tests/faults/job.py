"""A small real job whose right results are known: rows in a store, the command that paints them, a place for it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from inpaint_ops.config import Settings
from inpaint_ops.locations import Location
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import Storage

SIZES = ((96, 64), (64, 96), (80, 80))
"""Width and height of the photos: three shapes, so that batches do not fill by themselves."""

STEPS, BATCH = 4, 2
POISON = "a poisoned sofa"
"""The prompt of a row that kills its worker (see hooks/)."""

TRIAL = "FAULT_TRIAL"
"""The variable that names the trial's folder: a process that has it in its environment belongs to the trial."""


@dataclass(frozen=True)
class Source:
    """What a row was made of: pixels (height, width, 3) uint8, and where the mask is white."""

    pixels: NDArray[np.uint8]
    masked: NDArray[np.bool_]


@dataclass(frozen=True)
class Job:
    """Rows in the store below `root`, numbered from 1."""

    root: Location
    manifest: str
    sources: Mapping[int, Source]
    prompts: Mapping[int, str]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.sources)

    def workspace(self, storage: Storage) -> Workspace:
        """Its runs, seen through `storage`."""
        return Workspace(Settings(), self.root, storage)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of these pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put_job(storage: Storage, root: Location, seed: int, *, rows: int = 6, poison: int | None = None) -> Job:
    """Write photos, masks and a manifest below `root`; the same for the same seed. Row `poison` kills its worker."""
    noise = np.random.default_rng(seed)
    sources: dict[int, Source] = {}
    lines: list[dict[str, Any]] = []
    for row in range(1, rows + 1):
        width, height = SIZES[row % len(SIZES)]
        pixels = noise.integers(0, 256, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left = noise.integers(0, 24, 2)
        mask[top : top + 32, left : left + 32] = 255
        sources[row] = Source(pixels, mask > 0)
        storage.put(root.join(f"in/{row}.png"), png(pixels))
        storage.put(root.join(f"in/{row}-mask.png"), png(mask))
        prompt = POISON if row == poison else f"sofa {row}"
        lines.append({"image": f"{row}.png", "mask": f"{row}-mask.png", "prompt": prompt, "seed": row})
    manifest = root.join("in/job.jsonl")
    storage.put(manifest, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return Job(root, manifest.uri, sources, {row: line["prompt"] for row, line in enumerate(lines, 1)})


def command(job: Job, run: str) -> list[str]:
    """The command that paints the job, as a person would type it; nice to a cluster whose heartbeats are counted."""
    return [
        "nice", sys.executable, "-m", "inpaint_ops.cli", "-v", "run", job.manifest, "--out", job.root.uri, "--run", run,
        "--steps", str(STEPS), "--batch-size", str(BATCH),
    ]  # fmt: skip


@dataclass(frozen=True)
class Home:
    """Folders of one trial alone, so that what is left there afterwards is this trial's doing."""

    path: Path

    @property
    def temporary(self) -> Path:
        """TMPDIR of the command: the leases lie here."""
        return self.path / "tmp"

    @property
    def scratch(self) -> Path:
        """INPAINT_SCRATCH."""
        return self.path / "scratch"

    @property
    def hooks(self) -> Path:
        """What the hooks in `hooks/` are told to do, one file a hook."""
        return self.path / "hooks"

    def owns(self, process: psutil.Process) -> bool:
        """Whether it is of this trial: by its environment, or, forked from a host of several trials, by its folder."""
        with suppress(psutil.Error, OSError):
            return process.environ().get(TRIAL) == str(self.path) or Path(process.cwd()).is_relative_to(self.path)
        return False

    def make(self) -> Home:
        """Make the folders."""
        for folder in (self.temporary, self.scratch, self.hooks):
            folder.mkdir(parents=True)
        return self

    def environment(self, store: Mapping[str, str], cache: Path) -> dict[str, str]:
        """The environment of the command: this store, this home, the tiny model."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "INPAINT_", "HF_"))}
        paths = (str(Path(__file__).with_name("hooks")), os.environ.get("PYTHONPATH"), str(Path.cwd()))
        return kept | dict(store) | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TMPDIR": str(self.temporary),
            TRIAL: str(self.path),
            "INPAINT_WORKER_ENV": TRIAL,
            "INPAINT_SCRATCH": str(self.scratch),
            "INPAINT_MODEL": "tiny-random",
            "INPAINT_PREFETCH": "4",
            "INPAINT_LEASE_TIMEOUT": "60",
            "INPAINT_RETRY_SECONDS": "1",
            "HF_HOME": str(cache),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip


MOMENTS = ("loading", "painting", "before image", "after image", "before record", "after record")
