"""What is fuzzed, and what each reader promises: an AssertionError is a promise broken, any other exception a crash."""

from __future__ import annotations

import csv
import faulthandler
import io
import json
import os
import queue
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet  # noqa: F401 - so that no forked reader has to
from PIL import Image
from pydantic import ValidationError

from inpaint_ops.errors import ImageError, InpaintOpsError, ManifestError, MaskError
from inpaint_ops.images import (
    LOSSLESS,
    MaskChannel,
    Source,
    composite,
    decode_mask,
    decode_source,
    encode,
    place,
    to_working,
    working_sizes,
)
from inpaint_ops.images.metadata import NOTHING, Metadata, Policy
from inpaint_ops.images.png import SIGNATURE
from inpaint_ops.images.reading import read_pixels, to_rgb
from inpaint_ops.images.tiles import TILE
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import (
    AcceptedRow,
    ManifestLimits,
    ParsedManifest,
    is_valid_id,
    parquet,
    read_manifest,
    to_jsonl,
)
from inpaint_ops.manifest.prompts_file import read_prompts
from inpaint_ops.manifest.text import delimiter_of
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped
from inpaint_ops.previews import Job, split_parts
from inpaint_ops.previews.host import make as make_preview
from inpaint_ops.previews.messages import MAX_REPLY
from inpaint_ops.protocol import End, dump, parse_command, parse_event
from inpaint_ops.records import ErrorInfo, Record
from inpaint_ops.runs import preparing
from inpaint_ops.worker import serving
from inpaint_ops.worker.work_loop import Garbage
from tests.fuzz import claims, stored
from tests.fuzz.promises import check_line

CORPUS = Path(__file__).parent / "corpus"
LIMITS = ManifestLimits(max_rows=500, max_bytes=1 << 20, max_prompt_chars=200, max_row_bytes=2048)
MAX_PIXELS = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """One reader under fire: what to call with the bytes, and how many of them at most."""

    run: Callable[[bytes], None]
    longest: int = 4096


def check_location(uri: str) -> None:
    """A row reads from the one bucket that it may read, and no key climbs."""
    assert uri.startswith("s3://bucket/") and ".." not in uri.split("/"), uri


def read(data: bytes, name: str, limits: ManifestLimits = LIMITS) -> ParsedManifest:
    """A manifest in the inbox of a store, which alone may be read."""
    return read_manifest(
        data,
        location=parse(f"s3://bucket/inbox/{name}"),
        is_allowed=lambda place: place.bucket == "bucket",
        limits=limits,
    )


def _manifest(data: bytes, name: str, rows: Callable[[bytes], list[int]]) -> None:
    try:
        parsed = read(data, name)
    except ManifestError as error:
        check_line(str(error))
        return
    numbers = sorted(row.row for row in (*parsed.accepted, *parsed.rejected))
    assert numbers == rows(data), "every row of the file is accepted or rejected, once"
    ids = [row.id for row in (*parsed.accepted, *parsed.rejected)]
    assert len({name.casefold() for name in ids}) == len(ids), "ids are unique"
    for rejected in parsed.rejected:
        check_line(rejected.error.message)
        check_line(rejected.error.field or "the row")
        assert rejected.error.message.startswith(f"row {rejected.row}: ")
        line = json.dumps(rejected.as_manifest_row(), allow_nan=False)
        assert len(line) < 1 << 17 and json.loads(line)["_error"] == rejected.error.message
        again = read_manifest(line.encode(), location=parse("s3://bucket/r/rejected.jsonl"), is_allowed=lambda _: True)
        for row in again.rejected:
            assert not any(f"unknown field '{name}'" in row.error.message for name in ("_error", "_text")), (
                "both ignored"
            )
    for record in preparing._rejected_records(parsed, "fuzz"):
        assert Record.model_validate_json(record.model_dump_json()) == record
    for row in parsed.accepted:
        assert is_valid_id(row.id), row.id
        check_location(row.image)
        check_location(row.mask)
    _check_round_trip(parsed)


def _check_round_trip(parsed: ParsedManifest) -> None:
    """What a shard file and `failed.jsonl` say is the work that the manifest said."""
    if not parsed.accepted:
        return
    lines = [row.as_manifest_row() | {"row": row.row} for row in parsed.accepted]
    shard = [AcceptedRow.model_validate_json(line) for line in io.BytesIO(to_jsonl(lines))]
    assert shard == list(parsed.accepted), "a shard's file holds the rows"
    generous = ManifestLimits()
    again = read(to_jsonl([row.as_manifest_row() for row in parsed.accepted]), "failed.jsonl", generous)
    assert not again.rejected, again.rejected[0].error.message
    at_one = {"row": 1}
    assert [row.model_copy(update=at_one) for row in again.accepted] == [
        row.model_copy(update=at_one) for row in parsed.accepted
    ], "accepted rows survive a round trip"


def _as_text(data: bytes) -> bytes:
    """UTF-8 without its mark, of what may be packed with gzip or be UTF-16."""
    text, _ = as_utf8(gunzipped(data, "m", LIMITS.max_bytes), "m", LIMITS.max_bytes)
    return text.removeprefix(b"\xef\xbb\xbf")


def jsonl(data: bytes) -> None:
    """A manifest in JSONL."""
    _manifest(
        data,
        "m.jsonl",
        lambda data: [n for n, line in enumerate(_as_text(data).split(b"\n"), 1) if line.strip()],
    )


def csv_manifest(data: bytes) -> None:
    """A manifest in CSV."""

    def numbers(data: bytes) -> list[int]:
        text = _as_text(data)
        delimiter, start = delimiter_of(text, "image", LIMITS.max_row_bytes)
        shown = io.StringIO(text[start:].decode(), newline="")
        reader = csv.reader(shown, delimiter=delimiter, skipinitialspace=True, strict=True)
        found, before = [], len(text[:start].splitlines())
        line = before + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append(line)
            line = before + reader.line_num + 1
        return found[1:]

    _manifest(data, "m.csv", numbers)


def parquet_manifest(data: bytes) -> None:
    """A manifest in Parquet. Its reader is forked instead of started, which is a hundred times as fast."""
    lines = list(_forked_lines(data, max_bytes=LIMITS.max_bytes, max_row_bytes=LIMITS.max_row_bytes))
    system, parquet.read_lines = parquet.read_lines, lambda *_, **__: (line for line in lines)
    try:
        rows = sum(bool({"row", "bad"} & line.keys()) for line in lines)  # counted first: reading empties them
        _manifest(data, "m.parquet", lambda _: list(range(1, rows + 1)))
    finally:
        parquet.read_lines = system


def _forked_lines(data: bytes, **limits: int) -> Iterator[dict[str, Any]]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            faulthandler.disable()
            for deadly in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
                signal.signal(deadly, signal.SIG_DFL)  # its death is no finding: libFuzzer would take it for one
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            parquet.limit(limits["max_bytes"])
            with os.fdopen(writing, "w", encoding="utf-8") as out:
                parquet.write_lines(data, out, **limits)
            os._exit(0)
        finally:
            os._exit(_RAISED)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        lines = [json.loads(text) for text in said if text.endswith(b"\n")]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    yield from lines
    if not lines or not {"end", "error"} & lines[-1].keys():
        assert code not in (0, _RAISED), "only the death of the process keeps a reader from its last word"
        yield {"error": f"its reader {parquet.how_it_ended(code)}"}


_RAISED = 86


def prompts(data: bytes) -> None:
    """A table of prompts for `inpaint-ops manifest`."""
    try:
        found = read_prompts(data, key_column="key", prompt_column="prompt")
    except ManifestError as error:
        check_line(str(error))
        return
    for name, prompt in found.items():
        assert prompt and name and name == name.strip("/")


def keys(data: bytes) -> None:
    """A key of a row, or a location that a person typed."""
    text = data.decode("utf-8", "surrogateescape")
    prefix = Location("bucket", "inbox/")
    for read_location in (prefix.join, parse):
        try:
            found = read_location(text)
        except InpaintOpsError as error:
            check_line(str(error))
            continue
        assert read_location is parse or (prefix.contains(found) and ".." not in found.key.split("/"))
        assert parse(found.uri) == found, "a location is what its URI says"


def _variants(data: bytes) -> Iterator[bytes]:
    """The file, and where it is a PNG the same with every checksum put right: else nothing mutated is ever decoded."""
    yield data
    if not data.startswith(SIGNATURE):
        return
    mended, at = bytearray(data), len(SIGNATURE)
    while at + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, at)
        end = at + 8 + length
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[at + 4 : end]))
        at = end + 4
    if mended != data:
        yield bytes(mended)


def _size_in_header(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def source(data: bytes) -> None:
    """A source image."""
    for raw in _variants(data):
        try:
            decoded = decode_source(raw, max_pixels=MAX_PIXELS)
        except ImageError as error:
            check_line(str(error))
            continue
        width, height = decoded.size
        assert decoded.size in ((size := _size_in_header(raw)), size[::-1]), "the size is the header's"
        assert 0 < width * height <= MAX_PIXELS
        assert decoded.pixels.dtype in (np.uint8, np.uint16)
        assert decoded.pixels.shape[2:] in ((), (2,), (3,), (4,))
        assert decoded.rgb.shape == (height, width, 3) and decoded.rgb.dtype == np.uint8
        for said in decoded.conversions:
            check_line(said)
        _check_kept(decoded.pixels, decoded.icc, decoded.metadata)
        for policy in get_args(Policy):
            held = decode_source(raw, max_pixels=MAX_PIXELS, metadata=policy)
            for written in ("webp", "tiff", "jpeg", "avif"):
                encode(held.pixels, format=written, icc=held.icc, metadata=held.metadata)


def _check_kept(pixels: np.ndarray[Any, Any], icc: bytes | None, metadata: Metadata = NOTHING) -> None:
    back = decode_source(encode(pixels, format="png", icc=icc, metadata=metadata), max_pixels=MAX_PIXELS)
    assert back.pixels.dtype == pixels.dtype and np.array_equal(back.pixels, pixels), "a PNG holds every pixel"


CHANNELS = get_args(MaskChannel)


def mask(data: bytes) -> None:
    """A mask: four bytes that say how it is shaped, then the file."""
    if len(data) < 4:
        return
    invert, dilate, blur = bool(data[0] & 1), data[1] % 64, data[2] / 8
    read: dict[str, Any] = {
        "channel": CHANNELS[(data[0] >> 1) % len(CHANNELS)], "threshold": data[3] if data[0] & 0x80 else None
    }  # fmt: skip
    for raw in _variants(data[4:]):
        try:
            pixels = read_pixels(raw, what="mask", max_pixels=MAX_PIXELS).array
            size = (pixels.shape[1], pixels.shape[0])
            drawn = decode_mask(raw, size=size, max_pixels=MAX_PIXELS, invert=invert, **read)
            grown = decode_mask(raw, size=size, max_pixels=MAX_PIXELS, invert=invert, **read, dilate=dilate)
            soft = decode_mask(raw, size=size, max_pixels=MAX_PIXELS, invert=invert, **read, dilate=dilate, blur=blur)
        except ImageError as error:
            check_line(str(error))
            continue
        for weights in (drawn, grown, soft):
            assert weights.shape == size[::-1] and weights.dtype == np.uint8 and weights.any()
        assert (grown >= drawn).all(), "dilation only grows"
        assert np.array_equal(soft > 0, grown > 0) and (soft <= grown).all(), "blur never reaches outside"
        try:
            decode_mask(raw, size=(size[0] + 1, size[1]), max_pixels=MAX_PIXELS)
        except MaskError as error:
            check_line(str(error))
        else:
            raise AssertionError("a mask of another size is refused")


def pictures(data: bytes) -> None:
    """A file that a page or a report shows: a byte of what is asked for, then the file."""
    if not data:
        return
    kind, longest = ("picture", "mask")[data[0] & 1], (16, 256)[data[0] >> 1 & 1]
    job = Job(kind, longest, MAX_PIXELS, invert=bool(data[0] & 4))  # type: ignore[arg-type]
    for raw in _variants(data[1:]):
        try:
            size: tuple[int, int] | None = decode_source(raw, max_pixels=MAX_PIXELS).size
        except ImageError:
            size = None  # a preview may still show what is there
        try:
            small = make_preview(job, [raw])
        except ImageError as error:
            check_line(str(error))
            is_unclear = kind == "mask" and isinstance(error, MaskError)
            assert size is None or is_unclear, f"what can be painted can be shown: {error}"
            continue
        with Image.open(io.BytesIO(small)) as shown:
            shown.load()
            assert (shown.format, shown.mode) in ((("PNG", "RGBA"),) if kind == "mask" else (("JPEG", "RGB"),))
            if size is not None:
                scale = min(1.0, longest / max(size))
                assert shown.size == tuple(max(1, round(side * scale)) for side in size), "in proportion, upright"
            assert max(shown.size) <= longest
        if kind == "picture":
            overlay = make_preview(Job("overlay", longest, MAX_PIXELS), [small, small])
            assert overlay.startswith(b"\xff\xd8\xff") and len(overlay) < MAX_REPLY
            _zoomed(raw, size)


def _zoomed(raw: bytes, size: tuple[int, int] | None) -> None:
    """Its tiles, and its difference from itself."""
    for job, files in (
        (Job("size", 0, MAX_PIXELS), [raw]),
        (Job("picture", 0, MAX_PIXELS, block=(0, 0, 0)), [raw]),
        (Job("difference", 16, MAX_PIXELS), [raw, raw]),
    ):
        try:
            parts = split_parts(make_preview(job, files))
        except ImageError as error:
            check_line(str(error))
            assert size is None, f"what can be painted can be zoomed: {error}"
            continue
        match job.kind:
            case "size" if size is not None:
                assert json.loads(parts[0]) == {"width": size[0], "height": size[1]}
            case "picture" if size is not None:
                with Image.open(io.BytesIO(parts[0])) as tile:
                    assert tile.size == (min(TILE, size[0]), min(TILE, size[1])), "upright"
            case "difference":
                assert json.loads(parts[0])["changed"] == 0


def placing(data: bytes) -> None:
    """A mask of any shape, placed, painted and put back: sides, kind and crop come first, then boxes of the mask."""
    if len(data) < 12:
        return
    width, height, kind, crop, native, seed = struct.unpack("<HHBHBI", data[:12])
    width, height = 1 + width % 3000, 1 + height
    height = 1 + height % max(1, min(3000, MAX_PIXELS // width))
    channels, dtype = 1 + kind % 4, (np.uint8, np.uint16)[kind >> 2 & 1]
    weights = np.zeros((height, width), np.uint8)
    for at in range(12, min(len(data) - 8, 12 + 9 * 16), 9):
        x, y, w, h, value = struct.unpack("<HHHHB", data[at : at + 9])
        x, y = x % width, y % height
        weights[y : y + 1 + h % height, x : x + 1 + w % width] = value
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)
    pixels = pixels[..., 0].copy() if channels == 1 else pixels
    picture = Source(pixels, to_rgb(pixels), None, "png", ())
    chosen: Any = ("none", "auto")[crop] if crop < 2 else crop - 2
    size = (32, 64, 128, 256)[native % 4]
    try:
        placement = place(picture.size, weights, native=size, crop=chosen)
    except MaskError as error:
        assert not weights.any()
        check_line(str(error))
        return
    rgb, working = to_working(picture, weights, placement)
    assert placement.working in working_sizes(size)
    assert rgb.shape == (*placement.working[::-1], 3) and working.shape == placement.working[::-1]
    assert working.any() and set(np.unique(working)) <= {0, 255}
    painted = noise.integers(0, 255, rgb.shape, dtype=np.uint8, endpoint=True)
    out = composite(picture, weights, placement, painted)
    assert out.dtype == pixels.dtype and out.shape == pixels.shape
    assert np.array_equal(out[weights == 0], pixels[weights == 0]), "unmasked pixels are the source's own"
    if channels in (2, 4):
        assert (out[..., -1] >= pixels[..., -1]).all(), "alpha never falls"
        unit = np.iinfo(dtype).max // 255
        assert (out[..., -1] >= weights.astype(np.uint32) * unit).all(), "what is painted is as opaque as the mask"
        kept = composite(picture, weights, placement, painted, alpha="keep")
        assert np.array_equal(kept[..., -1], pixels[..., -1]), "or alpha is the source's own"
    assert "png" in LOSSLESS
    _check_kept(out, None)


class _Exit(BaseException):
    """Stands for the end of the process."""


def commands(data: bytes) -> None:
    """What comes to a worker's standard input."""

    def end(code: int) -> None:
        raise _Exit(code)

    said = []
    for line in io.BytesIO(data):
        try:
            command = parse_command(line)
        except ValidationError:
            break
        assert dump(parse_command(dump(command))) == dump(command), "a command is what its line says"
        assert dump(command).count("\n") == 1
        said.append(command)
        if isinstance(command, End):
            break
    else:
        said.append(_Exit)  # type: ignore[arg-type]
    inbox: Any = queue.SimpleQueue()
    system, serving.os._exit = serving.os._exit, end  # type: ignore[assignment]
    try:
        serving._read(io.BytesIO(data), inbox)
    except _Exit:
        inbox.put(_Exit)
    finally:
        serving.os._exit = system
    read = [inbox.get_nowait() for _ in range(inbox.qsize())]
    if read and isinstance(read[-1], Garbage):
        check_line(ErrorInfo.of(read.pop().error, "worker").message)
    assert read == said, "every command is taken, in order, up to End, garbage or the end of the pipe"


def events(data: bytes) -> None:
    """What comes out of a worker."""
    for line in io.BytesIO(data):
        try:
            event = parse_event(line)
        except ValidationError:
            continue
        assert dump(parse_event(dump(event))) == dump(event), "an event is what its line says"
        assert dump(event).count("\n") == 1


TARGETS: dict[str, Target] = {
    "jsonl": Target(jsonl),
    "csv": Target(csv_manifest),
    "parquet": Target(parquet_manifest, 16_384),
    "prompts": Target(prompts, 1024),
    "keys": Target(keys, 256),
    "source": Target(source, 8192),
    "mask": Target(mask, 8192),
    "pictures": Target(pictures, 8192),
    "placing": Target(placing, 256),
    "commands": Target(commands),
    "events": Target(events),
    "claim": Target(claims.claim, 1024),
    "plan": Target(stored.plan),
    "record": Target(stored.record),
    "progress": Target(stored.progress, 1024),
    "notes": Target(stored.notes, 8192),
    "timings": Target(stored.timings, 16_384),
}
