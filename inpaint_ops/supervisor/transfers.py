"""What a shard moves, in threads: a row's files here, its end to the store; how each went comes back as a message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    CredentialsExpiredError,
    InpaintOpsError,
    ObjectTooLargeError,
    ScratchFullError,
    StorageUnavailableError,
)
from inpaint_ops.machine.scratch import patiently, remove, room_for
from inpaint_ops.records import Record
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor.confinement import Identity
from inpaint_ops.supervisor.messages import Downloaded, Message, Recorded, RowFiles
from inpaint_ops.supervisor.received import source_size

T = TypeVar("T")


@dataclass(slots=True)
class Transfers:
    """Downloads in one pool of threads, uploads in another and all else in a third, so that none waits for the others.

    A store that does not answer, expired credentials and a full disk are waited out, for `patience` seconds, so that an
    outage of some minutes costs no loaded model. Nothing is waited for once `stop` is set.
    """

    storage: Storage
    settings: Settings
    tell: Callable[[Message], None]
    identity: Identity | None = None
    """The user to whom a row's folder is given, where workers have one of their own."""
    stop: threading.Event = field(default_factory=threading.Event)
    _downloads: ThreadPoolExecutor = field(init=False)
    _uploads: ThreadPoolExecutor = field(init=False)
    _others: ThreadPoolExecutor = field(init=False)
    _snapshot: Future[None] | None = field(init=False, default=None)
    _kept: list[Future[None]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        threads = self.settings.transfer_threads
        self._downloads = ThreadPoolExecutor(threads, thread_name_prefix="download")
        self._uploads = ThreadPoolExecutor(threads, thread_name_prefix="upload")
        self._others = ThreadPoolExecutor(2, thread_name_prefix="background")

    def patiently(self, call: Callable[[], T]) -> T:
        """What `call` returns, once what may pass has passed. Raises what it raises."""

        def once() -> T:
            try:
                return call()
            except CredentialsExpiredError:
                self.storage.renew()
                raise

        return patiently(once, (StorageUnavailableError, ScratchFullError), self.settings.patience, self.stop)

    def download(self, files: RowFiles) -> None:
        """Bring a row's image and mask into its folder; a Downloaded tells how it went."""
        self._downloads.submit(self._download, files)

    def record(self, files: RowFiles, write: Callable[[], Record]) -> None:
        """Write a row's end, and remove its files once that is stored; a Recorded tells how it went."""
        self._uploads.submit(self._record, files, write)

    def publish(self, snapshot: Callable[[], None]) -> None:
        """Call `snapshot` in an upload thread; left out while the one before is still on its way."""
        if self._snapshot is None or self._snapshot.done():
            self._snapshot = self._uploads.submit(snapshot)

    def keep(self, call: Callable[[], None]) -> None:
        """Call it in a background thread; `close` waits until it is done."""
        self._kept.append(self._others.submit(call))

    def message(self, call: Callable[[], Message]) -> None:
        """Call it in a background thread, and pass on the message that it returns."""
        self._others.submit(lambda: self.tell(call()))

    def background(self, call: Callable[[], T]) -> Future[T]:
        """Call it in a background thread: something that takes a moment and moves no row."""
        return self._others.submit(call)

    def close(self) -> None:
        """Wait for what is under way and what was to be kept; what else has not begun is dropped."""
        self.stop.set()
        wait(self._kept)
        for pool in (self._downloads, self._uploads, self._others):
            pool.shutdown(wait=True, cancel_futures=True)

    def _download(self, files: RowFiles) -> None:
        started = time.monotonic()
        error: BaseException | None = None
        try:
            for name, uri in (("image", files.row.image), ("mask", files.row.mask)):
                self.patiently(partial(self._fetch, files, name, uri))
            files.size = source_size(files.folder / "image")
            files.bytes = sum(file.stat().st_size for file in files.folder.iterdir())
            if self.identity is not None:
                self.identity.give(files.folder)
        except BaseException as failure:  # it must reach the main thread, whatever it is
            error = failure
        self.tell(Downloaded(files.number, time.monotonic() - started, error))

    def _fetch(self, files: RowFiles, name: str, uri: str) -> None:
        try:
            with room_for(files.folder):
                files.folder.mkdir(exist_ok=True)
                self.storage.download(uri, files.folder / name, max_bytes=self.settings.max_image_bytes)
                if self.identity is not None:
                    (files.folder / name).chmod(0o644)
        except InpaintOpsError as failure:
            limit = " (INPAINT_MAX_IMAGE_BYTES)" if isinstance(failure, ObjectTooLargeError) else ""
            raise type(failure)(f"{name}: {failure}{limit}") from failure

    def _record(self, files: RowFiles, write: Callable[[], Record]) -> None:
        number = files.number
        try:
            record = self.patiently(write)
            message = Recorded(number, record.status, ends_row=record.variant is None)
            remove(files.folder)  # before the row gives up its place to another one
        except BaseException as failure:  # it must reach the main thread, whatever it is
            message = Recorded(number, "failed", error=failure)
        self.tell(message)
