"""What the two sides of a preview say to each other: frames of a length, a line of JSON and bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal, cast, get_args

from inpaint_ops.config import MaskChannel
from inpaint_ops.records import MaskMeaning

MAX_REPLY = 32 * 2**20
"""Bytes of a picture, at most: a PNG of 1600 x 1600 pixels is smaller, whatever it shows, and so is the JPEG of most
photos of 8192 x 8192."""

_HEAD = struct.Struct(">I")
_LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may take.

    Attributes:
        memory_bytes: that its decoding may map beyond the file itself and the libraries.
        cpu_seconds: of the processor.
        wall_seconds: from the first byte sent to the last received; a slow store counts, too.
    """

    memory_bytes: int = 896 * 2**20
    cpu_seconds: int = 10
    wall_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """One small picture.

    Attributes:
        kind: `picture`: a JPEG of an image file; `mask`: a PNG layer of a mask file; `overlay`: a JPEG of two files, a
            small source and a mask's layer.
        longest: pixels of the longer side, at most.
        max_pixels: the most pixels that a file may have.
        channel, threshold, invert: how a mask was asked to be read.
    """

    kind: Literal["picture", "mask", "overlay"]
    longest: int
    max_pixels: int
    channel: MaskChannel = "auto"
    threshold: int | None = None
    invert: bool = False

    @classmethod
    def of_mask(cls, record: MaskMeaning, longest: int, max_pixels: int) -> Job:
        """The layer of the mask of a row, read as it was for painting."""
        channel = cast("MaskChannel", record.mask_channel if record.mask_channel in get_args(MaskChannel) else "auto")
        return cls("mask", longest, max_pixels, channel, record.mask_threshold, record.mask_invert)


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to the host, followed by the files, `sizes` bytes each."""

    job: Job
    limits: Limits
    sizes: tuple[int, ...]

    def head(self) -> bytes:
        """Its first bytes."""
        body = json.dumps(asdict(self)).encode()
        return _HEAD.pack(len(body)) + body

    @classmethod
    def read(cls, source: IO[bytes]) -> Request | None:
        """The next request of our own side; None at the end."""
        body = _framed(source.read)
        if body is None:
            return None
        given = json.loads(body)
        return cls(Job(**given["job"]), Limits(**given["limits"]), tuple(given["sizes"]))


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back, followed by `size` bytes from the child: `+` and a picture, or `-` and why there is none.

    `exit` is how the child ended (negative: the signal), `cpu` the seconds of the processor that it took, `peak` its
    peak resident memory in bytes.
    """

    exit: int
    cpu: float
    peak: int
    size: int

    def head(self) -> bytes:
        """Its first bytes."""
        body = json.dumps(asdict(self)).encode()
        return _HEAD.pack(len(body)) + body

    @classmethod
    def read(cls, source: IO[bytes]) -> Reply | None:
        """The next reply; None where the host has ended. Raises ValueError for what no host of ours says."""
        body = _framed(source.read)
        if body is None:
            return None
        given: Any = json.loads(body)
        names = {"exit": int, "cpu": float, "peak": int, "size": int}
        if not isinstance(given, dict) or {name: type(value) for name, value in given.items()} != names:
            raise ValueError("not a reply")
        reply = cls(**given)
        if not (0 <= reply.size <= MAX_REPLY and reply.cpu >= 0):
            raise ValueError("not a reply")
        return reply


def _framed(read: Callable[[int], bytes]) -> bytes | None:
    head = read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack(head)
    if length > _LONGEST_HEADER:
        raise ValueError("not a header")
    body = read(length)
    return body if len(body) == length else None
