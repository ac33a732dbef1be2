"""What is stored beside a finished image: thumbnails for the pages, and the files that the row's author wants."""

from __future__ import annotations

import hashlib
import logging

from inpaint_ops.errors import InpaintOpsError, WorkerProtocolError, one_line
from inpaint_ops.images import THUMBNAIL_SIZES
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.planning import PlannedRow
from inpaint_ops.protocol import Done
from inpaint_ops.records import SideProductFile, Thumbnail
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor.received import Expected, receive_side_product, receive_thumbnail

log = logging.getLogger(__name__)


def store_thumbnails(
    storage: Storage, layout: RunLayout, image: Location, event: Done, expected: Expected
) -> tuple[tuple[Thumbnail, ...], str]:
    """Put the small pictures of an image that is stored, and why some are missing: the row is done without them.

    Whoever puts them has made them of the image's own pixels, so it does not matter who does so last.
    """
    stored, problem = [], event.thumbnail_problem
    for size in dict.fromkeys(one for one in event.thumbnail_sizes if one in THUMBNAIL_SIZES):
        try:
            data, place = receive_thumbnail(expected, size), layout.thumbnail(image, size)
            storage.put(place, data, content_type="image/webp")
        except (InpaintOpsError, OSError) as error:
            problem = str(error)
            continue
        digest = hashlib.sha256(data).hexdigest()
        stored.append(Thumbnail(size=size, uri=place.uri, sha256=digest, bytes=len(data)))
    if problem:
        log.warning("%s: thumbnails are missing: %s", image.name, problem)
    return tuple(stored), one_line(problem)[:500]


def store_side_products(
    storage: Storage, layout: RunLayout, row: PlannedRow, image: Location, event: Done, expected: Expected
) -> tuple[tuple[SideProductFile, ...], str]:
    """Put the files that the row's author wants beside an image that is stored, and why some are missing.

    The row is done without those that the worker could not make. Raises StorageError and ScratchFullError: what
    was asked for is stored by another attempt then.
    """
    stored, problems = [], [event.side_product_problem] if event.side_product_problem else []
    for kind in row.parameters.side_products:
        if kind not in event.side_product_kinds:
            if not event.side_product_problem:
                problems.append(f"{kind}: the worker made none")
            continue
        place = layout.side_product(image, kind)
        try:
            with receive_side_product(expected, kind, (event.width, event.height)) as file:
                storage.put(place, file.path, content_type=file.media_type)
        except WorkerProtocolError as error:
            problems.append(f"{kind}: {error}")
            continue
        stored.append(
            SideProductFile(
                kind=kind, uri=place.uri, sha256=file.sha256, bytes=file.bytes, width=file.width, height=file.height
            )
        )
    if problems:
        log.warning("%s: files beside it are missing: %s", image.name, "; ".join(problems))
    return tuple(stored), one_line("; ".join(problems))[:500]
