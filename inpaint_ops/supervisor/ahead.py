"""How many rows are kept ahead of a worker, in which order, and which of them probably fit one batch: pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from inpaint_ops.config import Settings
from inpaint_ops.images import working_size
from inpaint_ops.planning import PlannedRow
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.supervisor.rows import Limits, RowBook, RowPhase
from inpaint_ops.variants import Unit

BATCH_BEFORE_READY = 8
"""The batch that rows are downloaded for until the worker reports its own: the largest that the planner chooses."""

_LARGEST_BATCH = 64  # of a tuning: what a worker reports is not believed beyond it
_SMALLEST_NATIVE = 32
_MOST_GROUPS = 16
_IN_WORKER_PIXELS = 800_000_000
"""Of the sources in the worker. Each costs about 8 bytes there per pixel: the source, its mask, and the output."""


def limits(settings: Settings, *, batch: int = BATCH_BEFORE_READY, groups: int = 1) -> Limits:
    """How much to hold for a worker that paints `batch` rows at a time, of rows that fall into so many groups.

    In the worker: one batch that is painted, one that is decoded meanwhile, one that is encoded. On this machine: a
    batch that is uploaded as well, and so many rows more that one group always has a whole batch.
    """
    threads, batch = settings.transfer_threads, min(batch, _LARGEST_BATCH)
    rows = batch * (4 + min(max(groups, 1), _MOST_GROUPS)) + 2 * threads
    return Limits(
        rows=min(rows, settings.prefetch) if settings.prefetch is not None else rows,
        bytes=settings.prefetch_bytes,
        downloads=2 * threads,
        batch=batch,
        in_worker=3 * batch + 3,
        pixels_in_worker=_IN_WORKER_PIXELS,
    )


def group_of(files: RowFiles, native: int | None) -> Hashable:
    """What rows of one batch share, as far as it is known before a row is decoded.

    `native` is the model's native size; None while it is not known. The working size of a row that is cropped depends
    on its mask, and that of a photo with an EXIF orientation may be the other way round: the worker finds out.
    """
    row = files.row
    size = None
    if native is not None and files.size is not None and row.crop == "none":
        size = working_size(files.size, native=max(native, _SMALLEST_NATIVE))
    return size, *_painted_with(row)


def in_order(units: Iterable[Unit]) -> list[Unit]:
    """Those that are painted with the same parameters one after another, otherwise as they were."""
    return sorted(units, key=lambda unit: _painted_with(unit.row))


def _painted_with(row: PlannedRow) -> tuple[int, float, float, float, tuple[tuple[str, float], ...]]:
    parameters = row.parameters
    loras = tuple(sorted((name, weight) for name, weight in parameters.loras.items() if weight))
    return parameters.steps, parameters.guidance_scale, parameters.guidance_cutoff, parameters.strength, loras


@dataclass(slots=True)
class RowsAhead:
    """Which rows of a book probably fit one batch, as far as it is known by now, and how many are held for that."""

    book: RowBook
    settings: Settings
    native_size: int | None = None
    """The model's, once a worker has reported it."""
    _groups: set[Hashable] = field(default_factory=set)
    """Those that rows have fallen into so far."""

    def downloaded(self, files: RowFiles) -> None:
        """A row's files are here. More rows are held where they fall into more groups, so that one of these has a
        whole batch.
        """
        group = group_of(files, self.native_size)
        width, height = files.size or (0, 0)
        self.book.downloaded(files.number, size=files.bytes, pixels=width * height, group=group)
        if group not in self._groups:
            self._groups.add(group)
            self.book.limits = limits(self.settings, batch=self.book.limits.batch, groups=len(self._groups))

    def worker_ready(self, files: Mapping[int, RowFiles], *, native_size: int, batch: int) -> None:
        """A worker has reported its model's native size and how many rows it paints together: group the rows anew."""
        self.native_size = native_size
        self._groups.clear()
        for number in self.book.in_phase(RowPhase.READY):
            group = group_of(files[number], native_size)
            self.book.set_group(number, group)
            self._groups.add(group)
        self.book.limits = limits(self.settings, batch=batch, groups=len(self._groups))
