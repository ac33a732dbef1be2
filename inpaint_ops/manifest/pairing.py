"""A manifest from two prefixes, or one: images and masks matched by relative path, then by stem."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from inpaint_ops.errors import ConfigError, ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest.text import DELIMITERS, CsvError, NotUtf8Error, TooLong, csv_records, delimiter_of
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped

READ_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp .dib .gif .jp2 .j2k .jpx .jpf .avif .heic .heif "
    ".jxl".split()
)
"""Endings of pictures that the worker reads, some with the extra `formats`."""
PICTURE_SUFFIXES = READ_SUFFIXES | frozenset(
    ".psd .psb .svg .eps .ai .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .tga .exr .hdr .ico .pcx .ppm .pgm .pbm .pnm "
    ".xcf .jxr .dds".split()
)
"""Endings of all that looks like a picture, also what no row can be made of."""
_RECORD_BYTES = 2**20
_MASK_MARK = re.compile(r"[ ._-]?(inpaint[ ._-]?)?masks?$|^masks?[ ._-]", re.IGNORECASE)
_IGNORED = frozenset({"thumbs.db", ".ds_store", "desktop.ini", "ehthumbs.db"})


@dataclass(frozen=True, slots=True)
class Pairing:
    """Rows for a manifest, and what found no partner."""

    rows: tuple[dict[str, Any], ...]
    images_alone: tuple[str, ...] = ()
    masks_alone: tuple[str, ...] = ()
    without_prompt: tuple[str, ...] = ()
    clashes: tuple[str, ...] = ()
    """Files that could be one of several, a sentence each."""
    not_read: tuple[str, ...] = ()
    """Files that look like pictures, of a format that no worker reads."""
    prompts_unused: tuple[str, ...] = ()
    """Names in the prompts file that no image has."""

    def without_row(self) -> Iterator[str]:
        """A line for each file that gives no row, with the cure."""
        yield from (f"image without a mask: {uri}" for uri in self.images_alone)
        yield from (f"mask without an image: {uri}" for uri in self.masks_alone)
        yield from (f"image without a prompt: {uri}" for uri in self.without_prompt)
        yield from (f"{clash}: rename one, or write the row by hand" for clash in self.clashes)
        yield from (
            f"a picture in a format that is not read: {uri}: convert it to PNG or TIFF" for uri in self.not_read
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A picture: where it is, and what is compared of its name."""

    location: Location
    path: str
    """Relative to its prefix, without ending, folded."""
    stem: str


@dataclass(slots=True)
class _Side:
    pictures: list[_Found] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)


def is_clutter(name: str) -> bool:
    """Whether a system keeps its own things under this name: `._a.png`, `.DS_Store`, `Thumbs.db`."""
    return name.startswith("._") or name.lower() in _IGNORED or name == "__MACOSX"


def pair(
    images: Iterable[Location],
    masks: Iterable[Location],
    *,
    prompt: str | None,
    prompts: Mapping[str, str] | None = None,
    roots: tuple[Location, Location] | None = None,
    mask_suffix: str | None = None,
    pattern: str | None = None,
    id_template: str | None = None,
) -> Pairing:
    """Match images and masks by their path below `roots`, then by stem, in order of the path.

    `a.jpg` pairs with `a.png`, `a_mask.png`, `mask-a.png`, or `a` and `mask_suffix`; case and the form of Unicode do
    not matter. Where both come from one prefix, masks are those with such a mark. What could be one of several is a
    clash, and no row. `pattern` is a glob for images' names or paths. A row's prompt is `prompts[file name]`, else
    `prompts[stem]`, else `prompt`; its id is `id_template` with {stem}, {name}, {path} and {n}. Keys of the rows are
    full URIs. Raises ConfigError for a template that names something else.
    """
    image_root, mask_root = roots or (None, None)
    image_places, mask_places = list(images), list(masks)
    if roots is not None and image_root == mask_root:
        mask_places = [
            place for place in image_places if _unmarked(PurePosixPath(place.name).stem, mask_suffix) is not None
        ]
        taken = set(mask_places)
        image_places = [place for place in image_places if place not in taken]
    photos = _side(image_places, image_root, None, marks=False)
    if pattern is not None:
        photos.pictures = [one for one in photos.pictures if _matches(one.location, image_root, pattern)]
    drawn = _side(mask_places, mask_root, mask_suffix, marks=True)
    pairs, clashes, lone, left = _match(photos.pictures, drawn.pictures)
    texts = {_fold(name): text for name, text in (prompts or {}).items()}
    used: set[str] = set()
    rows: list[dict[str, Any]] = []
    without_prompt = []
    for image, mask in pairs:
        names = [_fold(image.location.name), _fold(PurePosixPath(image.location.name).stem)]
        used.update(names)
        text = next((texts[name] for name in names if name in texts), prompt)
        if text is None:
            without_prompt.append(image.location.uri)
            continue
        row = {"image": image.location.uri, "mask": mask.location.uri, "prompt": text}
        if id_template is not None:
            row["id"] = _id(id_template, image.location, image_root, len(rows) + 1)
        rows.append(row)
    for one in photos.pictures:
        used.update((_fold(one.location.name), _fold(PurePosixPath(one.location.name).stem)))
    return Pairing(
        rows=tuple(rows),
        images_alone=tuple(one.location.uri for one in lone),
        masks_alone=tuple(one.location.uri for one in left) if pattern is None else (),
        without_prompt=tuple(without_prompt),
        clashes=tuple(clashes),
        not_read=(*photos.not_read, *drawn.not_read),
        prompts_unused=tuple(name for name in prompts or {} if _fold(name) not in used),
    )


def _match(
    images: list[_Found], masks: list[_Found]
) -> tuple[list[tuple[_Found, _Found]], list[str], list[_Found], list[_Found]]:
    """Pairs, what clashes, and the images and masks that are left: first by path, then what remains by stem."""
    pairs: list[tuple[_Found, _Found]] = []
    clashes: list[str] = []
    for key in ("path", "stem"):
        by_name: dict[str, tuple[list[_Found], list[_Found]]] = defaultdict(lambda: ([], []))
        for side, found in enumerate((images, masks)):
            for one in found:
                by_name[getattr(one, key)][side].append(one)
        settled: set[Location] = set()
        for some_images, some_masks in by_name.values():
            if len(some_images) == len(some_masks) == 1:
                pairs.append((some_images[0], some_masks[0]))
            elif not some_images or not some_masks:
                continue
            else:
                shown = [str(one.location) for one in (*some_images, *some_masks)]
                clashes.append(f"{' and '.join(shown[:4])}{' and more' if len(shown) > 4 else ''} could be one pair")
            settled.update(one.location for one in (*some_images, *some_masks))
        images = [one for one in images if one.location not in settled]
        masks = [one for one in masks if one.location not in settled]
    pairs.sort(key=lambda both: both[0].location.key)
    return pairs, clashes, images, masks


def _side(places: Iterable[Location], root: Location | None, suffix: str | None, *, marks: bool) -> _Side:
    side = _Side()
    for place in sorted(places, key=lambda place: place.key):
        path = PurePosixPath(_below(place, root))
        ending = path.suffix.lower()
        if any(is_clutter(part) for part in path.parts):
            continue
        if ending in READ_SUFFIXES:
            stem = path.stem
            if marks:
                stem = _unmarked(stem, suffix) or stem
            side.pictures.append(_Found(place, _fold(str(path.with_name(stem + ".x"))[:-2]), _fold(stem)))
        elif ending in PICTURE_SUFFIXES:
            side.not_read.append(place.uri)
    return side


def _below(place: Location, root: Location | None) -> str:
    return place.key.removeprefix(root.as_prefix().key) if root is not None else place.name


def _unmarked(stem: str, suffix: str | None) -> str | None:
    """The stem without what marks it as a mask; None if nothing does."""
    if suffix is not None:
        folded = _fold(stem)
        return stem[: -len(suffix)] if suffix and folded.endswith(_fold(suffix)) and len(stem) > len(suffix) else None
    bare = _MASK_MARK.sub("", stem, count=1)
    return bare if bare not in ("", stem) else None


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _matches(place: Location, root: Location | None, pattern: str) -> bool:
    return fnmatchcase(place.name, pattern) or fnmatchcase(_below(place, root), pattern)


def _id(template: str, image: Location, root: Location | None, number: int) -> str:
    path = PurePosixPath(_below(image, root))
    known = {
        "stem": path.stem,
        "name": path.name,
        "path": str(path.with_suffix("")).replace("/", "-"),
        "n": str(number),
    }
    try:
        asked = [name for _, name, spec, _ in string.Formatter().parse(template) if name is not None or spec]
    except ValueError as error:
        raise ConfigError(f"--id {template!r}: {error}") from None
    if any(name not in known for name in asked):
        raise ConfigError(f"--id {template!r}: it may hold {', '.join('{' + name + '}' for name in known)}")
    for name, value in known.items():
        template = template.replace("{" + name + "}", value) if name in asked else template
    return template


def read_prompts(data: bytes, *, key_column: str, prompt_column: str, max_bytes: int = 2**28) -> dict[str, str]:
    """Prompts by image name or stem, from a CSV with a header, in any form in which manifests may be.

    Raises ManifestError naming a missing column, or an image with two prompts.
    """
    prompts: dict[str, str] = {}
    data, _ = as_utf8(gunzipped(data, "the prompts file", max_bytes), "the prompts file", max_bytes)
    delimiter, start = delimiter_of(data, key_column, _RECORD_BYTES)
    records = csv_records(data, _RECORD_BYTES, delimiter=delimiter, start=start)
    try:
        first = next(records, (1, []))[1]
        header = [] if isinstance(first, TooLong) else [cell.strip() for cell in first]
        for column in (key_column, prompt_column):
            if column not in header:
                between = "" if delimiter == "," else f" (read with {DELIMITERS[delimiter]} between the columns)"
                raise ManifestError(
                    f"the prompts file has no column {column!r}; it has {', '.join(header[:20])}{between}"
                )
        keys, texts = header.index(key_column), header.index(prompt_column)
        for line, cells in records:
            if isinstance(cells, TooLong):
                raise ManifestError(f"line {line} of the prompts file is longer than {_RECORD_BYTES} bytes: shorten it")
            name, prompt = (cells[at] if at < len(cells) else "" for at in (keys, texts))
            name = PurePosixPath(name.strip().replace("\\", "/")).name
            if name and prompt and prompts.setdefault(name, prompt) != prompt:
                raise ManifestError(f"the prompts file has two prompts for {name!r}: keep one")
    except CsvError as error:
        raise ManifestError(f"the prompts file is not a UTF-8 CSV: line {error.line}: {error}") from None
    except NotUtf8Error as error:
        raise ManifestError(f"the prompts file is not a UTF-8 CSV: byte {error.position} is not UTF-8") from None
    return prompts
