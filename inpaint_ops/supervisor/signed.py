"""A finished image with its Content Credentials: signed last, so that nothing changes the file afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from inpaint_ops import __version__
from inpaint_ops.config import Provenance
from inpaint_ops.errors import ImageError, SigningError
from inpaint_ops.images.header import read_file_header
from inpaint_ops.machine.scratch import room_for
from inpaint_ops.planning import PlannedRow
from inpaint_ops.records import MaskArea
from inpaint_ops.signing import Claim, Signed, Signing
from inpaint_ops.supervisor.received import Expected, Received, regular

_MANIFEST_BYTES = 2**20
"""Room for a manifest of ours; that of the source, which is in it, has no more bytes than the source."""
_CHUNK = 2**20


@contextlib.contextmanager
def signed(
    image: Received,
    row: PlannedRow,
    name: str,
    area: MaskArea | None,
    expected: Expected,
    signing: Signing,
    how: Provenance,
) -> Iterator[tuple[Received, Signed]]:
    """The image, signed, for as long as the block lasts, and what its manifest is called.

    With `how` other than `full` the manifest names no file. Raises SigningError, SigningUnavailableError,
    ScratchFullError.
    """
    with (
        room_for(expected.folder),
        image.path.open("rb") as unsigned,
        regular(expected.folder, "image") as source,
        tempfile.TemporaryFile(dir=expected.folder.parent) as out,
    ):
        is_named = how == "full"
        claim = Claim(
            tool="inpaint-ops",
            version=__version__,
            title=f"{name}{image.extension}" if is_named else "image",
            media_type=image.media_type,
            source_title=PurePosixPath(row.image).name if is_named else "source",
            source_media_type=_media_type(source),
            box=area.box if area else None,
            share=area.share if area else None,
        )
        room = image.bytes + os.fstat(source.fileno()).st_size + _MANIFEST_BYTES
        made = signing.sign(claim, unsigned, source, out, room=room)
        out.seek(0)
        digest, size = hashlib.sha256(), 0
        while chunk := out.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        out.seek(0)
        header = read_file_header(out)
        if (header.format, header.width, header.height) != (image.format, image.width, image.height):
            raise SigningError("the image could not be signed (C2PA): what was signed is another image")
        yield (
            replace(image, path=Path(f"/proc/self/fd/{out.fileno()}"), bytes=size, sha256=digest.hexdigest()),
            made,
        )


def _media_type(source: BinaryIO) -> str:
    """What the source is, by its header. Of other formats nothing is looked up: they are named by their hash alone."""
    try:
        return f"image/{read_file_header(source).format}"
    except ImageError:
        return "application/octet-stream"
