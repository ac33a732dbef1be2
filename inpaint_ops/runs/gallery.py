"""The gallery of a report: small pictures of a few rows, made by helpers, within a budget of time and memory.

The files are not trusted, and this process has the store's keys, so it decodes none of them. A row whose pictures
cannot be had is left out, and the log and the report say so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from inpaint_ops.config import Settings
from inpaint_ops.errors import ImageError, PreviewBusyError, PreviewError, StorageError
from inpaint_ops.previews import Helper, Job
from inpaint_ops.previews.helper import File, Whole
from inpaint_ops.records import Record
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


class _Budget:
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


def make_gallery(
    storage: Storage,
    settings: Settings,
    records: Sequence[Record],
    *,
    helper: Callable[[], Helper] = Helper,
    clock: Callable[[], float] = time.monotonic,
) -> Gallery:
    """Small pictures of a few finished rows (see `choose_gallery`): source, mask over source, result.

    `helper` makes what decodes, one for each of two threads; `clock` counts seconds. Raises nothing of a picture.
    """
    budget = _Budget(clock)
    local, helpers = threading.local(), []

    def make(job: Job, files: Sequence[File]) -> bytes:
        budget.check()
        try:
            made = local.helper.make(job, files)
        except PreviewError as error:
            budget.spend(error.cpu)
            raise
        budget.spend(made.cpu)
        return bytes(made.data)

    def get_ready() -> None:
        local.helper = helper()
        helpers.append(local.helper)

    def one(record: Record) -> GalleryItem | str | None:
        if record.source is None or record.mask is None or record.output is None:
            return None
        job = Job("picture", _LONGEST, settings.max_pixels)
        what = "source"

        def small(uri: str) -> bytes:
            budget.check()
            return make(job, [in_pieces(storage, uri, max_bytes=settings.max_image_bytes)])

        try:
            source = small(record.source)
            what = "mask"
            budget.check()
            layer = make(Job.of_mask(record, _LONGEST, settings.max_pixels),
                         [in_pieces(storage, record.mask, max_bytes=settings.max_image_bytes)])  # fmt: skip
            what = "result"
            result = small(record.output.uri)
            what = "mask"
            overlay = make(Job("overlay", _LONGEST, settings.max_pixels), [Whole(source), Whole(layer)])
        except (StorageError, ImageError, PreviewBusyError) as error:
            return f"row {record.row}: {what}: {error}"
        return GalleryItem(record, source, overlay, result)

    try:
        with ThreadPoolExecutor(_HELPERS, thread_name_prefix="gallery", initializer=get_ready) as pool:
            made = list(pool.map(one, choose_gallery(records)))
    finally:
        for started in helpers:
            started.close()
    left_out = tuple(item for item in made if isinstance(item, str))
    for line in left_out:
        log.warning("not in the report's gallery: %s", line)
    return Gallery(tuple(item for item in made if isinstance(item, GalleryItem)), left_out)
