"""The gallery of a report: small pictures of a few rows, made by helpers, within a budget of time and memory.

The files are not trusted, and this process has the store's keys, so it decodes none of them. A row whose pictures
cannot be had is left out, and the log and the report say so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from inpaint_ops.config import Settings
from inpaint_ops.errors import ImageError, PreviewBusyError, PreviewError, StorageError
from inpaint_ops.previews import Helper, Job
from inpaint_ops.previews.helper import File, Whole
from inpaint_ops.previews.pool import HelperPool
from inpaint_ops.records import Record, Thumbnail
from inpaint_ops.report import GalleryItem, choose_gallery
from inpaint_ops.storage import Storage
from inpaint_ops.storage.pieces import in_pieces

log = logging.getLogger(__name__)

CPU_SECONDS, WALL_SECONDS = 120.0, 300.0
"""What all pictures of a report may take together; one of a JPEG of 24 megapixels takes 0.1 s of the processor."""
_LONGEST = 256
_HELPERS = 2


@dataclass(frozen=True, slots=True)
class Gallery:
    """The rows to show, and a line for each that was chosen and left out: which, and why."""

    items: tuple[GalleryItem, ...]
    left_out: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)


class Budget:
    """What the pictures of one report have taken so far. Threads may share it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = clock() + WALL_SECONDS
        self._cpu = 0.0
        self._lock = threading.Lock()

    def spend(self, seconds: float) -> None:
        """Count `seconds` of the processor."""
        with self._lock:
            self._cpu += seconds

    def check(self) -> None:
        """Raise PreviewError once nothing is left."""
        if self._cpu >= CPU_SECONDS or self._clock() >= self._until:
            raise PreviewError("the time for the report's pictures is spent")


class RowPictures:
    """Makes the small pictures of finished rows: source, mask over source, result. Two helpers decode, until it closes.

    `helper` makes one of them; a `budget` ends it early. Raises nothing of a picture.
    """

    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        *,
        helper: Callable[[], Helper] = Helper,
        budget: Budget | None = None,
    ) -> None:
        self._storage, self._settings, self._budget = storage, settings, budget
        self._pool = HelperPool(_HELPERS, helper)

    def __enter__(self) -> RowPictures:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.close()

    def of(self, records: Iterable[Record]) -> list[GalleryItem | str]:
        """For each of these that has an image: its pictures, or a line that says why they cannot be had."""
        return [made for made in self._pool.map(self._one, records) if made is not None]

    def _one(self, helper: Helper, record: Record) -> GalleryItem | str | None:
        if record.source is None or record.mask is None or record.output is None:
            return None
        settings, what = self._settings, "source"
        job = Job("picture", _LONGEST, settings.max_pixels)
        try:
            source = self._make(helper, job, [self._file(record.source)])
            what = "mask"
            layer = self._make(helper, Job.of_mask(record, _LONGEST, settings.max_pixels), [self._file(record.mask)])
            what = "result"
            result = self._result(helper, job, record.output.uri, record.thumbnails)
            what = "mask"
            both = [Whole(source), Whole(layer)]
            overlay = self._make(helper, Job("overlay", _LONGEST, settings.max_pixels), both)
        except (StorageError, ImageError, PreviewBusyError) as error:
            return f"row {record.row}: {what}: {error}"
        return GalleryItem(record, source, overlay, result)

    def _result(self, helper: Helper, job: Job, uri: str, thumbnails: Sequence[Thumbnail]) -> bytes:
        """Of its thumbnail, where a sound one was written: at 12 megapixels a row then takes half the time."""
        for small in thumbnails:
            if small.size == _LONGEST:
                with suppress(StorageError, ImageError):
                    return self._make(helper, job, [self._file(small.uri)])
        return self._make(helper, job, [self._file(uri)])

    def _file(self, uri: str) -> File:
        if self._budget is not None:
            self._budget.check()
        return in_pieces(self._storage, uri, max_bytes=self._settings.max_image_bytes)

    def _make(self, helper: Helper, job: Job, files: Sequence[File]) -> bytes:
        if self._budget is not None:
            self._budget.check()
        try:
            made = helper.make(job, files)
        except PreviewError as error:
            if self._budget is not None:
                self._budget.spend(error.cpu)
            raise
        if self._budget is not None:
            self._budget.spend(made.cpu)
        return made.data


def make_gallery(
    storage: Storage,
    settings: Settings,
    records: Sequence[Record],
    *,
    helper: Callable[[], Helper] = Helper,
    clock: Callable[[], float] = time.monotonic,
) -> Gallery:
    """Small pictures of a few finished rows (see `choose_gallery`) for a report, within its budget.

    `helper` makes what decodes; `clock` counts seconds.
    """
    with RowPictures(storage, settings, helper=helper, budget=Budget(clock)) as pictures:
        made = pictures.of(choose_gallery(records))
    left_out = tuple(item for item in made if isinstance(item, str))
    for line in left_out:
        log.warning("not in the report's gallery: %s", line)
    return Gallery(tuple(item for item in made if isinstance(item, GalleryItem)), left_out)
