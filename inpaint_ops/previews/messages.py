"""What the two sides of a preview say to each other: frames of a length, a line of JSON and bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal, cast, get_args

from inpaint_ops.config import MaskChannel
from inpaint_ops.images.row_pair import PairReading
from inpaint_ops.records import MaskMeaning

MAX_REPLY = 32 * 2**20
"""Bytes of an answer, at most: a PNG of 1600 x 1600 pixels is smaller, whatever it shows; so is a block of tiles."""

MAX_PARTS = 16
_PARTS = b"PARTS"
_HEAD = struct.Struct(">I")
_LONGEST_HEADER = 4096
_SENTENCES, _SENTENCE = 16, 400
PAIR_BYTES = 2**16
"""Of what is said of a row's files: JSON takes up to six bytes per character."""


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
            small source and a mask's layer; `difference`: of a source and its result, parts: a line of JSON
            (`browse.pictures.Changes`) and a PNG; `size`: a line of JSON, width and height of an image file, upright;
            `pair`: a line of JSON (`Pair`) on a row's image and mask, which are read as `reading` says.
        longest: pixels of the longer side, at most.
        max_pixels: the most pixels that a file may have.
        channel, threshold, invert: how a mask was asked to be read.
        block: level, column and row of the block of tiles that is wanted in place of the whole: parts, one per tile.
        size: width and height of the picture that a mask's tiles lie over.
        box: what was painted, for a difference.
    """

    kind: Literal["picture", "mask", "overlay", "difference", "size", "pair"]
    longest: int
    max_pixels: int
    channel: MaskChannel = "auto"
    threshold: int | None = None
    invert: bool = False
    block: tuple[int, int, int] | None = None
    size: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None
    reading: PairReading | None = None

    @property
    def has_parts(self) -> bool:
        """Whether its answer is of several parts."""
        return self.block is not None or self.kind in ("difference", "size", "pair")

    @classmethod
    def of_mask(cls, record: MaskMeaning, longest: int, max_pixels: int) -> Job:
        """The layer of the mask of a row, read as it was for painting."""
        channel = cast("MaskChannel", record.mask_channel if record.mask_channel in get_args(MaskChannel) else "auto")
        return cls("mask", longest, max_pixels, channel, record.mask_threshold, record.mask_invert)


@dataclass(frozen=True, slots=True)
class Pair:
    """What a row's image and mask are: width and height upright, the masked share of the picture (0 to 1), and a
    sentence for each thing that was converted or found out on reading them.
    """

    size: tuple[int, int]
    mask_share: float
    conversions: tuple[str, ...]

    def as_json(self) -> bytes:
        """A line of at most `PAIR_BYTES`."""
        sentences = [one[:_SENTENCE] for one in self.conversions[:_SENTENCES]]
        return json.dumps({"size": self.size, "mask_share": self.mask_share, "conversions": sentences}).encode()

    @classmethod
    def of_json(cls, text: bytes) -> Pair:
        """The reverse. Raises ValueError for anything else: a decoder may have been taken over."""
        try:
            given: Any = json.loads(text)
        except RecursionError:
            given = None
        match given:
            case {"size": [int(width), int(height)], "mask_share": float(share), "conversions": list(sentences)} if (
                width > 0 and height > 0 and 0 <= share <= 1 and all(isinstance(one, str) for one in sentences)
            ):
                return cls((width, height), share, tuple(sentences))
        raise ValueError("not what is said of a pair")


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
        job: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given["job"].items()
        }
        reading = job.pop("reading")
        asked = None if reading is None else PairReading(**reading)
        return cls(Job(**job, reading=asked), Limits(**given["limits"]), tuple(given["sizes"]))


@dataclass(frozen=True, slots=True)
class Reply:
    """What comes back, followed by `size` bytes from the child: `+` and a picture, `-` and what is wrong with the file,
    or `!` and which limit was in the way.

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


def join_parts(parts: Sequence[bytes]) -> bytes:
    """One answer of several parts; a part may be empty."""
    return b"".join((_PARTS, bytes([len(parts)]), *(_HEAD.pack(len(part)) for part in parts), *parts))


def split_parts(body: bytes) -> tuple[bytes, ...]:
    """The reverse of `join_parts`. Raises ValueError for anything else."""
    count, at = body[len(_PARTS)] if len(body) > len(_PARTS) else 0, len(_PARTS) + 1
    if not body.startswith(_PARTS) or not 0 < count <= MAX_PARTS or len(body) < at + count * _HEAD.size:
        raise ValueError("not an answer of several parts")
    lengths = [length for (length,) in _HEAD.iter_unpack(body[at : at + count * _HEAD.size])]
    at += count * _HEAD.size
    if len(body) != at + sum(lengths):
        raise ValueError("not an answer of several parts")
    found = []
    for length in lengths:
        found.append(body[at : at + length])
        at += length
    return tuple(found)


def _framed(read: Callable[[int], bytes]) -> bytes | None:
    head = read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack(head)
    if length > _LONGEST_HEADER:
        raise ValueError("not a header")
    body = read(length)
    return body if len(body) == length else None
