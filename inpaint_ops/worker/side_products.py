"""The files that a row's author wants beside its image, written beside the output for the supervisor to take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from inpaint_ops import images
from inpaint_ops.config import SideProduct
from inpaint_ops.errors import ScratchFullError
from inpaint_ops.machine.scratch import patiently, room_for
from inpaint_ops.protocol import Item, Job
from inpaint_ops.worker.parts import Finished

FULL_DISK_SECONDS = 60.0
"""How long a painted image waits for room on the scratch disk."""


def write_patiently(path: Path, data: bytes) -> None:
    """Write a file, waiting for room on a full disk: what is painted has cost more than the wait."""

    def once() -> None:
        with room_for(path):
            path.write_bytes(data)

    patiently(once, (ScratchFullError,), FULL_DISK_SECONDS, threading.Event())


def write_side_products(
    item: Item, job: Job, source: images.Source, finished: Finished, making: images.Making
) -> tuple[tuple[SideProduct, ...], str]:
    """Write each file that the row wants: their kinds, and why there are no more. The row is done without them.

    What shows painted pixels is marked as the image is; nothing of the source's metadata is in it.
    """
    written: list[SideProduct] = []
    problems = []
    for kind, make in _makers(item, job, source, finished, making):
        try:
            write_patiently(Path(item.output).with_name(images.side_product_file(kind)), make())
            written.append(kind)
        except Exception as error:
            problems.append(f"{kind}: {type(error).__name__}: {error}")
    return tuple(written), "; ".join(problems)


def _makers(
    item: Item, job: Job, source: images.Source, finished: Finished, making: images.Making
) -> Iterator[tuple[SideProduct, Callable[[], bytes]]]:
    def marks(kind: str) -> images.Metadata:
        return images.marked(images.Metadata(), making, policy=job.provenance, format=kind)[0]

    def patch() -> bytes:
        box, layer = images.patch_layer(finished.weights, finished.pieces, source.pixels)
        return images.patch_file(layer, box, icc=source.icc, metadata=marks("png"), effort=job.png)

    def preview() -> bytes:
        return images.preview_file(source.pixels, finished.pixels, icc=source.icc, metadata=marks("webp"))

    makers: dict[SideProduct, Callable[[], bytes]] = {
        "patch": patch,
        "mask": lambda: images.mask_file(finished.weights, effort=job.png),
        "preview": preview,
    }
    for kind in item.side_products:
        yield kind, makers[kind]
