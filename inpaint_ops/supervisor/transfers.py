"""What a shard moves, in threads: a row's files here, its end to the store; how each went comes back as a message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from inpaint_ops.config import Settings
from inpaint_ops.confinement import Identity
from inpaint_ops.errors import (
    CredentialsExpiredError,
    InpaintOpsError,
    ObjectTooLargeError,
    ScratchFullError,
    StorageUnavailableError,
)
from inpaint_ops.received import source_size
from inpaint_ops.records import Record
from inpaint_ops.scratch import patiently, room_for
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor.state import Downloaded, Recorded, RowState

T = TypeVar("T")


@dataclass(slots=True)
class Transfers:
    """Downloads in one pool of threads and uploads in another, so that neither waits for the other.

    A store that does not answer, expired credentials and a full disk are waited out, for `patience` seconds, so that an
    outage of some minutes costs no loaded model. Nothing is waited for once `stop` is set.
    """

    storage: Storage
    settings: Settings
    tell: Callable[[Downloaded | Recorded], None]
    identity: Identity | None = None
    """The user to whom a row's folder is given, where workers have one of their own."""
    stop: threading.Event = field(default_factory=threading.Event)
    _downloads: ThreadPoolExecutor = field(init=False)
    _uploads: ThreadPoolExecutor = field(init=False)
    _word: Future[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        threads = self.settings.transfer_threads
        self._downloads = ThreadPoolExecutor(threads, thread_name_prefix="download")
        self._uploads = ThreadPoolExecutor(threads, thread_name_prefix="upload")

    def patiently(self, call: Callable[[], T]) -> T:
        """What `call` returns, once what may pass has passed. Raises what it raises."""

        def once() -> T:
            try:
                return call()
            except CredentialsExpiredError:
                self.storage.renew()
                raise

        return patiently(once, (StorageUnavailableError, ScratchFullError), self.settings.patience, self.stop)

    def download(self, state: RowState) -> None:
        """Bring a row's image and mask into its folder; a Downloaded tells how it went."""
        self._downloads.submit(self._download, state)

    def record(self, number: int, write: Callable[[], Record]) -> None:
        """Write a row's end; a Recorded tells how it went."""
        self._uploads.submit(self._record, number, write)

    def say(self, word: Callable[[], None]) -> None:
        """Call `word` in an upload thread; left out while the last one is still on its way."""
        if self._word is None or self._word.done():
            self._word = self._uploads.submit(word)

    def background(self, call: Callable[[], T]) -> Future[T]:
        """Call it in an upload thread: something that takes a moment and moves nothing."""
        return self._uploads.submit(call)

    def close(self) -> None:
        """Wait for what is under way; what has not begun is dropped."""
        self.stop.set()
        for pool in (self._downloads, self._uploads):
            pool.shutdown(wait=True, cancel_futures=True)

    def _download(self, state: RowState) -> None:
        started = time.monotonic()
        error: BaseException | None = None
        try:
            for name, uri in (("image", state.row.image), ("mask", state.row.mask)):
                self.patiently(partial(self._fetch, state, name, uri))
            state.size = source_size(state.folder / "image")
            if self.identity is not None:
                self.identity.give(state.folder)
        except BaseException as failure:  # it must reach the main thread, whatever it is
            error = failure
        self.tell(Downloaded(state.row.row, time.monotonic() - started, error))

    def _fetch(self, state: RowState, name: str, uri: str) -> None:
        try:
            with room_for(state.folder):
                state.folder.mkdir(exist_ok=True)
                self.storage.download(uri, state.folder / name, max_bytes=self.settings.max_image_bytes)
                if self.identity is not None:
                    (state.folder / name).chmod(0o644)
        except InpaintOpsError as failure:
            limit = " (INPAINT_MAX_IMAGE_BYTES)" if isinstance(failure, ObjectTooLargeError) else ""
            raise type(failure)(f"{name}: {failure}{limit}") from failure

    def _record(self, number: int, write: Callable[[], Record]) -> None:
        try:
            message = Recorded(number, self.patiently(write).status)
        except BaseException as failure:  # it must reach the main thread, whatever it is
            message = Recorded(number, "failed", failure)
        self.tell(message)
