"""What a finished trial left behind, looked at from outside: the store's objects, the machine's processes and files."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from pydantic import ValidationError

from inpaint_ops.errors import StorageError
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.storage import Storage
from tests.faults.job import Home, Job
from tests.support.fault_proxy import Exchange


@dataclass
class Findings:
    """Promises that do not hold. `lost` and `doubled` are numbers of rows."""

    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """One more."""
        self.problems.append(problem)


def look_at_store(
    storage: Storage, job: Job, run: str, findings: Findings, *, failed: Mapping[int, str] | None = None
) -> None:
    """Every row has one record, an image that is whole and right, or the error type that `failed` names for it."""
    failed = failed or {}
    layout = job.workspace(storage).layout(run)
    records: dict[int, list[Record]] = {}
    for info in storage.list(layout.records):
        record = Record.model_validate_json(storage.get(info.location))
        records.setdefault(record.row, []).append(record)
    findings.lost += sum(row not in records for row in job.sources)
    findings.doubled += sum(len(found) > 1 for found in records.values())
    for row in sorted(set(records) - set(job.sources)):
        findings.add(f"row {row} has a record and was never asked for")
    for row, found in sorted(records.items()):
        _look_at_row(storage, job, row, found[0], failed.get(row), findings)
    named = {record.output.uri for found in records.values() for record in found if record.output}
    for info in storage.list(layout.root.join("images").as_prefix()):
        if info.location.uri not in named:
            findings.add(f"{info.location.name} lies in images/ and no record names it")
    for upload in storage.unfinished(job.root):
        findings.add(f"an upload of {upload.location} is still open")
    try:
        summary = RunSummary.model_validate_json(storage.get(layout.summary))
    except (StorageError, ValidationError) as error:
        return findings.add(f"run.json: {error}")
    counts = summary.counts
    if (counts.done, counts.failed, counts.missing) != (job.rows - len(failed), len(failed), 0):
        findings.add(f"run.json counts {counts}")
    if (summary.verdict == "VALID") == bool(failed):
        findings.add(f"run.json says {summary.verdict}: {summary.reasons}")
    return None


def _look_at_row(storage: Storage, job: Job, row: int, record: Record, failure: str | None, findings: Findings) -> None:
    if failure is not None or record.output is None:
        was = record.error.type if record.error else record.status
        if was != failure:
            said = record.error.message if record.error else ""
            findings.add(f"row {row} ended as {was} ({said}), and should have been {failure or 'done'}")
        return
    try:
        data = storage.get(record.output.uri)
    except StorageError as error:
        findings.lost += 1
        findings.add(f"row {row}: {error}")
        return
    if hashlib.sha256(data).hexdigest() != record.output.sha256:
        findings.add(f"row {row}: the image is not the one that its record names")
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        pixels = np.asarray(image)
    source = job.sources[row]
    if pixels.shape != source.pixels.shape:
        findings.add(f"row {row}: {pixels.shape} in place of {source.pixels.shape}")
    elif not np.array_equal(pixels[~source.masked], source.pixels[~source.masked]):
        findings.add(f"row {row}: unmasked pixels are not the source's")


def look_at_traffic(
    exchanges: Sequence[Exchange], run: str, findings: Findings, *, painted_twice_is_fine: bool = False
) -> None:
    """No record or image was written twice, and no row that had its record was painted again."""
    here = [one for one in exchanges if f"/runs/{run}/" in one.path and one.method == "PUT"]
    won = Counter(one.path for one in here if one.status == 200 and re.search("/(records|images)/", one.path))
    for path, times in won.items():
        if times > 1:
            findings.doubled += 1
            findings.add(f"{path} was written {times} times")
    ended: set[str] = set()
    for one in here:
        name = Path(one.path).stem
        if "/images/" in one.path and name in ended and not painted_twice_is_fine:
            findings.doubled += 1
            findings.add(f"{one.path} was painted again after its record")
        if "/records/" in one.path and one.status == 200:
            ended.add(str(int(name)))  # an image of a job here is named by its row's number


def look_at_machine(home: Home, findings: Findings) -> None:
    """No process of the trial lives, no lease is held, no scratch is left."""
    for process in _processes(home):
        with suppress(psutil.NoSuchProcess):
            findings.add(f"process {process.pid} is still there: {' '.join(process.cmdline())[:200]}")
            process.kill()
    for lease in home.temporary.glob("inpaint_ops-leases-*/*"):
        with lease.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                findings.add(f"the lease {lease.name} is held")
    left = [str(path.relative_to(home.scratch)) for path in home.scratch.rglob("*")]
    if left:
        findings.add(f"scratch holds {', '.join(left[:5])}")


def _processes(home: Home) -> list[psutil.Process]:
    """Those with the trial's folder in their environment; one that is just being reaped gets its time."""
    mine = []
    for process in psutil.process_iter():
        if process.pid != os.getpid() and home.owns(process):
            mine.append(process)
    _, alive = psutil.wait_procs(mine, timeout=60)
    return alive
