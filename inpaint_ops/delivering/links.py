"""A delivery of links: a gallery in the store that anybody can see who has its link, until that ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from inpaint_ops.delivering.contents import Image
from inpaint_ops.delivering.deliver import Delivery, put_all, summary_of
from inpaint_ops.delivering.fetching import check_size, in_order
from inpaint_ops.delivering.sheet import Sheet, page_name
from inpaint_ops.delivering.targets import Outcome
from inpaint_ops.errors import ConfigError, StorageError, StorageUnavailableError
from inpaint_ops.layout import gallery_name
from inpaint_ops.locations import Location
from inpaint_ops.records import now
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import MAX_SIGNED, Storage

_LEAST = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Linked:
    """A gallery that was made, and the link to its first page: a secret, for a person alone."""

    delivery: Delivery
    gallery: Location
    link: str
    end: datetime
    """When the link stops working at the latest."""
    shortened: bool
    """Whether the end is that of the credentials, before the time that was asked for."""
    may_end_earlier: bool
    """Whether the credentials are temporary ones, of which nobody says when they end."""


class Links:
    """A Target that copies no image: the sheet links to those of the run, and each link ends at one moment, `end`.

    What describes the delivery is put into `gallery`, a prefix that no earlier one has used.
    """

    resumes = False

    def __init__(self, storage: Storage, gallery: Location, end: datetime) -> None:
        self._storage, self._gallery, self.end = storage, gallery, end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def images(self, images: Iterable[Image]) -> Iterator[tuple[Image, Outcome | StorageError]]:
        """See Target: of each image it is looked up whether it is there, with its size."""
        yield from in_order(self._looked_up, images)

    def put(self, name: str, data: bytes | Path, content_type: str) -> None:
        """See Target."""
        self._storage.put(self._gallery.join(name), data, content_type=content_type)

    def read(self, name: str) -> bytes | None:
        """None: each gallery has a prefix of its own."""
        return None

    def link(self, name: str, place: Location | None = None) -> str:
        """See Target. Raises ConfigError where the time is over before the work is done."""
        while True:
            began = now()
            left = self.end - began - _SECOND  # a link counts whole seconds from the one in which it is signed
            if left < _SECOND:
                raise ConfigError("the links ended before their gallery was made: give more hours")
            link = self._storage.presign(place or self._gallery.join(name), left, longest=MAX_SIGNED)
            if now() - began < _SECOND:  # else it was signed later, and would end later
                return link

    def _looked_up(self, image: Image) -> Outcome | StorageError:
        try:
            check_size(image, self._storage.stat(image.place).size)
        except StorageUnavailableError:
            raise
        except StorageError as error:
            return error
        return "copied"


def deliver_link(
    workspace: Workspace,
    run: str,
    hours: float,
    *,
    only: Literal["done", "accepted"] = "done",
    sheet: Sheet = "full",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Linked:
    """Write a gallery of a finished run into the store, and make a link to it that ends after so many hours.

    No image is copied. Raises ConfigError where INPAINT_LINK_HOURS does not allow it, where the store is a folder,
    where the credentials end within a minute, or there is no such run or no report of it; StorageError.
    """
    allowed = workspace.settings.link_hours
    if not allowed:
        raise ConfigError("links are off: INPAINT_LINK_HOURS says how many hours one may live, and allows them")
    if not 0 < hours <= allowed:
        raise ConfigError(f"a link lives more than 0 and at most {allowed:g} hours (INPAINT_LINK_HOURS), not {hours:g}")
    if workspace.store.bucket is None:
        raise ConfigError("a folder has no links: deliver to a folder that your web server serves, with --to")
    summary = summary_of(workspace, run)
    asked = now() + timedelta(hours=hours)
    credentials_end = workspace.storage.credentials_end(workspace.store)
    end = min(asked, credentials_end or asked)
    if end - now() < _LEAST:
        raise ConfigError(f"the store's credentials end at {end:%H:%M:%S} UTC, and links with them: renew them first")
    gallery = workspace.places.gallery(run, gallery_name(end))
    with Links(workspace.storage, gallery, end) as target:
        delivery = put_all(workspace, summary, target, only=only, contact_sheet=sheet, progress=progress)
        link = target.link(page_name(1))
    return Linked(
        delivery, gallery, link, end,
        shortened=end < asked, may_end_earlier=credentials_end is None and "X-Amz-Security-Token" in link,
    )  # fmt: skip
