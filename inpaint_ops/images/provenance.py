"""What an image says of its own making: an XMP mark for machines, and its parameters where viewers look for them.

The mark is the IPTC's (Photo Metadata Standard 2025.1): `DigitalSourceType` says that a part was made by a model,
`AISystemUsed` and `AISystemVersionUsed` by which, `AIPromptInformation` from what text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from xml.dom import minidom

from PIL import Image

from inpaint_ops.config import Provenance
from inpaint_ops.images.metadata import MAX_SEGMENT, Metadata, tame_xmp

SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a picture parts of which a trained model has made."""
_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META = "adobe:ns:meta/"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_OURS = ("DigitalSourceType", "AISystemUsed", "AISystemVersionUsed", "AIPromptInformation")

_EXIF_IFD, _USER_COMMENT = 34665, 0x9286
_PARAMETERS = b"parameters"
"""The PNG text in which viewers of generated images look for prompt, seed and steps."""


@dataclass(frozen=True, slots=True)
class Making:
    """How a picture was made. `model`: its name and, where it has one, revision; `digest`: `ModelIdentity.digest`."""

    tool: str
    model: str
    digest: str
    prompt: str
    negative_prompt: str | None
    seed: int
    steps: int
    guidance_scale: float
    strength: float
    scheduler: str
    size: tuple[int, int]
    """(width, height) that the model painted at."""
    unguided_steps: int = 0
    """Of the steps, the last ones, which ran without guidance."""


def marked(
    metadata: Metadata,
    making: Making,
    *,
    policy: Provenance,
    format: str,  # noqa: A002
) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata with how the picture was made, and a sentence for each thing that had to go for it.

    Args:
        metadata: what the source brought.
        making: how the picture was made.
        policy: `full`; `mark`, which leaves out prompt, seed and all other parameters; `off`.
        format: what the image is written as.
    """
    if policy == "off":
        return metadata, ()
    notes = []
    xmp = _merged(metadata.xmp, making, whole=policy == "full")
    if xmp is None or (format == "jpeg" and len(xmp) > MAX_SEGMENT):
        if metadata.xmp:
            why = "cannot be read" if xmp is None else "is too long for a jpeg together with it"
            notes.append(f"the source's XMP gave way to the mark of a model's work: it {why}")
        xmp = _merged(None, making, whole=policy == "full")
        if xmp is not None and format == "jpeg" and len(xmp) > MAX_SEGMENT:
            notes.append("the prompt is too long for a jpeg's metadata, and is not in it")
            xmp = _merged(None, making, whole=False)
    cleared = _without_parameters(metadata)
    if cleared != metadata:
        notes.append("the parameters of an earlier painting, which the source had, were removed")
    metadata = replace(cleared, xmp=xmp)
    if policy == "full":
        metadata, more = _with_parameters(metadata, parameters(making), format)
        notes += more
    return metadata, tuple(notes)


def read_mark(metadata: Metadata) -> dict[str, str]:
    """What a picture says of its making, by the IPTC's names, and `parameters`; empty where it says nothing.

    XMP that cannot be read says nothing.
    """
    found: dict[str, str] = {}
    if (document := _parsed(metadata.xmp)) is not None:
        for element in document.getElementsByTagNameNS(_RDF, "Description"):
            found |= {name: element.getAttributeNS(_EXT, name) for name in _OURS if element.hasAttributeNS(_EXT, name)}
            for child in element.childNodes:
                if isinstance(child, minidom.Element) and child.namespaceURI == _EXT and child.localName in _OURS:
                    found[child.localName] = "".join(node.data for node in child.childNodes if node.nodeType == 3)
    for kind, body in metadata.texts:
        if kind in (b"tEXt", b"iTXt") and body.startswith(_PARAMETERS + b"\0"):
            text = body.split(b"\0", 5)[-1] if kind == b"iTXt" else body.split(b"\0", 1)[-1]
            found["parameters"] = text.decode("utf-8", "replace")
    return found


def parameters(making: Making) -> str:
    """Prompt, seed, steps and so on, as AUTOMATIC1111's web UI writes them and most viewers read them."""
    lines = [making.prompt]
    if making.negative_prompt:
        lines.append(f"Negative prompt: {making.negative_prompt}")
    values = {
        "Steps": making.steps, "Sampler": making.scheduler, "CFG scale": f"{making.guidance_scale:g}",
        "Steps without CFG": making.unguided_steps or "",
        "Seed": making.seed, "Size": f"{making.size[0]}x{making.size[1]}", "Model": making.model,
        "Denoising strength": f"{making.strength:g}", "Version": making.tool,
    }  # fmt: skip
    lines.append(", ".join(f"{name}: {value}" for name, value in values.items() if value != ""))
    return "\n".join(lines)


def _without_parameters(metadata: Metadata) -> Metadata:
    """The metadata less the parameters of an earlier painting: a PNG's text, or a user comment that looks like them."""
    texts = tuple(chunk for chunk in metadata.texts if chunk[1].split(b"\0")[0] != _PARAMETERS)
    exif = _exif_of(metadata)
    comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    if isinstance(comment, bytes) and any(
        "Steps: ".encode(code) in comment for code in ("ascii", "utf-16-be", "utf-16-le")
    ):
        del exif.get_ifd(_EXIF_IFD)[_USER_COMMENT]
        return replace(metadata, texts=texts, exif=exif.tobytes())
    return replace(metadata, texts=texts) if texts != metadata.texts else metadata


def _with_parameters(metadata: Metadata, text: str, format: str) -> tuple[Metadata, list[str]]:  # noqa: A002
    """A PNG's text; the user comment of EXIF elsewhere, where the source has none of its own."""
    if format == "png":
        chunk = (b"iTXt", _PARAMETERS + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))
        return replace(metadata, texts=(*metadata.texts, chunk)), []
    exif = _exif_of(metadata)
    details = exif.get_ifd(_EXIF_IFD)
    if details.get(_USER_COMMENT):
        return metadata, ["the parameters are not in EXIF: the source has a user comment of its own there"]
    details[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be", "replace")
    block = exif.tobytes()
    if format == "jpeg" and len(block) > MAX_SEGMENT:
        return metadata, ["the parameters are too long for a jpeg's EXIF, and are not in it"]
    return replace(metadata, exif=block), []


def _exif_of(metadata: Metadata) -> Image.Exif:
    exif = Image.Exif()
    if metadata.exif:
        exif.load(metadata.exif)
    return exif


def _merged(xmp: bytes | None, making: Making, *, whole: bool) -> bytes | None:
    """The packet with the mark, which replaces an earlier one; None for a packet that cannot be read."""
    document = _parsed(xmp) if xmp else _empty()
    found = document.getElementsByTagNameNS(_RDF, "RDF") if document else []
    if document is None or not found:
        return None
    for element in list(found[0].getElementsByTagNameNS(_RDF, "Description")):
        _take_out(element)
    found[0].appendChild(_description(document, making, whole=whole))
    try:
        return document.toxml().encode()
    except (UnicodeError, RecursionError):
        return None


def _parsed(xmp: bytes | None) -> minidom.Document | None:
    body = tame_xmp(xmp or b"")
    if not body:
        return None
    try:
        return minidom.parseString(body)  # noqa: S318 - expat without entities, and bounded
    except Exception:  # foreign bytes: ExpatError, RecursionError, UnicodeError, ...
        return None


def _empty() -> minidom.Document:
    document = minidom.Document()
    meta = document.createElementNS(_META, "x:xmpmeta")
    meta.setAttributeNS(_XMLNS, "xmlns:x", _META)
    rdf = document.createElementNS(_RDF, "rdf:RDF")
    rdf.setAttributeNS(_XMLNS, "xmlns:rdf", _RDF)
    document.appendChild(
        document.createProcessingInstruction("xpacket", 'begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"')
    )
    document.appendChild(meta)
    meta.appendChild(rdf)
    document.appendChild(document.createProcessingInstruction("xpacket", 'end="w"'))
    return document


def _take_out(description: minidom.Element) -> None:
    """Remove what an earlier mark, or a camera, says in the properties that are ours."""
    for name in _OURS:
        if description.hasAttributeNS(_EXT, name):
            description.removeAttributeNS(_EXT, name)
    for child in list(description.childNodes):
        if isinstance(child, minidom.Element) and child.namespaceURI == _EXT and child.localName in _OURS:
            description.removeChild(child)


def _description(document: minidom.Document, making: Making, *, whole: bool) -> minidom.Element:
    element = document.createElementNS(_RDF, "rdf:Description")
    element.setAttributeNS(_XMLNS, "xmlns:rdf", _RDF)
    element.setAttributeNS(_RDF, "rdf:about", "")
    element.setAttributeNS(_XMLNS, "xmlns:Iptc4xmpExt", _EXT)
    model = f"{making.model} (weights {making.digest[:16]})" if making.digest else making.model
    values = {"DigitalSourceType": SOURCE_TYPE, "AISystemUsed": making.tool, "AISystemVersionUsed": model}
    if whole:
        values["AIPromptInformation"] = parameters(making)
    for name, value in values.items():
        child = document.createElementNS(_EXT, f"Iptc4xmpExt:{name}")
        child.appendChild(document.createTextNode(_printable(value)))
        element.appendChild(child)
    return element


def _printable(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]", "", text)
