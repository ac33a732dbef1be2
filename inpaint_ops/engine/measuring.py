"""What painting took: seconds by stage, peak memory, and the figures that a worker's report has of all its batches."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from inpaint_ops.engine.batching import BatchKey
from inpaint_ops.records import BATCH_STAGES, STAGES, LedgerEntry, Memory, Timings


class DeviceMeter:
    """The clock and the memory counters of one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"

    def clock(self) -> float:
        """Seconds, once the device has done all that it was asked for."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def reset_peaks(self) -> None:
        """Count peaks of memory from here on; on a CPU they are those of the process's whole life."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> Memory:
        """Peak memory in bytes since `reset_peaks`; on a CPU the process's resident memory for both figures."""
        if self._is_cuda:
            allocated = torch.cuda.max_memory_allocated(self._device)
            reserved = torch.cuda.max_memory_reserved(self._device)
        else:
            allocated = reserved = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Memory(peak_allocated=allocated, peak_reserved=reserved)


@dataclass(frozen=True, slots=True)
class PaintedBatch:
    """One batch that was painted: `rows` of them asked for, `seconds` less those spent compiling.

    It `began` at that reading of `time.perf_counter`; its stages followed each other.
    """

    key: BatchKey
    rows: int
    timings: Timings
    seconds: float
    compiling: float
    memory: Memory
    began: float = 0.0


class Measurements:
    """The figures of all batches so far. Pure."""

    def __init__(self) -> None:
        self._batches: list[PaintedBatch] = []
        self.painted = 0
        """Rows that became an image."""

    def add(self, batch: PaintedBatch, images: int) -> None:
        """Count a batch, of which `images` rows became an image."""
        self._batches.append(batch)
        self.painted += images

    @property
    def batches(self) -> Sequence[PaintedBatch]:
        """All that were painted, in order."""
        return self._batches

    @property
    def busy(self) -> float:
        """Seconds spent on batches that were painted, less what was spent compiling."""
        return sum(batch.seconds for batch in self._batches)

    @property
    def compiling(self) -> float:
        """Seconds spent compiling while batches were painted."""
        return sum(batch.compiling for batch in self._batches)

    @property
    def largest_batch(self) -> int | None:
        """Rows of the largest batch that was painted; None before the first."""
        return max((batch.rows for batch in self._batches), default=None)

    @property
    def peak_memory(self) -> Memory | None:
        """The peaks of all batches; None before the first."""
        if not self._batches:
            return None
        return Memory(
            peak_allocated=max(batch.memory.peak_allocated for batch in self._batches),
            peak_reserved=max(batch.memory.peak_reserved for batch in self._batches),
        )

    @property
    def first_call(self) -> float:
        """Seconds by which the first batch outlasted the median of the later ones of its key and size.

        0 where no later batch is comparable: one batch alone cannot tell warm-up from work.
        """
        if not self._batches:
            return 0.0
        first, *rest = self._batches
        later = [batch.seconds for batch in rest if (batch.key, batch.rows) == (first.key, first.rows)]
        return max(0.0, first.seconds - statistics.median(later)) if later else 0.0

    def means(self) -> dict[str, float]:
        """Means over the batches (seconds of each stage, rows) and peak memory in bytes; empty before the first."""
        peak = self.peak_memory
        if peak is None:
            return {}
        stages = {
            f"{stage}_seconds": statistics.fmean(getattr(batch.timings, stage) for batch in self._batches)
            for stage in STAGES
            if stage in BATCH_STAGES
        }
        return stages | {
            "rows_per_batch": statistics.fmean(batch.rows for batch in self._batches),
            "peak_allocated_bytes": float(peak.peak_allocated),
            "peak_reserved_bytes": float(peak.peak_reserved),
        }

    def fill(self, ledger: Sequence[LedgerEntry], own: Mapping[str, Mapping[str, float]]) -> tuple[LedgerEntry, ...]:
        """The ledger with `measured` filled in: `own` figures by an entry's name, and the means for every entry, since
        what ran together is measured together.
        """
        means = self.means()
        return tuple(
            entry.model_copy(update={"measured": entry.measured | dict(own.get(entry.name, {})) | means})
            for entry in ledger
        )
