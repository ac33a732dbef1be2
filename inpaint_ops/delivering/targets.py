"""Where a delivery goes: a prefix (a folder, or one of a bucket), or a ZIP (`zips`)."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self
from urllib.parse import quote

from inpaint_ops.delivering.contents import Image
from inpaint_ops.delivering.fetching import check_size, fetched, in_order, or_why, sha256_of
from inpaint_ops.errors import ConfigError, ObjectExistsError, StorageError
from inpaint_ops.images import MEDIA_TYPES
from inpaint_ops.layout import StoreLayout
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.interface import DEFAULT_CONTENT_TYPE

Outcome = Literal["written", "copied", "there"]
"""`copied`: by the store itself, so that no byte was read here. `there`: by an earlier delivery, the same bytes."""

_NOTE_BYTES = 2**20


SHEET = "contact-sheet"
"""The folder of the pages in a delivery."""


class Target(Protocol):
    """A delivery's place. Used as a context; what it holds counts once the context is left without an error."""

    resumes: bool
    """Whether a delivery that was interrupted leaves what it has put, and the next one goes on there."""

    @property
    def end(self) -> datetime | None:
        """When its links stop working; None: never."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """Put these images, and tell of each in the same order how that ended.

        Raises StorageUnavailableError, and ConfigError where another file has an image's name.
        """

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """Put a file that describes the delivery; one of an earlier delivery of the same run is replaced."""

    def read(self, name: str) -> bytes | None:
        """A file that is there from an earlier delivery; None where there is none."""

    def link(self, name: str, place: Location | None = None) -> str:
        """What a page of the contact sheet links to for a file of the delivery, as a URL.

        `place` is where the run has it, if it is an image of the run.
        """


def relative_link(name: str) -> str:
    """From a page of the contact sheet to a file of the same delivery."""
    return quote(posixpath.relpath(name, SHEET))


def check_target(where: Location, store: StoreLayout) -> None:
    """Raise ConfigError for a place in which this program keeps runs, or what starts them."""
    if store.is_kept_for_runs(where):
        raise ConfigError(
            f"{where} is where the store keeps its runs or what starts them: give a prefix beside them, "
            f"for example {store.store.join('delivered/')}"
        )


class Prefix:
    """A folder or a prefix of a bucket. Goes on where an earlier delivery of the same run stopped."""

    resumes = True
    end = None

    def __init__(self, storage: Storage, prefix: Location, *, replace: bool) -> None:
        self._storage, self._prefix, self._replace = storage, prefix.as_prefix(), replace
        self._there: dict[str, int] = {}

    def __enter__(self) -> Self:
        start = len(self._prefix.key)
        self._there = {info.location.key[start:]: info.size for info in self._storage.list(self._prefix)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """See Target."""
        with tempfile.TemporaryDirectory(prefix="inpaint-ops-deliver-") as folder:
            yield from in_order(lambda image: or_why(self._put_image, image, Path(folder)), images)

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """See Target."""
        self._storage.put(self._prefix.join(name), data, content_type=content_type)

    def read(self, name: str) -> bytes | None:
        """See Target."""
        return self._storage.get(self._prefix.join(name), max_bytes=_NOTE_BYTES) if name in self._there else None

    def link(self, name: str, place: Location | None = None) -> str:
        """See Target."""
        return relative_link(name)

    def _put_image(self, image: Image, folder: Path) -> Outcome:
        where = self._prefix.join(image.name)
        if image.name in self._there and not self._replace:
            if self._there[image.name] != image.size or self._digest(
                where, folder / f"there-{image.row.record.row}{image.beside}"
            ) != (image.sha256):
                raise _taken(image, where)
            return "there"
        info = self._storage.stat(image.place)
        check_size(image, info.size)
        if self._storage.copy(info, where) is not None:
            return "copied"
        path = fetched(self._storage, image, folder)
        media_type = next((kind for name, kind in MEDIA_TYPES.items() if name == image.format), DEFAULT_CONTENT_TYPE)
        try:
            self._storage.put(where, path, if_absent=not self._replace, content_type=media_type)
        except ObjectExistsError:
            raise _taken(image, where) from None
        finally:
            path.unlink()
        return "written"

    def _digest(self, where: Location, path: Path) -> str:
        self._storage.download(where, path)
        try:
            return sha256_of(path)
        finally:
            path.unlink()


def _taken(image: Image, where: Location) -> ConfigError:
    return ConfigError(
        f"row {image.row.record.row}: {where} is there already, with other bytes: "
        "choose another place, or add --replace"
    )
