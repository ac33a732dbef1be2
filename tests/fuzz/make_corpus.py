"""`python -m tests.fuzz.make_corpus`: write the inputs that fuzzing starts from, each of our own making and small."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from inpaint_ops.protocol import Begun, Bye, Done, End, Failed, Fatal, Flush, Item, Job, Phase, Ready, Step, Warn, dump
from inpaint_ops.records import (
    Batch,
    ColdStart,
    DeviceInfo,
    ErrorInfo,
    LedgerEntry,
    Memory,
    ModelIdentity,
    Timings,
    WorkerInfo,
)
from tests.attacks.costly_files import jpeg_of_scans, jpeg_of_segments, rle_bmp, tiff_of_tiny_tiles
from tests.fuzz import claims, make_stored_corpus
from tests.fuzz.targets import CORPUS
from tests.support.pictures import exif, file_of, mask_array, noise, png, png_bomb, smooth, stored, tiff

ROW = {"image": "photos/a.png", "mask": "masks/a.png", "prompt": "a cup"}
FULL = {
    **ROW,
    "id": "cup 1",
    "negative_prompt": "blur",
    "seed": 7,
    "quality": "best",
    "guidance_scale": 7.5,
    "strength": 0.5,
    "mask_invert": True,
    "mask_dilate": 4,
    "mask_blur": 1.5,
    "crop": 32,
    "format": "webp",
    "extra": {"sku": [1, 2.5, None, {"a": "b"}]},
}


def jsonl() -> dict[str, bytes]:
    """Rows good and bad, blank lines, ends of lines."""
    rows: dict[str, list[Any]] = {
        "one": [ROW],
        "full": [FULL],
        "steps": [{**ROW, "steps": 3, "crop": "auto"}],
        "same-stem": [ROW, ROW, {**ROW, "id": "a"}, {**ROW, "id": "A"}],
        "uri": [{**ROW, "image": "s3://bucket/x/y.png", "mask": "file:///tmp/m.png"}],
        "climbs": [{**ROW, "image": "../a.png"}, {**ROW, "mask": "s3://else/a.png"}, {**ROW, "mask": "m/"}],
        "typo": [{**ROW, "promt": "x"}, {"image": "a"}, {}, [], 1, None, "x"],
        "ids": [{**ROW, "id": text} for text in ("CON", "..", "a.", "ümlaut", "<b>", "a/b", "", "x" * 121)],
        "prompts": [{**ROW, "prompt": text} for text in ("", "<script>", "a\x07", "\u2028", "\u202e", "x" * 201)],
        "numbers": [{**ROW, "steps": value} for value in (0, -1, 1.5, True, "1", 10**30)],
        "long-line": [{**ROW, "extra": {"a": "x" * 4000}}],
    }
    files = {name: b"".join(json.dumps(row).encode() + b"\n" for row in given) for name, given in rows.items()}
    return files | {
        "utf8": json.dumps({**ROW, "prompt": "eine Täße 杯"}, ensure_ascii=False).encode(),
        "surrogate": b'{"image": "a", "mask": "b", "prompt": "\\ud83d\\ude00", "extra": {"\\ud800": 1}}',
        "nan": b'{"image": "a", "mask": "b", "prompt": "", "strength": NaN}\n{"extra": {"x": 1e999}}',
        "twice": b'{"image": "a", "image": "b"}',
        "crlf": b"\xef\xbb\xbf\r\n\n" + json.dumps(ROW).encode() + b"\r\n\n",
        "broken": b'{"image": \n"a\xff"}\n{\n',
        "deep": b'{"image": "a", "mask": "b", "prompt": "", "extra": {"x": ' + b"[" * 60 + b"]" * 60 + b"}}",
        "gzip": gzip.compress(json.dumps(ROW).encode(), mtime=0),
        "utf16": json.dumps({**ROW, "image": ".\\a.png"}).encode("utf-16-le") + b"\n\0",
    }


def csv() -> dict[str, bytes]:
    """Tables: quoting, blank lines, columns too few and too many."""
    return {
        "one": b"image,mask,prompt\na.png,m.png,a cup\n",
        "full": (
            b"\xef\xbb\xbfimage,mask,prompt,id,seed,quality,guidance_scale,strength,mask_invert,mask_blur,crop,format,extra\r\n"
            b'a.png,m.png,"a cup, blue",x,7,best,7.5,0.5,true,1.5,32,webp,"{""sku"": 5}"\r\n'
        ),
        "lines": b'image,mask,prompt\n\n\na,b,"two\nlines"\n\nc,d,e\n',
        "cells": b"image,mask,prompt,steps\na,b\na,b,c,1,2\na,b,c,many\n,,,\n",
        "header": b"picture,mask\na,b\n",
        "twice": b"image,mask,mask\na,b,c\n",
        "quote": b'image,mask,prompt\na,"b,c\n',
        "latin": b"image,mask,prompt\n\xe4,b,c\n",
        "return": b"image,mask,prompt\ra,b,c\rd,e,f\r",
        "numbers": b"image,mask,prompt,strength,crop\na,b,c,nan,auto\na,b,c,1e999,-1\na,b,c,0x1,\xc2\xb2\n",
        "extra": b'image,mask,prompt,extra\na,b,c,{}\na,b,c,"[1]"\na,b,c,"{""x"": NaN}"\na,b,c,' + b"[" * 2000 + b"\n",
        "nul": b"image,mask,prompt\na\0,b,c\n",
        "index": b',image, mask, "prompt"\n0,a.png, b.png, "a, cup"\n',
        "separator": b'sep=;\nimage;mask;prompt\na.png;b.png;"a; cup"\n',
        "utf16": b"\xff\xfe" + "image,mask,prompt\na.png,b.png,x\n".encode("utf-16-le"),
    }


def parquet() -> dict[str, bytes]:
    """Tables of every type that a column may have by mistake."""
    rows: dict[str, list[dict[str, Any]]] = {
        "one": [ROW],
        "nulls": [{**ROW, "seed": 3, "steps": None}, {**ROW, "seed": None, "steps": 5}],
        "full": [FULL | {"crop": "auto", "extra": {"sku": 5, "list": [1, 2]}}],
        "bytes": [{**ROW, "extra": {"x": b"\xff"}}, {**ROW, "extra": {"x": b"a"}}],
        "nan": [{**ROW, "strength": float("nan"), "extra": {"x": float("inf")}}],
        "times": [{**ROW, "extra": {"t": datetime(2026, 1, 2, tzinfo=UTC)}}],
        "unknown": [{**ROW, "zzz": 1}],
        "none": [],
    }
    tables = {name: pa.Table.from_pylist(given) for name, given in rows.items()}
    letters = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff!")]
    )
    names = ["image", "mask", "prompt"]
    tables["not-utf8"] = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), letters], names)
    tables["twice"] = pa.Table.from_arrays([pa.array(["a"])] * 4, [*names, "image"])
    tables["late"] = pa.Table.from_arrays([pa.array(["a"])] * 3, names).append_column(
        "when", pa.array([2**62], pa.timestamp("us"))
    )
    tables["map"] = pa.Table.from_arrays([pa.array(["a"])] * 3, names).append_column(
        "extra", pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32()))
    )
    return {name: _parquet_file(table) for name, table in tables.items()} | {
        "plain": _parquet_file(tables["nulls"], compression="none", use_dictionary=False)
    }


def _parquet_file(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), buffer, store_schema=False, write_statistics=False, **options)
    return buffer.getvalue()


def prompts() -> dict[str, bytes]:
    """Tables of prompts."""
    return {
        "one": b"key,prompt\nphotos/b.jpg,a blue cup\n",
        "extra": b"\xef\xbb\xbfid,key,prompt\n1,a,x\n2,b\n3,c,d,e,f\n,,\n",
        "quote": b'key,prompt\na,"two\nlines"\n"',
        "other": b"name,text\na,b\n",
        "twice": b"key,prompt\na,x\na,y\n",
    }


def keys() -> dict[str, bytes]:
    """Keys and locations, plain and not."""
    texts = (
        "a.png",
        "photos/a b.png",
        "../a",
        "a/../b",
        "/etc/passwd",
        "s3://bucket/a",
        "s3://b/../c",
        "s3://",
        "file:///tmp/a%20b",
        "file://[/a",
        "file://host/a",
        "http://x",
        "~nobody/a",
        "a\\b",
        "a\x00",
        "ä\u2028",
        "a//b",
        "./a",
        "a/",
        "",
    )
    return {f"{number:02}": text.encode() for number, text in enumerate(texts)}


def source() -> dict[str, bytes]:
    """A picture of every kind that is read, refused or lied about."""
    rgb, gray = noise(8, 9), noise(8, 9, 1)
    files = {
        f"png-{bits}-{channels}": png(noise(6, 5, channels, dtype=np.uint16 if bits == 16 else np.uint8), bits=bits)
        for bits in (8, 16)
        for channels in (1, 2, 3, 4)
    }
    files |= {f"png-gray{bits}": png(gray % 2**bits, bits=bits) for bits in (1, 2, 4)}
    files |= {f"{kind.lower()}-rgb": file_of(rgb, kind) for kind in ("JPEG", "WEBP", "TIFF", "BMP")}
    files |= {f"{kind.lower()}-gray": file_of(gray, kind) for kind in ("JPEG", "TIFF", "BMP")}
    frames = [Image.fromarray(smooth(8, 9)), Image.fromarray(rgb)]
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    many = {"save_all": True, "append_images": frames[1:]}
    return files | {
        "png-interlaced": png(rgb, interlaced=True),
        "png-half": png(rgb, keep=0.5),
        "png-bomb": png_bomb(60_000, 60_000),
        "png-palette": file_of(palette, transparency=1),
        "png-trns": file_of(rgb, transparency=(1, 2, 3)),
        "png-exif": file_of(stored(rgb, 6), exif=exif(6)),
        "png-animated": file_of(frames[0], **many),
        "jpeg-exif": file_of(stored(smooth(8, 9), 5), "JPEG", exif=exif(5)),
        "jpeg-progressive": file_of(rgb, "JPEG", progressive=True),
        "jpeg-cmyk": file_of(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        "webp-lossless": file_of(noise(8, 9, 4), "WEBP", lossless=True),
        "webp-animated": file_of(frames[0], "WEBP", **many),
        "tiff-pages": file_of(frames[0], "TIFF", **many),
        "tiff-16": tiff(noise(5, 6, 3, dtype=np.uint16)),
        "tiff-16-gray": tiff(noise(5, 6, 1, dtype=np.uint16), photometric=0, byteorder=">"),
        "tiff-turned": tiff(noise(5, 6, 3), orientation=6),
        "tiff-extra": tiff(noise(5, 6, 4), extra_samples=0),
        "tiff-lzw": file_of(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": file_of(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-float": file_of(Image.fromarray(gray.astype(np.float32)), "TIFF"),
        "bmp-rle": _bmp_rle(),
        "gif": file_of(Image.fromarray(rgb), "GIF"),
        "empty": b"",
    }


def _bmp_rle() -> bytes:
    """A bitmap of 4x2 in run lengths, with a jump and an early end."""
    palette = bytes(range(16)) * 64
    data = b"\x03\x01\x00\x02\x01\x00\x04\x02\x00\x01"
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def mask() -> dict[str, bytes]:
    """Four bytes of options, then a mask."""
    array = mask_array(12, 10, (2, 3, 7, 8))
    palette = Image.fromarray(array).convert("P")
    files = {
        "plain": file_of(array),
        "jpeg": file_of(array, "JPEG"),
        "webp": file_of(np.dstack([array] * 3), "WEBP", lossless=True),
        "tiff": file_of(array, "TIFF"),
        "one-bit": file_of(Image.fromarray(array).convert("1")),
        "palette": file_of(palette, transparency=0),
        "alpha": file_of(np.dstack((array, array, array, array))),
        "gray-alpha": png(np.dstack((array, array))),
        "16": png(array.astype(np.uint16) * 257, bits=16),
        "faint": file_of(array // 3),
        "nothing": file_of(array * 0),
        "turned": file_of(stored(array, 8), exif=exif(8)),
    }
    options = (b"\0\0\0\0", b"\1\5\0\0", b"\0\3\x10\0", b"\1\0\x40\0")
    return {f"{name}": options[at % 4] + data for at, (name, data) in enumerate(files.items())}


def pictures() -> dict[str, bytes]:
    """What to make of it, then a file: those of `source`, those of `mask`, and files that cost a decoder too much."""
    given = source() | {f"mask-{name}": data[4:] for name, data in mask().items()}
    given |= {
        "bmp-rle-wide": rle_bmp(50_000, 2_000, b"\x01\x00\0\0" * 20),
        "bmp-rle-4": rle_bmp(4, 2, b"\x04\x12\0\0\x04\x21\0\x01", 4),
        "tiff-tiles": tiff_of_tiny_tiles(3),
        "tiff-strips": file_of(noise(64, 9), "TIFF", compression="jpeg"),
        "jpeg-scans": jpeg_of_scans(64, 64, 12),
        "jpeg-segments": jpeg_of_segments(40, b"Exif\0\0"),
    }
    return {name: bytes([at % 8]) + data for at, (name, data) in enumerate(given.items())}


def placing() -> dict[str, bytes]:
    """Sides, kind, crop, native size and seed; then boxes of the mask."""
    given: dict[str, tuple[int, int, int, int, int, list[tuple[int, int, int, int, int]]]] = {
        "plain": (63, 79, 2, 0, 1, [(10, 10, 20, 20, 255)]),
        "gray-16": (30, 99, 4, 1, 0, [(0, 0, 1, 1, 255)]),
        "alpha": (199, 149, 3, 22, 2, [(50, 60, 9, 1, 200), (0, 0, 3, 3, 1)]),
        "alpha-16": (39, 39, 7, 1, 3, [(5, 5, 5, 5, 127)]),
        "line": (2999, 0, 2, 6, 0, [(1500, 0, 0, 0, 255)]),
        "dot": (0, 0, 0, 0, 0, [(0, 0, 0, 0, 1)]),
        "tall": (1, 2900, 6, 1, 1, [(0, 2800, 1, 99, 255)]),
        "empty": (9, 9, 2, 0, 0, [(0, 0, 9, 9, 0)]),
        "soft": (120, 90, 2, 2, 1, [(10 * at, 5 * at, 30, 20, 30 * at) for at in range(9)]),
    }
    return {
        name: struct.pack("<HHBHBI", *numbers, 7) + b"".join(struct.pack("<HHHHB", *box) for box in boxes)
        for name, (*numbers, boxes) in given.items()
    }


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TIMES = {"started_at": MOMENT, "finished_at": MOMENT}
ITEM = Item(
    row=1,
    id="a",
    image="/s/a.png",
    mask="/s/m.png",
    output="/s/o",
    prompt="a cup",
    seed=7,
    steps=20,
    guidance_scale=7.5,
    strength=0.9,
)


def commands() -> dict[str, bytes]:
    """A shift's talk, whole and broken off."""
    job = Job(model="tiny-random", scratch="/s", prompts=("a cup",), tuning_overrides={"batch_size": 2})
    lines = [dump(command) for command in (job, ITEM, ITEM.model_copy(update={"row": 2, "crop": 4}), Flush(), End())]
    texts = {
        "whole": lines,
        "job": lines[:1],
        "item": lines[1:2],
        "no-end": lines[:-1],
        "after-end": [*lines, lines[0]],
        "garbage": [lines[0], "{not json\n", lines[1]],
        "nan": [lines[1].replace("7.5", "NaN")],
        "infinite": [lines[1].replace("7.5", "1e999")],
        "huge": [lines[1].replace('"seed":7', '"seed":1' + "0" * 60)],
        "unknown": ['{"kind":"stop"}\n', '{"kind":"end","x":1}\n'],
        "twice": ['{"kind":"flush","kind":"end"}\n'],
        "deep": ['{"kind":"job","model":"x","scratch":"s","tuning_overrides":{"a":' + "[" * 300 + "]" * 300 + "}}\n"],
        "surrogate": [lines[1].replace("a cup", "\\ud800")],
        "blank": ["\n", lines[-1]],
    }
    return {name: "".join(text).encode() for name, text in texts.items()} | {
        "latin": lines[1].encode()[:-30] + b"\xe9\n"
    }


def events() -> dict[str, bytes]:
    """One line of each kind."""
    error = ErrorInfo(type="MaskError", stage="decode", message="the mask masks nothing", permanent=True)
    cold = ColdStart()
    memory = Memory(peak_allocated=1, peak_reserved=2)
    entry = LedgerEntry(name="xformers", requested="on", effective="off", matches=False, measured={"ratio": 0.9})
    ready = Ready(
        worker=WorkerInfo(pid=1, host="h", device="cpu-0", started_at=MOMENT),
        device=DeviceInfo(kind="cpu", name="cpu"),
        model=ModelIdentity(name="tiny-random", random_weights=True),
        tuning={"dtype": "float32"},
        ledger=(entry,),
        cold_start=cold,
        versions={"torch": "2"},
        native_size=64,
        batch_size=2,
    )
    done = Done(
        row=1,
        output="/s/o",
        sha256="0" * 64,
        bytes=9,
        width=8,
        height=9,
        format="png",
        media_type="image/png",
        extension=".png",
        steps=18,
        working_size=(64, 64),
        conversions=("a palette",),
        batch=Batch(id="b", size=1),
        timings=Timings(decode=0.1, denoise=2.5),
        memory=memory,
        **TIMES,
    )
    said = {
        "phase": Phase(name="load", detail="x"),
        "ready": ready,
        "begun": Begun(rows=(1, 2), stage="paint"),
        "step": Step(step=1, steps=20),
        "done": done,
        "failed": Failed(row=1, error=error, **TIMES),
        "warn": Warn(message="hot"),
        "bye": Bye(ledger=(entry,), cold_start=cold, busy=1.5, painted=1, peak_memory=memory),
        "fatal": Fatal(error=error),
    }
    lines = {name: dump(event).encode() for name, event in said.items()}
    return lines | {
        "all": b"".join(lines.values()),
        "nan": lines["done"].replace(b"2.5", b"NaN"),
        "infinite": lines["bye"].replace(b"1.5", b"1e999"),
        "garbage": b"Loading pipeline: 100%\n\xff\n{}\n[]\n",
    }


def files() -> Mapping[str, dict[str, bytes]]:
    """Every file of every target, by name."""
    return {
        "jsonl": jsonl(),
        "csv": csv(),
        "parquet": parquet(),
        "prompts": prompts(),
        "keys": keys(),
        "source": source(),
        "mask": mask(),
        "pictures": pictures(),
        "placing": placing(),
        "commands": commands(),
        "events": events(),
        "claim": claims.corpus(),
        "plan": make_stored_corpus.plan(),
        "record": make_stored_corpus.records(),
        "progress": make_stored_corpus.progress(),
        "notes": make_stored_corpus.notes(),
        "timings": make_stored_corpus.timings(),
    }


def main() -> None:
    """Write them all."""
    for target, made in files().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in made.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
