"""What a picture says of itself besides its pixels: colour, resolution, texts, EXIF and XMP; read, cleaned, handed on.

Colour and resolution always go on to the output, where its format can hold them. Texts, EXIF and XMP go by a policy.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal
from xml.dom import minidom

from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from inpaint_ops.images import png

Policy = Literal["safe", "keep", "strip"]
"""`safe`: all but location, serial numbers and thumbnails; `keep`: all; `strip`: nothing."""

MAX_TEXT_BYTES = 1 << 20
"""Bytes of all texts together, and of XMP: more is dropped, and recorded in `conversions`."""
MAX_SEGMENT = 65_533 - 29
"""Bytes of EXIF or XMP that fit one segment of a JPEG, after its longest name."""

ORIENTATION: Final = 274
_X_RESOLUTION = 282
_EXIF_IFD, _GPS_IFD = 34665, 34853
_SIZES, _INTEROP = (0xA002, 0xA003), 0xA005
_SERIALS: Final = {0xA430, 0xA431, 0xA435, 0xC62F, 0xC65B, 0xA420}
"""The camera's owner, its serial number and the lens's (EXIF 3.0, DNG 1.7), and the picture's own number."""
_MAKER_NOTES: Final = {0x927C, 0xC634}
"""In the maker's own formats, which hold serial numbers too."""
_DESCRIPTIVE: Final = {269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
"""The tags of a TIFF's first directory that describe the picture; the others say how it is stored."""
_COLOUR_CHUNKS: Final = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4}
_TEXT_CHUNKS: Final = {b"tEXt", b"zTXt", b"iTXt"}
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_PRIVATE_XMP = re.compile(
    r"(?i)GPS|Serial|Thumbnail|Location|OwnerName|^(City|State|Country|CountryCode|CountryName|ProvinceState|WorldRegion)$"
)
"""Local names of XMP properties that `safe` removes."""
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What goes on to the output.

    Attributes:
        colour: PNG chunks that say what the code values mean (gAMA, cHRM, sRGB, cICP), as (kind, body).
        resolution: pixels per inch, (across, down), upright.
        aspect: where no unit is given, the pixels' (across, down) counts in one length.
        texts: PNG text chunks, as (kind, body).
        comment: a JPEG's comment.
        exif: an EXIF block, without its orientation.
        xmp: an XMP packet.
    """

    colour: tuple[tuple[bytes, bytes], ...] = ()
    resolution: tuple[float, float] | None = None
    aspect: tuple[int, int] | None = None
    texts: tuple[tuple[bytes, bytes], ...] = ()
    comment: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


NOTHING = Metadata()


def read_metadata(
    image: ImageFile.ImageFile,
    data: bytes,
    *,
    policy: Policy,
    orientation: int,
    size: tuple[int, int],
    conversions: list[str],
) -> Metadata:
    """Gather what goes on, once the pixels are loaded.

    Args:
        image: the opened file.
        data: the whole file.
        policy: what becomes of texts, EXIF and XMP.
        orientation: its value in EXIF, which was applied to the pixels: it is taken out of EXIF and XMP.
        size: (width, height) of the upright picture.
        conversions: gets a sentence for each thing that is dropped here.
    """
    chunks = png.ancillary(data, {*_COLOUR_CHUNKS, *_TEXT_CHUNKS}) if image.format == "PNG" else []
    colour = tuple((kind, body) for kind, body in chunks if len(body) == _COLOUR_CHUNKS.get(kind))
    exif, xmp = _exif(image, conversions), _xmp(image)
    resolution, aspect = _resolution(image, exif)
    if orientation >= 5:  # width and height are swapped
        resolution = resolution and (resolution[1], resolution[0])
        aspect = aspect and (aspect[1], aspect[0])
    texts = tuple((kind, body) for kind, body in chunks if kind in _TEXT_CHUNKS and not body.startswith(_XMP_KEYWORD))
    comment = image.info.get("comment") if image.format in ("JPEG", "MPO") else None
    comment = comment if isinstance(comment, bytes) and comment else None
    if _has_iptc(image):
        conversions.append("IPTC data is not kept")
    if xmp and orientation == 1 and (found := _XMP_ORIENTATION.search(xmp)) and found[1] != b"1":
        conversions.append(
            f"an orientation ({found[1].decode()}) that only XMP has was not applied, as browsers do not apply it"
        )
    if policy == "strip":
        if texts or comment or xmp or exif is not None:
            conversions.append("EXIF, XMP and texts were removed (INPAINT_METADATA=strip)")
        return Metadata(colour, resolution, aspect)
    if sum(len(body) for _, body in texts) > MAX_TEXT_BYTES:
        texts = ()
        conversions.append(f"text chunks of more than {MAX_TEXT_BYTES} bytes are not kept")
    if policy == "safe":
        raw = tuple(chunk for chunk in texts if not chunk[1].lower().startswith(b"raw profile type"))
        removed = [
            *(["raw profiles"] if raw != texts else []),
            *(_clean_exif(exif) if exif is not None else []),
        ]
        texts = raw
        xmp, more = _clean_xmp(xmp)
        removed += more
        if removed:
            names = ", ".join(dict.fromkeys(removed))
            conversions.append(f"metadata was removed ({names}; INPAINT_METADATA=keep keeps it)")
    if orientation != 1 and xmp:
        xmp = re.sub(rb"(tiff:Orientation(?:=[\"']|>)\s*)[1-8]", rb"\g<1>1", xmp)
    return Metadata(colour, resolution, aspect, texts, comment, _exif_bytes(exif, size), xmp)


def lost(metadata: Metadata, format: str) -> tuple[str, ...]:  # noqa: A002
    """A sentence for each thing that an output format cannot hold."""
    conversions = []
    if metadata.colour and format != "png":
        names = ", ".join(kind.decode() for kind, _ in metadata.colour)
        conversions.append(f"the PNG's colour chunks ({names}) were dropped: {format} cannot store them")
    if metadata.resolution and format in ("webp", "avif", "jxl"):
        conversions.append(f"the resolution ({metadata.resolution[0]:.0f} dpi) was dropped: {format} cannot store it")
    if metadata.aspect and format != "png":
        conversions.append(f"the pixels' aspect was dropped: {format} cannot store it")
    if metadata.texts and format != "png":
        conversions.append(f"text chunks were dropped: {format} cannot store them")
    if metadata.comment and format not in ("jpeg", "png"):
        conversions.append(f"the JPEG's comment was dropped: {format} cannot store it")
    for name, block in (("EXIF", metadata.exif), ("XMP", metadata.xmp)):
        if block and format == "jpeg" and len(block) > MAX_SEGMENT:
            conversions.append(f"{name} was dropped: it is too long for a jpeg")
    return tuple(conversions)


def png_chunks(metadata: Metadata, *, has_icc: bool) -> list[tuple[bytes, bytes]]:
    """What goes between header and pixels of a PNG. An sRGB chunk yields to a profile, as the format demands."""
    chunks = [(kind, body) for kind, body in metadata.colour if not (has_icc and kind == b"sRGB")]
    if metadata.resolution:
        across, down = (min(2**31 - 1, round(value / 0.0254)) for value in metadata.resolution)
        chunks.append((b"pHYs", across.to_bytes(4, "big") + down.to_bytes(4, "big") + b"\1"))
    elif metadata.aspect:
        chunks.append((b"pHYs", b"".join(value.to_bytes(4, "big") for value in metadata.aspect) + b"\0"))
    chunks += metadata.texts
    if metadata.comment:
        text = metadata.comment.replace(b"\0", b" ")
        chunks.append((b"iTXt", b"Comment\0\0\0\0\0" + text.decode("utf-8", "replace").encode()))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    if metadata.xmp:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp))
    return chunks


def save_options(metadata: Metadata, format: str) -> dict[str, Any]:  # noqa: A002
    """What Pillow's `save` is given for a jpeg, webp, avif, jxl or 8-bit tiff."""
    options: dict[str, Any] = {}
    fits = [block if block and (format != "jpeg" or len(block) <= MAX_SEGMENT) else None
            for block in (metadata.exif, metadata.xmp)]  # fmt: skip
    if metadata.resolution and format in ("jpeg", "tiff"):
        options["dpi"] = metadata.resolution
    if format == "jpeg" and metadata.comment:
        options["comment"] = metadata.comment
    if format != "tiff":
        return options | {name: block for name, block in zip(("exif", "xmp"), fits, strict=True) if block}
    tags: dict[int, Any] = {317: 2}  # horizontal differences: a third smaller
    if metadata.xmp:
        tags[700] = metadata.xmp
    return options | {"tiffinfo": tags}


def _resolution(
    image: ImageFile.ImageFile, exif: Image.Exif | None
) -> tuple[tuple[float, float] | None, tuple[int, int] | None]:
    info = image.info
    if image.format in ("JPEG", "MPO") and not info.get("jfif_unit") and (exif is None or _X_RESOLUTION not in exif):
        return None, None  # Pillow makes 72 dpi up where EXIF has none
    if isinstance(image, TiffImageFile) and _X_RESOLUTION not in image.tag_v2:
        return None, None  # and 1 dpi here
    try:
        across, down = (float(value) for value in info.get("dpi") or ())
    except (TypeError, ValueError, ZeroDivisionError):
        across = down = 0.0
    if all(math.isfinite(value) and 0.1 <= value <= 1e6 for value in (across, down)):
        return (across, down), None
    pair = info.get("aspect")
    if isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1] and all(0 < side < 2**31 for side in pair):
        return None, pair
    return None, None


def exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF of a file, without the orientation that Pillow takes from XMP where EXIF has none.

    Raises whatever Pillow raises on damaged EXIF.
    """
    hidden = {key: image.info.pop(key) for key in ("xmp", "XML:com.adobe.xmp") if key in image.info}
    try:
        return image.getexif()
    finally:
        for key, value in hidden.items():
            image.info[key] = value


def _exif(image: ImageFile.ImageFile, conversions: list[str]) -> Image.Exif | None:
    """A copy to change, without orientation and thumbnail; None where there is none, or none that can be read."""
    copy = Image.Exif()
    try:
        found = exif_of(image)
        is_tiff = isinstance(image, TiffImageFile)
        for tag in found:
            if tag not in (ORIENTATION, _EXIF_IFD, _GPS_IFD) and (tag in _DESCRIPTIVE or not is_tiff):
                copy[tag] = found[tag]
        for ifd in (_EXIF_IFD, _GPS_IFD):
            values = {tag: value for tag, value in found.get_ifd(ifd).items() if tag != _INTEROP}
            if values:
                copy.get_ifd(ifd).update(values)
        if not is_tiff and found.get_ifd(ExifTags.IFD.IFD1):
            conversions.append("the thumbnail in the metadata was removed: it shows the source")
        copy.tobytes()
    except Exception:  # foreign bytes: Pillow raises OSError, SyntaxError, struct.error, KeyError, ...
        conversions.append("EXIF is damaged, and is not kept")
        return None
    return copy if len(copy) or copy.get_ifd(_EXIF_IFD) or copy.get_ifd(_GPS_IFD) else None


def _exif_bytes(exif: Image.Exif | None, size: tuple[int, int]) -> bytes | None:
    """The block as it is written, with the size of the upright picture where it names one."""
    if exif is None:
        return None
    details = exif.get_ifd(_EXIF_IFD)
    for tag, side in zip(_SIZES, size, strict=True):
        if tag in details:
            details[tag] = side
    return exif.tobytes() if len(exif) or details or exif.get_ifd(_GPS_IFD) else None


def _clean_exif(exif: Image.Exif) -> list[str]:
    """Remove what `safe` removes, in place; what it was, in words."""
    removed = []
    if exif.get_ifd(_GPS_IFD):
        exif.get_ifd(_GPS_IFD).clear()
        removed.append("location")
    for name, tags in (("serial numbers", _SERIALS), ("maker notes", _MAKER_NOTES)):
        for part in (exif, exif.get_ifd(_EXIF_IFD)):
            for tag in tags & set(part):
                del part[tag]
                removed.append(name)
    return removed


def _xmp(image: ImageFile.ImageFile) -> bytes | None:
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return (found.encode() if isinstance(found, str) else found) or None


def tame_xmp(xmp: bytes) -> bytes | None:
    """The packet without its padding; None where parsing it could cost too much."""
    body = xmp.rstrip(b"\0 \r\n\t")
    if len(body) > MAX_TEXT_BYTES or b"<!" in body.replace(b"<!--", b""):  # no document types: entities can explode
        return None
    return body


def _clean_xmp(xmp: bytes | None) -> tuple[bytes | None, list[str]]:
    """The packet without what `safe` removes, and what that was; None where that is not known."""
    if xmp is None:
        return None, []
    body = tame_xmp(xmp)
    if body is None:
        return None, ["XMP"]
    try:
        document = minidom.parseString(body)  # noqa: S318 - expat without entities, and bounded
        removed = document.documentElement is not None and _clean_element(document.documentElement)
        return (document.toxml().encode() if removed else xmp), (["XMP properties"] if removed else [])
    except Exception:  # foreign bytes: ExpatError, RecursionError, UnicodeError, ...
        return None, ["XMP that cannot be read"]


def _clean_element(root: minidom.Element) -> bool:
    removed = False
    waiting = [root]
    while waiting:
        element = waiting.pop()
        for name in list(element.attributes.keys() if element.attributes else ()):
            if _PRIVATE_XMP.search(name.rpartition(":")[2]) and not name.startswith("xmlns"):
                element.removeAttribute(name)
                removed = True
        for child in list(element.childNodes):
            if not isinstance(child, minidom.Element):
                continue
            if _PRIVATE_XMP.search(child.tagName.rpartition(":")[2]):
                element.removeChild(child)
                removed = True
            else:
                waiting.append(child)
    return removed


def _has_iptc(image: ImageFile.ImageFile) -> bool:
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else ()
    photoshop = image.info.get("photoshop")
    return bool(isinstance(photoshop, dict) and 0x0404 in photoshop) or 33723 in tags
