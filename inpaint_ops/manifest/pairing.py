"""A manifest from two prefixes: images and masks matched by stem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest.text import CsvError, NotUtf8Error, TooLong, csv_records

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
_RECORD_BYTES = 2**20
_MASK_SUFFIX = re.compile(r"[._-]?mask$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Rows for a manifest, and what found no partner."""

    rows: tuple[dict[str, Any], ...]
    images_alone: tuple[str, ...]
    masks_alone: tuple[str, ...]
    without_prompt: tuple[str, ...]


def pair(
    images: Iterable[Location],
    masks: Iterable[Location],
    *,
    prompt: str | None,
    prompts: Mapping[str, str] | None = None,
) -> Pairing:
    """Match images and masks by stem (`a.jpg` with `a.png`, `a_mask.png` or `a-mask.png`), in order of the stem.

    A row's prompt is `prompts[stem]` (or `prompts[file name]`), else `prompt`. Keys of the rows are full URIs.
    """
    by_stem = _by_stem(images, mask=False)
    mask_by_stem = _by_stem(masks, mask=True)
    rows, without_prompt = [], []
    for stem in sorted(by_stem.keys() & mask_by_stem.keys()):
        image, mask = by_stem[stem], mask_by_stem[stem]
        text = (prompts or {}).get(image.name, (prompts or {}).get(stem, prompt))
        if text is None:
            without_prompt.append(image.uri)
            continue
        rows.append({"image": image.uri, "mask": mask.uri, "prompt": text})
    return Pairing(
        tuple(rows),
        tuple(by_stem[stem].uri for stem in sorted(by_stem.keys() - mask_by_stem.keys())),
        tuple(mask_by_stem[stem].uri for stem in sorted(mask_by_stem.keys() - by_stem.keys())),
        tuple(without_prompt),
    )


def _by_stem(found: Iterable[Location], *, mask: bool) -> dict[str, Location]:
    stems: dict[str, Location] = {}
    for location in sorted(found, key=lambda place: place.key):
        path = PurePosixPath(location.name)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        stem = _MASK_SUFFIX.sub("", path.stem) if mask else path.stem
        if stem in stems:
            raise ManifestError(f"{stems[stem]} and {location} have one stem: rename one, or make the manifest by hand")
        stems[stem] = location
    return stems


def read_prompts(data: bytes, *, key_column: str, prompt_column: str) -> dict[str, str]:
    """Prompts by image name or stem, from a CSV with a header.

    Raises ManifestError naming a missing column, or an image with two prompts.
    """
    prompts: dict[str, str] = {}
    records = csv_records(data, _RECORD_BYTES)
    try:
        first = next(records, (1, []))[1]
        header = [] if isinstance(first, TooLong) else first
        for column in (key_column, prompt_column):
            if column not in header:
                raise ManifestError(f"the prompts file has no column {column!r}; it has {', '.join(header[:20])}")
        keys, texts = header.index(key_column), header.index(prompt_column)
        for line, cells in records:
            if isinstance(cells, TooLong):
                raise ManifestError(f"line {line} of the prompts file is longer than {_RECORD_BYTES} bytes: shorten it")
            name, prompt = (cells[at] if at < len(cells) else "" for at in (keys, texts))
            name = PurePosixPath(name).name
            if name and prompt and prompts.setdefault(name, prompt) != prompt:
                raise ManifestError(f"the prompts file has two prompts for {name!r}: keep one")
    except CsvError as error:
        raise ManifestError(f"the prompts file is not a UTF-8 CSV: line {error.line}: {error}") from None
    except NotUtf8Error as error:
        raise ManifestError(f"the prompts file is not a UTF-8 CSV: byte {error.position} is not UTF-8") from None
    return prompts
