"""Pictures of a row for a browser: small, bounded in number and in memory, whatever the files behind them are."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Literal

from PIL import Image

from inpaint_ops.errors import ObjectNotFoundError
from inpaint_ops.images import thumbnail
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace

Kind = Literal["source", "mask", "result"]

SIZES = (256, 1600)
"""Pixels of the longer side: a thumbnail, and a view of its own."""

CACHE_BYTES = 64 * 2**20
_AT_ONCE = 2
_MAGENTA = (230, 0, 126)
_OPACITY = 0.6


def uri_of(record: Record, kind: Kind) -> str:
    """Where the file behind a picture lies. Raises ObjectNotFoundError where the row has none."""
    uri = {"source": record.source, "mask": record.mask, "result": record.output.uri if record.output else None}[kind]
    if uri is None:
        raise ObjectNotFoundError(f"row {record.row} has no {kind}")
    return uri


class Pictures:
    """Makes pictures and keeps the last of them, `CACHE_BYTES` at most. Safe to share between threads.

    No more than two files are decoded at a time: the largest that is allowed takes a gigabyte.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(_AT_ONCE)

    def picture(self, record: Record, kind: Kind, size: int) -> bytes:
        """A JPEG of the source or the result; of the mask a PNG, magenta where the model painted, else transparent.

        Raises ObjectNotFoundError, StorageError, ImageError.
        """
        uri = uri_of(record, kind)
        key = (uri, f"{kind}-{record.mask_invert}", size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._decoding:
            settings = self._workspace.settings
            data = self._workspace.storage.get(uri, max_bytes=settings.max_image_bytes)
            made = thumbnail(data, size, max_pixels=settings.max_pixels)
            if kind == "mask":
                made = mask_layer(made, invert=record.mask_invert)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > CACHE_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made


def mask_layer(mask: bytes, *, invert: bool = False) -> bytes:
    """A mask as a PNG to lay over its image: magenta where white is (black, if `invert`), transparent elsewhere."""
    with Image.open(io.BytesIO(mask)) as opened:
        levels = opened.convert("L")
    alpha = levels.point([round((255 - level if invert else level) * _OPACITY) for level in range(256)])
    layer = Image.new("RGBA", levels.size, (*_MAGENTA, 0))
    layer.putalpha(alpha)
    sink = io.BytesIO()
    layer.save(sink, "PNG", optimize=True)
    return sink.getvalue()
