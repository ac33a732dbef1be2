"""The process that makes small pictures: `python -m inpaint_ops.previews.host`.

The host reads a request and its files from standard input, forks a child for it, and writes to standard output what
the child answered and how it ended. It looks at no foreign byte itself. The child locks itself in, makes the one
picture, and ends. Both end when whoever started the host does: its standard input then closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Sequence
from typing import IO, Any

import cv2
import numpy.ma  # noqa: F401  # np.quantile loads it at its first call, when the child can open no module
from PIL import Image

from inpaint_ops.errors import ImageError
from inpaint_ops.images.difference import difference
from inpaint_ops.images.formats import load_plugins
from inpaint_ops.images.outcome import mask_area
from inpaint_ops.images.preview import mask_layer, mask_overlay, preview, upright_size
from inpaint_ops.images.tiles import Block, mask_tiles, picture_tiles
from inpaint_ops.machine import limited_process
from inpaint_ops.previews.messages import MAX_REPLY, Job, Pair, Reply, Request, join_parts


def make(job: Job, files: Sequence[bytes]) -> bytes:
    """The picture. Raises ImageError, MemoryError."""
    meaning: Any = {"channel": job.channel, "threshold": job.threshold, "invert": job.invert}
    block = Block(*job.block) if job.block is not None else None
    match job.kind:
        case "overlay":
            return mask_overlay(files[0], files[1])
        case "difference":
            unlike = difference(files[0], files[1], max_pixels=job.max_pixels, box=job.box)
            if block is not None:
                return join_parts(unlike.tiles(block))
            figures = {"changed": unlike.changed, "outside": unlike.outside, "highest": int(unlike.levels.max())}
            return join_parts([json.dumps(figures).encode(), unlike.picture(job.longest)])
        case "mask" if block is not None:
            size = job.size or (0, 0)
            return join_parts(mask_tiles(files[0], block, size, max_pixels=job.max_pixels, **meaning))
        case "mask":
            return mask_layer(files[0], job.longest, max_pixels=job.max_pixels, **meaning)
        case "pair":
            assert job.reading is not None
            source, mask = job.reading.read(files[0], files[1])
            found = Pair(source.size, mask_area(mask.weights)[1], (*source.conversions, *mask.conversions))
            return join_parts([found.as_json()])
        case "size":
            width, height = upright_size(files[0], max_pixels=job.max_pixels)
            return join_parts([json.dumps({"width": width, "height": height}).encode()])
        case _ if block is not None:
            return join_parts(picture_tiles(files[0], block, max_pixels=job.max_pixels))
        case _:
            return preview(files[0], job.longest, max_pixels=job.max_pixels)


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    while (request := Request.read(source)) is not None:
        files = [source.read(size) for size in request.sizes]
        if any(len(file) < size for file, size in zip(files, request.sizes, strict=True)):
            return  # whoever asked has gone
        reply, body = _forked(request, files)
        sink.write(reply.head() + body)
        sink.flush()


def _forked(request: Request, files: Sequence[bytes]) -> tuple[Reply, bytes]:
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _child(request, files, writable)  # never returns
    os.close(writable)
    with open(readable, "rb") as pipe:
        body = pipe.read(MAX_REPLY + 1)
    if len(body) > MAX_REPLY:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 9)
        body = b""
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return Reply(code, float(usage.ru_utime + usage.ru_stime), usage.ru_maxrss * 1024, len(body)), body


def _child(request: Request, files: Sequence[bytes], sink: int) -> None:
    code = 1
    try:
        limited_process.die_with_parent()
        os.close(0)
        os.close(1)
        limits = request.limits
        limited_process.limit(
            address_bytes=limited_process.mapped_bytes() + limits.memory_bytes, cpu_seconds=limits.cpu_seconds
        )
        limited_process.lock_in()
        try:
            body = b"+" + make(request.job, files)
        except MemoryError:
            body = f"!takes more than the {limits.memory_bytes >> 20} MiB that a preview may take".encode()
        except ImageError as error:
            body = b"-" + str(error).encode()
        view = memoryview(body)
        while view:
            view = view[os.write(sink, view) :]
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Get ready, and serve."""
    Image.preinit()  # the child can open no module
    cv2.setNumThreads(1)
    limited_process.yield_to_others()
    load_plugins()  # a child, once it is locked in, opens no file of ours either
    limited_process.withdraw()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
