"""What an image says of its making, read back by Pillow and, where it is installed, by exiftool."""
# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import replace
from typing import Any
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image

from inpaint_ops import images
from inpaint_ops.config import EXTENSIONS
from inpaint_ops.images import Format, Making, jxl
from inpaint_ops.images.metadata import NOTHING, Metadata
from inpaint_ops.images.provenance import SOURCE_TYPE, parameters
from tests.support.written import EACH_FORMAT

PROMPT = 'a "red" boat <dawn> & gulls, früh, 赤い'
MAKING = Making(
    tool="inpaint-ops 0.1.0", model="studio/sdxl@abc", digest="0123456789abcdef" * 4, prompt=PROMPT,
    negative_prompt="blurry", seed=7, steps=29, guidance_scale=7.5, strength=0.9999, scheduler="euler",
    size=(1024, 768),
)  # fmt: skip
CAMERA = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 e:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture" dc:source="studio 4">
<e:AISystemUsed>another</e:AISystemUsed></rdf:Description></rdf:RDF></x:xmpmeta>"""


def written(
    format: Format, metadata: Metadata = NOTHING, *, wide: bool = False, **options: Any
) -> tuple[bytes, tuple[str, ...]]:
    pixels = np.full((16, 24, 3), 900 if wide else 90, np.uint16 if wide else np.uint8)
    making = options.pop("making", MAKING)
    metadata, notes = images.marked(metadata, making, policy=options.pop("policy", "full"), format=format)
    return images.encode(pixels, format=format, icc=None, metadata=metadata), notes


def xmp_of(data: bytes) -> dict[str, str]:
    """The properties of the packet, by local name: elements and attributes alike."""
    if data.startswith(jxl.CONTAINER):  # whose plugin gives no XMP
        return properties(jxl.read_xmp(data))
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        packet = opened.info.get("xmp") or opened.info.get("XML:com.adobe.xmp")
        if packet is None and hasattr(opened, "tag_v2"):
            packet = opened.tag_v2.get(700)
    return properties(packet)


def properties(packet: bytes | None) -> dict[str, str]:
    """Those of a packet."""
    if not packet:
        return {}
    found: dict[str, str] = {}
    for element in minidom.parseString(packet).getElementsByTagName("rdf:Description"):
        for name, value in element.attributes.items():
            found[name.rpartition(":")[2]] = value
        for child in element.childNodes:
            if isinstance(child, minidom.Element):
                assert child.localName not in found, "said twice"
                found[child.localName] = "".join(node.data for node in child.childNodes if hasattr(node, "data"))
    return found


@pytest.mark.parametrize("format", EACH_FORMAT)
@pytest.mark.parametrize("wide", [False, True])
def test_every_format_says_that_a_model_painted_in_it(format: Format, wide: bool) -> None:
    data, notes = written(format, wide=wide)
    found = xmp_of(data)
    assert found["DigitalSourceType"] == SOURCE_TYPE
    assert found["AISystemUsed"] == "inpaint-ops 0.1.0"
    assert found["AISystemVersionUsed"] == "studio/sdxl@abc (weights 0123456789abcdef)"
    assert found["AIPromptInformation"].startswith(PROMPT)
    assert not notes


@pytest.mark.parametrize("format", EACH_FORMAT)
def test_the_mark_alone_has_no_prompt_and_off_has_nothing(format: Format) -> None:
    data, _ = written(format, policy="mark")
    assert xmp_of(data)["DigitalSourceType"] == SOURCE_TYPE
    for secret in ("gulls", "blurry"):
        assert secret.encode() not in data and secret.encode("utf-16-be") not in data
    data, _ = written(format, policy="off")
    assert not xmp_of(data)
    assert b"inpaint-ops" not in data


def test_viewers_find_the_parameters() -> None:
    data, _ = written("png")
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.text["parameters"] == parameters(MAKING)  # type: ignore[attr-defined]
    data, _ = written("jpeg")
    with Image.open(io.BytesIO(data)) as opened:
        comment = opened.getexif().get_ifd(34665)[0x9286]
    assert comment == b"UNICODE\0" + parameters(MAKING).encode("utf-16-be")
    assert parameters(MAKING).splitlines() == [
        PROMPT, "Negative prompt: blurry",
        "Steps: 29, Sampler: euler, CFG scale: 7.5, Seed: 7, Size: 1024x768, Model: studio/sdxl@abc, "
        "Denoising strength: 0.9999, Version: inpaint-ops 0.1.0",
    ]  # fmt: skip
    assert "CFG scale: 7.5, Steps without CFG: 11, Seed: 7" in parameters(replace(MAKING, unguided_steps=11))


@pytest.mark.parametrize("format", EACH_FORMAT)
def test_what_the_source_says_stays_and_its_claim_to_be_a_plain_photo_goes(format: Format) -> None:
    data, notes = written(format, Metadata(xmp=CAMERA))
    found = xmp_of(data)
    assert found["source"] == "studio 4"
    assert found["DigitalSourceType"] == SOURCE_TYPE
    assert found["AISystemUsed"] == "inpaint-ops 0.1.0"
    assert not notes


def test_marking_twice_is_marking_once() -> None:
    first, _ = images.marked(Metadata(xmp=CAMERA), MAKING, policy="full", format="png")
    second, notes = images.marked(first, replace(MAKING, seed=8), policy="full", format="png")
    assert second.xmp is not None and second.xmp.count(b"DigitalSourceType>http") == 1
    assert b"Seed: 8" in second.xmp and b"Seed: 7" not in second.xmp
    assert len(second.texts) == 1
    assert notes == ("the parameters of an earlier painting, which the source had, were removed",)


@pytest.mark.parametrize("format", EACH_FORMAT)
@pytest.mark.parametrize("policy", ["full", "mark"])
def test_the_parameters_of_an_earlier_painting_do_not_stay(format: Format, policy: str) -> None:
    earlier, _ = images.marked(NOTHING, replace(MAKING, prompt="old words"), policy="full", format=format)
    data, notes = written(format, earlier, policy=policy)
    for code in ("utf-8", "utf-16-be"):
        assert "old words".encode(code) not in data
    assert notes == ("the parameters of an earlier painting, which the source had, were removed",)


@pytest.mark.parametrize(
    "packet",
    [
        b"<x", b"no xml", b"<a/>", b"\xff\xfe\0<", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        CAMERA.replace(b"studio 4", b"x" * (1 << 20)),
    ],
)  # fmt: skip
def test_a_packet_that_cannot_be_read_gives_way_and_that_is_said(packet: bytes) -> None:
    data, notes = written("png", Metadata(xmp=packet))
    assert xmp_of(data)["DigitalSourceType"] == SOURCE_TYPE
    assert len(notes) == 1 and "the source's XMP gave way" in notes[0]


def test_what_is_too_long_for_a_jpeg_is_said_and_the_mark_stays() -> None:
    data, notes = written("jpeg", Metadata(xmp=CAMERA.replace(b"studio 4", b"x" * 65_000)))
    assert xmp_of(data)["DigitalSourceType"] == SOURCE_TYPE
    assert "too long for a jpeg" in notes[0]
    data, notes = written("jpeg", making=replace(MAKING, prompt="x" * 70_000))
    assert xmp_of(data)["DigitalSourceType"] == SOURCE_TYPE
    assert [note.split(",")[0] for note in notes] == [
        "the prompt is too long for a jpeg's metadata", "the parameters are too long for a jpeg's EXIF",
    ]  # fmt: skip


def test_a_comment_of_the_photographer_stays() -> None:
    exif = Image.Exif()
    exif.get_ifd(34665)[0x9286] = b"ASCII\0\0\0mine"
    data, notes = written("webp", Metadata(exif=exif.tobytes()))
    assert notes == ("the parameters are not in EXIF: the source has a user comment of its own there",)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif().get_ifd(34665)[0x9286] == b"ASCII\0\0\0mine"
    assert "AIPromptInformation" in xmp_of(data)


@pytest.mark.parametrize("prompt", ["\0\1\x1b[31m", "]]>", "&amp;", "\ud800", "\ufffe"])
def test_any_prompt_can_be_written(prompt: str) -> None:
    data, _ = written("png", making=replace(MAKING, prompt=prompt))
    assert xmp_of(data)["DigitalSourceType"] == SOURCE_TYPE


@pytest.mark.parametrize("format", EACH_FORMAT)
@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_it(format: Format, tmp_path: Any) -> None:
    path = tmp_path / f"image{EXTENSIONS[format]}"
    path.write_bytes(written(format, Metadata(xmp=CAMERA))[0])
    out = subprocess.run(
        ["exiftool", "-j", "-G1", "-n", "-warning", "-all", path], capture_output=True, check=True
    ).stdout
    (found,) = json.loads(out)
    assert found["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
    assert found["XMP-dc:Source"] == "studio 4"
    assert "ExifTool:Warning" not in found
