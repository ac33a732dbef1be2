"""What is read, and by which plugin of Pillow: the formats that are always there, and those of an extra.

A plugin is opened by its own class and never by `Image.open`: no other plugin can then be reached, the cap on pixels is
ours and not the process-wide one, and a JPEG with pictures behind it (MPO) is still a JPEG.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from PIL import ImageFile, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from inpaint_ops.errors import ImageError
from inpaint_ops.images import jxl, png

Opener = type[ImageFile.ImageFile]

JXL_PLUGIN = "pillow-jxl-plugin (GPL-3.0-or-later)"
"""What reads and writes JPEG XL."""

_HEIF_BRANDS = re.compile(rb"heic|heix|heim|heis|hevc|hevx|mif1|msf1")


@dataclass(frozen=True, slots=True)
class Format:
    """One format: its name in errors and records, how it begins, and what reads it.

    `module` and `opener` are imported at the first file of the format where they are not always there.
    """

    name: str
    begins: Callable[[bytes], bool]
    opener: Opener | None = None
    module: str = ""
    attribute: str = ""
    feature: str = ""
    """Pillow's own name for what it may have been built without."""
    install: str = "the extra inpaint-ops[formats]"
    """What to install to have it read."""
    bits_at: re.Pattern[bytes] | None = None
    """Matches a header of more than 8 bits per channel, which the plugin gives in 8."""

    @property
    def is_there(self) -> bool:
        """Whether files of this format can be read here."""
        if self.feature:
            return bool(features.check(self.feature))
        return not self.module or importlib.util.find_spec(self.module.partition(".")[0]) is not None

    def open_with(self) -> Opener:
        """The plugin's class. Raises ImageError where it is not installed."""
        if not self.is_there:
            raise ImageError(f"is of a format that is not read here: install {self.install}, or save it as PNG")
        if self.opener is not None:
            return self.opener
        return cast(Opener, getattr(importlib.import_module(self.module), self.attribute))


def _brand(data: bytes) -> bytes:
    return data[8:12] if data[4:8] == b"ftyp" else b""


FORMATS: tuple[Format, ...] = (
    Format("png", lambda data: data.startswith(png.SIGNATURE), PngImageFile),
    Format("jpeg", lambda data: data.startswith(b"\xff\xd8\xff"), JpegImageFile),
    Format("webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", WebPImageFile),
    Format("tiff", lambda data: data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    Format("bmp", lambda data: data.startswith(b"BM"), BmpImageFile),
    Format("gif", lambda data: data[:6] in (b"GIF87a", b"GIF89a"), GifImageFile),
    Format(
        "jpeg2000",
        lambda data: data.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
        Jpeg2KImageFile,
        feature="jpg_2000",
        bits_at=re.compile(rb"ihdr.{10}[\x08-\x25\x88-\xa5]|\xff\x4f\xff\x51.{38}[\x08-\x25\x88-\xa5]", re.DOTALL),
    ),
    Format(
        "avif",
        lambda data: _brand(data) in (b"avif", b"avis"),
        AvifImageFile,
        feature="avif",
        bits_at=re.compile(rb"av1C.{2}[\x40-\x7f\xc0-\xff]", re.DOTALL),
    ),
    Format(
        "heif",
        lambda data: bool(_HEIF_BRANDS.fullmatch(_brand(data))),
        module="pillow_heif.as_plugin",
        attribute="HeifImageFile",
        bits_at=re.compile(rb"hvcC.{17}[\xf9-\xff]", re.DOTALL),
    ),
    Format(
        "jxl",
        lambda data: data.startswith((jxl.CODESTREAM, jxl.CONTAINER)),
        module="pillow_jxl.JpegXLImagePlugin",
        attribute="JXLImageFile",
        install=JXL_PLUGIN,  # so it is no dependency of ours, not even an optional one
    ),
)
"""What we read, in the order in which a file's first bytes are compared."""


def load_plugins() -> None:
    """Import every plugin that is installed: for a process that will open no more files of its own. One that does not
    import is left out, and says why at its first picture.
    """
    for one in FORMATS:
        with contextlib.suppress(Exception):
            one.open_with()


def format_of(data: bytes) -> Format | None:
    """The format that a file's first bytes name."""
    return next((one for one in FORMATS if one.begins(data)), None)


_NOT_READ = {
    b"8BPS": "Photoshop",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIU\0": "camera raw",
    b"IIRO": "camera raw",
    b"<!DOCTYPE html": "HTML",
    b"<html": "HTML",
    b"\x93NUMPY": "NumPy",
    b"DDS |": "DDS",
    b"qoif": "QOI",
    b"%!PS": "PostScript",
    **{b"P%d%c" % (kind, space): "Netpbm" for kind in range(1, 8) for space in b"\n\r\t "},
}

_PACKED = {
    b"version https://git-lfs": "is a Git LFS pointer in place of a picture: `git lfs pull` fetches the file itself",
    b"\x1f\x8b": "is compressed by gzip: unpack it",
    b"PK\3\4": "is a ZIP archive: unpack it",
}


def what_it_is(data: bytes) -> str:
    """What is said of a file that we do not read, with the cure."""
    if not data:
        return "is empty (0 bytes): upload it again"
    for start, text in _PACKED.items():
        if data.startswith(start):
            return text
    is_cr3 = data[4:11] == b"ftypcrx"
    name = "camera raw" if is_cr3 else next((one for start, one in _NOT_READ.items() if data.startswith(start)), "")
    if name:
        return f"is of the format {name}, which is not read: convert it to PNG or TIFF"
    return (
        "is no PNG, JPEG, WebP, TIFF, BMP, GIF, JPEG 2000, AVIF, HEIC or JPEG XL file (it begins with "
        f"{data[:12]!r}): convert it to PNG"
    )
