"""Measurements of a shard for an operator's dashboard: made of its new records, with labels of few values.

Where they are sent is the caller's choice (`emit`). No label names an image, a row or a run.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.records import BATCH_STAGES, STAGES, Record
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import ObjectInfo
from inpaint_ops.storage.stored import Leftovers, listed, read_each

log = logging.getLogger(__name__)

IMAGES = "inpaint_ops_images_total"
STAGE_DURATION = "inpaint_ops_stage_duration_seconds"
PEAK_MEMORY = "inpaint_ops_gpu_peak_memory_bytes"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number: a counter's increment, a duration in seconds, or a gauge's value."""

    kind: Literal["counter", "duration", "gauge"]
    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def measure(records: Iterable[Record]) -> list[Measurement]:
    """The measurements of these records: images by status, stages, and the peak of device memory by host.

    A batch's stages are measured once per batch. Memory is in bytes, of a GPU or, on a machine without
    one, of the worker process.
    """
    records = list(records)
    found = [
        Measurement("counter", IMAGES, count, {"status": status})
        for status, count in sorted(Counter(record.status for record in records).items())
    ]
    batches: set[tuple[str, str]] = set()
    peaks: dict[str, int] = {}
    for record in records:
        for stage in STAGES:
            seconds = getattr(record.timings, stage)
            if seconds is None:
                continue
            if stage in BATCH_STAGES and record.batch is not None:
                if (record.batch.id, stage) in batches:
                    continue
                batches.add((record.batch.id, stage))
            found.append(Measurement("duration", STAGE_DURATION, seconds, {"stage": stage}))
        if record.memory is not None and record.worker is not None:
            host = _label(record.worker.host)
            peaks[host] = max(peaks.get(host, 0), record.memory.peak_allocated)
    found += [Measurement("gauge", PEAK_MEMORY, peak, {"host": host}) for host, peak in sorted(peaks.items())]
    return found


def _label(text: str) -> str:
    """A label's value that every metrics system accepts: a record may have been written by anyone."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:100]


@contextlib.contextmanager
def measured_shard(workspace: Workspace, run: str, shard: str, emit: Callable[[Measurement], None]) -> Iterator[None]:
    """Emit the measurements of the records that are written inside this context, however it ends.

    Best effort: a store that does not answer costs the numbers, and nothing else.
    """
    before: dict[str, ObjectInfo] | None = None
    left = Leftovers()
    with _harmless():
        before = _records(workspace, run, shard, left)
    try:
        yield
    finally:
        with _harmless():
            if before is not None:
                found = _records(workspace, run, shard, left)
                new = [info for key, info in found.items() if key not in before]
                read = read_each(workspace.storage, new, Record, left, max_bytes=row_bytes(workspace.settings))
                for measurement in measure(record for _, record in read):
                    emit(measurement)


def _records(workspace: Workspace, run: str, shard: str, left: Leftovers) -> dict[str, ObjectInfo]:
    layout = workspace.layout(run)
    infos = listed(workspace.storage, layout.shard_records(shard), left)
    return {info.location.key: info for info in infos if layout.shard_and_row(info.location)}


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except InpaintOpsError as error:
        log.warning("no metrics of this shard: %s", error)
