"""Pictures of a row for a browser: bounded in number, memory and time, whatever the files behind them are.

The files are not trusted, so no thread of this process decodes one: two helpers do (`inpaint_ops.previews`). A
caller gets a future or PreviewBusyError at once.

A result's thumbnail is passed on as it is, where the row's record names one under the run's own prefix, of the digest
and the size that it states, and it begins as a WebP file. It is not decoded here: our own worker has written it, its
supervisor has checked its header, and whoever could replace both it and the record that states its digest could replace
the result as well, which people save and open. A browser decodes it, in its sandbox, as it does any site's.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from inpaint_ops.browse.recent import Recent
from inpaint_ops.errors import (
    DamagedObjectError,
    ImageError,
    InpaintOpsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PreviewBusyError,
    PreviewError,
)
from inpaint_ops.images import THUMBNAIL_BYTES
from inpaint_ops.images.tiles import Block
from inpaint_ops.locations import Location
from inpaint_ops.previews import Helper, Job, split_parts
from inpaint_ops.records import Count, Model, Record, Thumbnail
from inpaint_ops.run_files.counted import image_of
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.pieces import in_pieces

log = logging.getLogger(__name__)

Kind = Literal["source", "mask", "result"]
"""The files of a row."""

ShownKind = Literal["source", "mask", "result", "difference"]
"""What is shown of a row: its files, and what the result changed of the source."""

SIZES = (256, 1600)
"""Pixels of the longer side: a thumbnail, and a view of its own. What is zoomed further is shown by tiles."""

CACHE_BYTES = 64 * 2**20
"""Of pictures that are kept in memory."""
BLOCK_BYTES = 64 * 2**20
"""Of blocks of tiles: a block of a photo has 3 to 8 MB. They push out no thumbnails."""
WAITING, OF_A_RUN = 96, 48
"""Pictures that may wait for a helper, in all and of one run: a gallery, and room for another viewer's."""
SHARE_SECONDS, SHARE_REFILL = 60.0, 0.5
"""CPU seconds that the pictures of one run may take at once, and what it gets back per second. A
thumbnail of a photo takes 0.01 to 0.1 s."""

_HELPERS = 2
_FAILURES, _FAILURE_SECONDS = 4096, 900.0
"""How many files that failed are remembered, and for how long, so that they are not decoded again for each view."""
_READERS = 4
"""Threads that read thumbnails."""
_SHARES = 256
_IDLE_SECONDS = 60.0
"""After which a helper ends: it holds some 40 MB."""

_Key = tuple[tuple[str, ...], Job]
"""The files that a picture is made of, and what is made of them."""
_Failure = ImageError | ObjectTooLargeError


class Changes(Model):
    """What a result changed of its source: see `images.difference`. `outside`: where nothing was painted."""

    changed: Count
    outside: Count | None
    highest: int = Field(ge=0, le=255)


class Size(Model):
    """Of an upright picture, in pixels."""

    width: Count
    height: Count


def uri_of(record: Record, kind: Kind) -> str:
    """Where the file behind a picture lies. Raises ObjectNotFoundError where the row has none."""
    uri = {"source": record.source, "mask": record.mask, "result": record.output.uri if record.output else None}[kind]
    if uri is None:
        raise ObjectNotFoundError(f"row {record.row} has no {kind}")
    return uri


class Share:
    """CPU seconds that may be spent: `SHARE_SECONDS` at once, and `SHARE_REFILL` more with each second that passes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = SHARE_SECONDS
        self._at = clock()

    def left(self) -> float:
        """What may be spent now; below 0 where more was spent than there was."""
        moment = self._clock()
        self._left = min(SHARE_SECONDS, self._left + (moment - self._at) * SHARE_REFILL)
        self._at = moment
        return self._left

    def spend(self, seconds: float) -> None:
        """Take `seconds`."""
        self._left = self.left() - seconds


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    run: str
    key: _Key
    made: Future[bytes]


class Pictures:
    """Makes pictures and keeps the last of them, `CACHE_BYTES` and `BLOCK_BYTES` at most. Threads may share it.

    `helper` makes what decodes (one for each of two threads of this object), `clock` counts seconds.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        helper: Callable[[], Helper] = Helper,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._make_helper = helper
        self._clock = clock
        self._kept: Recent[_Key] = Recent(CACHE_BYTES)
        self._blocks: Recent[_Key] = Recent(BLOCK_BYTES)
        self._failed: OrderedDict[_Key, tuple[float, _Failure]] = OrderedDict()
        self._shares: OrderedDict[str, Share] = OrderedDict()
        self._going: dict[_Key, _Task] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="thumbnails")

    def picture(self, record: Record, kind: Kind, size: int, *, run: str = "") -> bytes:
        """As `ask`, but waits for the picture."""
        return self.ask(record, kind, size, run=run).result()

    def ask(self, record: Record, kind: Kind, size: int, *, run: str = "") -> Future[bytes]:
        """A JPEG of the source or the result, or the result's WebP thumbnail.

        Of the mask a PNG, magenta where the model painted, else transparent.

        Never blocks. `run` is whose share it comes out of. The future raises StorageError, ImageError (PreviewError
        where a limit was met), or PreviewBusyError where the share was spent before its turn. Raises
        ObjectNotFoundError where the row has no such file, and PreviewBusyError where too many wait.
        """
        job = self._job(record, kind, size)
        with self._lock:
            thumbnail = self._thumbnail(record, run, size) if kind == "result" else None
        return self._ask(run, (uri_of(record, kind),), job, thumbnail)

    def ask_thumbnail(self, record: Record, *, run: str) -> Future[bytes] | None:
        """As `ask`, of the result at the smallest size; None where painting has left no thumbnail to pass on."""
        with self._lock:
            thumbnail = self._thumbnail(record, run, SIZES[0])
        if thumbnail is None:
            return None
        return self._ask(run, (uri_of(record, "result"),), self._job(record, "result", SIZES[0]), thumbnail)

    def ask_difference(self, record: Record, *, run: str = "") -> Future[bytes]:
        """As `ask`: what the result changed of the source; `changes_and_picture` reads the answer."""
        return self._ask(run, _files(record, "difference"), self._job(record, "difference", SIZES[-1]))

    def ask_tiles(self, record: Record, kind: ShownKind, block: Block, *, run: str = "") -> Future[bytes]:
        """As `ask`: a block of tiles; `split_parts` of `inpaint_ops.previews` takes the answer apart."""
        job = replace(self._job(record, kind, 0), block=(block.level, block.column, block.row))
        if kind == "mask":
            if record.output is None:
                raise ObjectNotFoundError(f"row {record.row} has no result, so the size of its picture is not known")
            job = replace(job, size=(record.output.width, record.output.height))
        return self._ask(run, _files(record, kind), job)

    def ask_size(self, record: Record, *, run: str = "") -> Future[bytes]:
        """As `ask`: the source's own size; `Size` of the answer's one part."""
        return self._ask(run, (uri_of(record, "source"),), replace(self._job(record, "source", 0), kind="size"))

    def _job(self, record: Record, kind: ShownKind, longest: int) -> Job:
        limit = self._workspace.settings.max_pixels
        if kind == "mask":
            return Job.of_mask(record, longest, limit)
        if kind == "difference":
            return Job("difference", longest, limit, box=record.mask_area.box if record.mask_area else None)
        return Job("picture", longest, limit)

    def _ask(
        self, run: str, uris: tuple[str, ...], job: Job, thumbnail: tuple[Location, Thumbnail] | None = None
    ) -> Future[bytes]:
        key = (uris, job)
        made: Future[bytes] = Future()
        made.set_running_or_notify_cancel()  # several may wait for it, so none can cancel it
        with self._lock:
            if (kept := self._recent(job).get(key)) is not None:
                made.set_result(kept)
                return made
            failure = self._failure(key)
            if failure is not None:
                made.set_exception(failure)
                return made
            if key in self._going:
                return self._going[key].made
            task = _Task(run, key, made)
            if thumbnail is not None:
                if len(self._going) >= WAITING:
                    raise PreviewBusyError("too many pictures are being read: try again later")
                self._going[key] = task
                self._readers.submit(self._read_thumbnail, task, *thumbnail)
                return made
            self._check_share(run)
            if len(self._going) >= WAITING or sum(one.run == run for one in self._going.values()) >= OF_A_RUN:
                raise PreviewBusyError("too many pictures are being made: try again later")
            self._going[key] = task
            self._queue_up(task)
        return made

    def _recent(self, job: Job) -> Recent[_Key]:
        return self._blocks if job.block is not None else self._kept

    def _queue_up(self, task: _Task) -> None:
        """Have a helper make the picture. Call it with the lock."""
        self._queue.put(task)
        if len(self._threads) < _HELPERS:
            thread = threading.Thread(target=self._work, name="pictures", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _thumbnail(self, record: Record, run: str, size: int) -> tuple[Location, Thumbnail] | None:
        """The row's own thumbnail for a picture of `size`, and where the run's layout has it; None where none will do.

        One that is smaller does where it holds all of the image's pixels.
        """
        if not record.thumbnails or record.output is None or not run:
            return None
        layout = self._workspace.layout(run)
        image, longest = image_of(record, layout), max(record.output.width, record.output.height)
        for one in sorted(record.thumbnails, key=lambda one: one.size):
            if one.size in THUMBNAIL_BYTES and (one.size == size or longest <= one.size <= size):
                place = layout.thumbnail(image, one.size) if image is not None else None
                return (place, one) if place is not None and place.uri == one.uri else None
        return None

    def _read_thumbnail(self, task: _Task, place: Location, stated: Thumbnail) -> None:
        """Pass on a thumbnail; where it is not what its record says, the picture is made of the result, as without."""
        try:
            data = self._workspace.storage.get_unchecked(place, max_bytes=THUMBNAIL_BYTES[stated.size])
            if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or hashlib.sha256(data).hexdigest() != stated.sha256:
                raise DamagedObjectError(f"{place} is not the thumbnail that its record states")
        except Exception as error:
            if not isinstance(error, InpaintOpsError):
                log.exception("%s cannot be read", place)
            log.info("%s: the picture is made of the result", error)
            with self._lock:
                self._queue_up(task)
        else:
            self._keep(task.key, data)
            task.made.set_result(data)

    def _failure(self, key: _Key) -> _Failure | None:
        until, failure = self._failed.get(key, (0.0, None))
        if failure is None or self._clock() >= until:
            return None
        return type(failure)(str(failure))  # a new exception: one that is raised repeatedly keeps every frame

    def _share(self, run: str) -> Share:
        share = self._shares.setdefault(run, Share(self._clock))
        self._shares.move_to_end(run)
        while len(self._shares) > _SHARES:
            self._shares.popitem(last=False)
        return share

    def _check_share(self, run: str) -> None:
        left = self._share(run).left()
        if left <= 0:
            after = min(60.0, 1.0 + -left / SHARE_REFILL)
            raise PreviewBusyError("the pictures of this run take too long: try again later", retry_after=after)

    def _work(self) -> None:
        """Make pictures, as long as there are requests. The helper ends with this thread, or with this process."""
        with self._make_helper() as helper:
            while True:
                try:
                    self._do(helper, self._queue.get(timeout=_IDLE_SECONDS))
                except queue.Empty:
                    with self._lock:
                        if self._queue.empty():  # else a request has just arrived
                            self._threads.remove(threading.current_thread())
                            return

    def _do(self, helper: Helper, task: _Task) -> None:
        try:
            data = self._make(helper, task)
        except BaseException as error:  # it must reach those who wait, and the thread goes on
            with self._lock:
                self._going.pop(task.key, None)
                if isinstance(error, _Failure):
                    self._failed[task.key] = (self._clock() + _FAILURE_SECONDS, error)
                    while len(self._failed) > _FAILURES:
                        self._failed.popitem(last=False)
            task.made.set_exception(error)
        else:
            self._keep(task.key, data)
            task.made.set_result(data)

    def _make(self, helper: Helper, task: _Task) -> bytes:
        with self._lock:
            self._check_share(task.run)  # others of its run may have spent it meanwhile
        cpu = 0.0
        try:
            limit = self._workspace.settings.max_image_bytes
            uris, job = task.key
            made = helper.make(job, [in_pieces(self._workspace.storage, uri, max_bytes=limit) for uri in uris])
            cpu = made.cpu
        except PreviewError as error:
            cpu = error.cpu
            raise
        finally:
            with self._lock:
                self._share(task.run).spend(cpu)
        return made.data

    def _keep(self, key: _Key, data: bytes) -> None:
        with self._lock:
            self._going.pop(key, None)
            self._recent(key[1]).keep(key, data)


def changes_and_picture(body: bytes) -> tuple[Changes, bytes]:
    """The answer of `ask_difference`. Raises ImageError where a decoder that was taken over has made it up."""
    try:
        figures, picture = split_parts(body)
        return Changes.model_validate_json(figures), picture
    except ValueError as error:
        raise ImageError("the answer is no comparison") from error


def size_of(body: bytes) -> Size:
    """The answer of `ask_size`. Raises ImageError as `changes_and_picture` does."""
    try:
        (figures,) = split_parts(body)
        return Size.model_validate_json(figures)
    except ValueError as error:
        raise ImageError("the answer is no size") from error


def _files(record: Record, kind: ShownKind) -> tuple[str, ...]:
    """The files that are shown."""
    return (uri_of(record, "source"), uri_of(record, "result")) if kind == "difference" else (uri_of(record, kind),)
