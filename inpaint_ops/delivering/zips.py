"""A delivery as a ZIP: written to a file of this machine, or sent as it is made.

Images are stored as they are, in one folder. An image is fetched whole, and its digest compared, before its first byte
is written: one that is damaged is left out, and the archive goes on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from inpaint_ops.delivering.contents import Image
from inpaint_ops.delivering.fetching import AHEAD, THREADS, fetched, in_order, or_why
from inpaint_ops.delivering.targets import Outcome, relative_link
from inpaint_ops.errors import ConfigError, StorageError
from inpaint_ops.locations import Location
from inpaint_ops.records import now
from inpaint_ops.storage import Storage
from inpaint_ops.storage.files import temporary_beside

_ZIP64_FROM = 2**30
_PIECE = 2**20
_IN_MEMORY = 32 * 2**20
"""Of one entry of an archive that is sent; a larger one lies in a temporary file meanwhile."""


class Archive:
    """What both kinds of ZIP share: a Target whose entries lie in one folder, named after the run.

    Names are those of images of the run (`contents.image_to_deliver`): relative, without `..`.
    """

    resumes = False
    end = None

    def __init__(self, storage: Storage, folder: str, *, threads: int = THREADS, ahead: int = AHEAD) -> None:
        self._storage, self._folder = storage, folder
        self._threads, self._ahead = threads, ahead
        self._zip: zipfile.ZipFile

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """See Target."""
        with tempfile.TemporaryDirectory(prefix="inpaint-ops-deliver-") as folder:
            fetch = partial(or_why, partial(fetched, self._storage), folder=Path(folder))
            for image, got in in_order(fetch, images, threads=self._threads, ahead=self._ahead):
                if isinstance(got, StorageError):
                    yield image, got
                    continue
                with got.open("rb") as source, self._open(image) as out:
                    shutil.copyfileobj(source, out, _PIECE)
                got.unlink()
                self._written()
                yield image, "written"

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """See Target."""
        body = data.read_bytes() if isinstance(data, Path) else data
        self._zip.writestr(self._entry(name, now()), body, zipfile.ZIP_DEFLATED)
        self._written()

    def read(self, name: str) -> bytes | None:
        """None: a ZIP that is there is replaced as a whole."""
        return None

    def link(self, name: str, place: Location | None = None) -> str:
        """See Target."""
        return relative_link(name)

    def _open(self, image: Image) -> IO[bytes]:
        entry = self._entry(image.name, image.row.made.finished_at)
        return self._zip.open(entry, "w", force_zip64=image.size > _ZIP64_FROM)

    def _entry(self, name: str, moment: datetime) -> zipfile.ZipInfo:
        at = moment.astimezone(UTC)
        entry = zipfile.ZipInfo(f"{self._folder}/{name}", (max(at.year, 1980), *at.timetuple()[1:6]))
        entry.external_attr = 0o644 << 16
        return entry

    def _written(self) -> None:
        """An entry is complete."""


class ZipFile(Archive):
    """A ZIP file on this machine: it appears whole or not at all."""

    def __init__(self, storage: Storage, path: Path, folder: str, *, replace: bool) -> None:
        super().__init__(storage, folder)
        self._path, self._replace = path, replace
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._path.is_dir():
            raise ConfigError(f"{self._path} is a folder: give the name of a file")
        if self._path.exists() and not self._replace:
            raise ConfigError(f"{self._path} is there already: choose another name, or add --replace")
        try:
            self._file, self._temporary = self._stack.enter_context(temporary_beside(self._path))
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error
        self._zip = zipfile.ZipFile(self._file, "w")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            if kind is None:
                self._zip.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._temporary, self._path)


class ZipStream(Archive):
    """A ZIP that is sent while it is made: each complete entry goes to `send`, in pieces of 1 MiB at most.

    The list of what is in it comes last, so that a stream which breaks off is no archive: every program that opens ZIP
    files says so. Memory holds one entry of up to 32 MiB, and the list: about 500 bytes per image. `send` may raise.
    """

    def __init__(self, storage: Storage, folder: str, send: Callable[[bytes], None], *, threads: int = 4) -> None:
        super().__init__(storage, folder, threads=threads, ahead=threads)
        self._send = send

    def __enter__(self) -> Self:
        self._window = _Window()
        self._zip = zipfile.ZipFile(self._window, "w")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._window:
            if kind is None:
                self._zip.close()
                self._written()
            else:
                self._zip.fp = None  # else its destructor would write a list of what is in it

    def _written(self) -> None:
        for piece in self._window.taken():
            self._send(piece)


class _Window(tempfile.SpooledTemporaryFile[bytes]):
    """A file of which the part that was taken is gone: what is written is entry after entry, each mended at its start.

    So every local header has sizes and checksum, which programs want that unpack a ZIP as it comes.
    """

    def __init__(self) -> None:
        super().__init__(max_size=_IN_MEMORY)
        self._before = 0

    def tell(self) -> int:
        """Counted from the beginning of the archive."""
        return self._before + super().tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Within what was not taken yet. Raises ValueError for a place before that."""
        return self._before + super().seek(offset - self._before if whence == os.SEEK_SET else offset, whence)

    def taken(self) -> Iterator[bytes]:
        """What was written since the last time; it is gone afterwards."""
        super().seek(0)
        while piece := self.read(_PIECE):
            self._before += len(piece)
            yield piece
        super().seek(0)
        self.truncate()
