"""A manifest from two prefixes, or one: images and masks matched by relative path, then by stem."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from inpaint_ops.errors import ConfigError, ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest.prompts_file import ImagePrompts, fold

READ_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .tif .tiff .bmp .dib .gif .jp2 .j2k .jpx .jpf .avif .heic .heif "
    ".jxl".split()
)
"""Endings of pictures that the worker reads, some with the extra `formats`."""
PICTURE_SUFFIXES = READ_SUFFIXES | frozenset(
    ".psd .psb .svg .eps .ai .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .tga .exr .hdr .ico .pcx .ppm .pgm .pbm .pnm "
    ".xcf .jxr .dds".split()
)
"""Endings of all that looks like a picture, also what no row can be made of."""
_MASK_MARK = re.compile(r"[ ._-]?(inpaint[ ._-]?)?masks?$|^masks?[ ._-]", re.IGNORECASE)
_IGNORED = frozenset({"thumbs.db", ".ds_store", ".gitkeep", "_success", "desktop.ini", "ehthumbs.db"})
_SHOWN_ENDINGS = 5
_NO_ENDING = "no ending"


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
    other_endings: Mapping[str, int] = field(default_factory=dict)
    """How many files have an ending that is no picture's, by ending, the most common first. Those without one are among
    them where none of them has a partner.
    """
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

    def left_out(self) -> Iterator[str]:
        """A line on the files whose names say that they are no pictures, if there are any."""
        if not self.other_endings:
            return
        shown = [f"{ending} ({number:,})" for ending, number in self.other_endings.items()]
        more = f" and {len(shown) - _SHOWN_ENDINGS:,} more" if len(shown) > _SHOWN_ENDINGS else ""
        yield (
            f"files left out, since their endings are not a picture's: {', '.join(shown[:_SHOWN_ENDINGS])}{more}; "
            "a picture among them needs another name, or a row written by hand"
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A picture: where it is, and what is compared of its name, without ending and folded."""

    location: Location
    path: str
    """Relative to its prefix."""
    stem: str
    path_of: str | None = None
    """The path of its image, if its name has the mark of a mask: `one/a` of `one/a_mask`."""
    stem_of: str | None = None


@dataclass(slots=True)
class _Side:
    pictures: list[_Found] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


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
    not matter. A name without an ending may be a picture's. A mask may have the very name of its image, whatever that
    ends with (`facemask.jpg`, `facemask.png`). Where both come from one prefix, masks are those with such a mark. What
    could be one of several is a clash, and no row. `pattern` is a glob for images' names or paths. `prompts` are by
    image (`ImagePrompts`); an image that none of them names has `prompt`. A row's id is `id_template` with {stem},
    {name}, {path} and {n}. Keys of the rows are full URIs. Raises ConfigError for a template that names something else.
    """
    image_root, mask_root = roots or (None, None)
    image_places, mask_places = _sides(list(images), list(masks), roots, mask_suffix)
    photos = _side(image_places, image_root, None, marks=False)
    if pattern is not None:
        photos.pictures = [one for one in photos.pictures if _matches(one.location, image_root, pattern)]
    drawn = _side(mask_places, mask_root, mask_suffix, marks=True)
    pairs, clashes, lone, left = _match(photos.pictures, drawn.pictures)
    others = photos.others + drawn.others
    if not any(_has_no_ending(one) for both in pairs for one in both):  # then README and its like are no pictures here
        others[_NO_ENDING] += sum(_has_no_ending(one) for one in (*lone, *left))
        lone, left = ([one for one in side if not _has_no_ending(one)] for side in (lone, left))
    texts = ImagePrompts(prompts or {})
    rows: list[dict[str, Any]] = []
    without_prompt = []
    for image, mask in pairs:
        try:
            text = texts.of(image.location, _below(image.location, image_root))
        except ManifestError as error:
            clashes.append(str(error))
            continue
        if text is None and prompt is None:
            without_prompt.append(image.location.uri)
            continue
        row = {"image": image.location.uri, "mask": mask.location.uri, "prompt": prompt if text is None else text}
        if id_template is not None:
            row["id"] = _id(id_template, image.location, image_root, len(rows) + 1)
        rows.append(row)
    for one in photos.pictures:  # theirs are no prompts without an image
        with suppress(ManifestError):
            texts.of(one.location, _below(one.location, image_root))
    return Pairing(
        rows=tuple(rows),
        images_alone=tuple(one.location.uri for one in lone),
        masks_alone=tuple(one.location.uri for one in left) if pattern is None else (),
        without_prompt=tuple(without_prompt),
        clashes=tuple(clashes),
        not_read=(*photos.not_read, *drawn.not_read),
        other_endings=dict((+others).most_common()) if pattern is None else {},
        prompts_unused=texts.unused,
    )


def _sides(
    images: list[Location], masks: list[Location], roots: tuple[Location, Location] | None, suffix: str | None
) -> tuple[list[Location], list[Location]]:
    """The pictures that are images, and those that are masks. None is both, though one prefix may lie below the other:
    a picture is on the side of the prefix that is nearer to it.
    """
    if roots is None:
        return images, masks
    image_root, mask_root = roots
    if image_root == mask_root:
        masks = _marked(images, suffix)
    elif image_root.bucket == mask_root.bucket and image_root.key.startswith(mask_root.key):
        nearer = set(images)
        return images, [place for place in masks if place not in nearer]
    nearer = set(masks)
    return [place for place in images if place not in nearer], masks


def _marked(places: list[Location], suffix: str | None) -> list[Location]:
    """Those with the mark of a mask. One that is nobody's mask and has a mask itself is an image: `facemask.jpg`
    beside `facemask_mask.png`.
    """
    stems = {place: PurePosixPath(place.name).stem for place in places}
    bare = {place: _unmarked(stem, suffix) for place, stem in stems.items()}
    known = {fold(stem) for stem in stems.values()}
    with_mask = {fold(stem) for stem in bare.values() if stem is not None}
    return [
        place
        for place, stem in bare.items()
        if stem is not None and (fold(stem) in known or fold(stems[place]) not in with_mask)
    ]


def _match(
    images: list[_Found], masks: list[_Found]
) -> tuple[list[tuple[_Found, _Found]], list[str], list[_Found], list[_Found]]:
    """Pairs, what clashes, and the images and masks that are left: first by path, then what remains by stem."""
    pairs: list[tuple[_Found, _Found]] = []
    clashes: list[str] = []
    for key in ("path", "stem"):
        by_name: dict[str, tuple[list[_Found], list[_Found]]] = defaultdict(lambda: ([], []))
        for one in images:
            by_name[getattr(one, key)][0].append(one)
        named_so = {getattr(mask, key) for mask in masks}
        for mask in masks:
            name, image_name = getattr(mask, key), getattr(mask, f"{key}_of")
            same, marked = name in by_name and by_name[name][0], image_name in by_name and by_name[image_name][0]
            if not marked or (same and image_name in named_so):
                by_name[name][1].append(mask)
                continue
            by_name[image_name][1].append(mask)
            if same:  # `face.jpg` and `face_mask.jpg` with the one mask `face_mask.png`: it may be either's
                by_name[image_name][0].extend(same)
        settled: set[Location] = set()
        for some_images, some_masks in by_name.values():
            if not some_images or not some_masks:
                continue
            if len(some_images) == len(some_masks) == 1 and some_images[0].location not in settled:
                pairs.append((some_images[0], some_masks[0]))
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
        if any(is_clutter(part) for part in path.parts) or (not ending and path.name.startswith(".")):
            continue
        if ending in READ_SUFFIXES or not ending:  # objects that are named by a digest or a number have none
            found = _Found(place, fold(str(path.parent / path.stem)), fold(path.stem))
            bare = _unmarked(path.stem, suffix) if marks else None
            if bare is not None:
                found = replace(found, path_of=fold(str(path.parent / bare)), stem_of=fold(bare))
            side.pictures.append(found)
        elif ending in PICTURE_SUFFIXES:
            side.not_read.append(place.uri)
        else:
            side.others[ending] += 1
    return side


def _has_no_ending(one: _Found) -> bool:
    return not PurePosixPath(one.location.name).suffix


def _below(place: Location, root: Location | None) -> str:
    return place.key.removeprefix(root.as_prefix().key) if root is not None else place.name


def _unmarked(stem: str, suffix: str | None) -> str | None:
    """The stem without what marks it as a mask; None if nothing does."""
    if suffix is not None:
        folded = fold(stem)
        return stem[: -len(suffix)] if suffix and folded.endswith(fold(suffix)) and len(stem) > len(suffix) else None
    bare = _MASK_MARK.sub("", stem, count=1)
    return bare if bare not in ("", stem) else None


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
