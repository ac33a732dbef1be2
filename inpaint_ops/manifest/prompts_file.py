"""A table with a prompt for each image: which of its prompts is whose."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest.text import DELIMITERS, CsvError, NotUtf8Error, TooLong, csv_records, delimiter_of
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped

_RECORD_BYTES = 2**20


class ImagePrompts:
    """Prompts by what the table calls their images: a path, a file's name, or that without its ending."""

    def __init__(self, prompts: Mapping[str, str]) -> None:
        self._prompts = dict(prompts)
        self._by_name: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for named in self._prompts:
            parts = _parts(named)
            self._by_name[parts[-1]].append((parts, named))
        self._unused = dict.fromkeys(self._prompts)

    def of(self, image: Location, path: str) -> str | None:
        """The prompt of the image with that path below its prefix; None if there is none.

        A name in the table is the image's where it is the end of the image's place (`one/a.jpg` of `photos/one/a.jpg`)
        or ends with its whole path (`C:/catalogue/one/a.jpg` for `one/a.jpg`), with or without the ending of the file.
        The longest such name counts. Raises ManifestError where two of the same length have different prompts.
        """
        found: list[tuple[int, str]] = []
        for whole, below in (
            (_parts(image.key), _parts(path)),
            (_parts(_without_ending(image.key)), _parts(_without_ending(path))),
        ):
            for parts, named in self._by_name.get(whole[-1], ()):
                if whole[-len(parts) :] == parts or parts[-len(below) :] == below:
                    found.append((min(len(parts), len(whole)), named))
                    self._unused.pop(named, None)
            if found:
                break
        most = max((length for length, _ in found), default=0)
        names = [named for length, named in found if length == most]
        if len({self._prompts[named] for named in names}) > 1:
            shown = " and ".join(repr(named) for named in names[:3])
            raise ManifestError(f"{image.uri} could have any of the prompts of {shown}")
        return self._prompts[names[0]] if names else None

    @property
    def unused(self) -> tuple[str, ...]:
        """The names in the table that have been no image's so far."""
        return tuple(self._unused)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(fold(name).strip("/").split("/"))


def _without_ending(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name


def fold(name: str) -> str:
    """The name without what sets no two files apart for the people who name them: case, and the form of Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def read_prompts(data: bytes, *, key_column: str, prompt_column: str, max_bytes: int = 2**28) -> dict[str, str]:
    """Prompts by image, from a CSV with a header, in any form in which manifests may be.

    Raises ManifestError naming a missing column, or an image with two prompts.
    """
    prompts: dict[str, str] = {}
    written: dict[str, str] = {}
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
            if header.count(column) > 1:
                raise ManifestError(f"the prompts file has two columns {column!r}: rename one")
        keys, texts = header.index(key_column), header.index(prompt_column)
        for line, cells in records:
            if isinstance(cells, TooLong):
                raise ManifestError(f"line {line} of the prompts file is longer than {_RECORD_BYTES} bytes: shorten it")
            name, prompt = (cells[at] if at < len(cells) else "" for at in (keys, texts))
            name = str(PurePosixPath(name.strip().replace("\\", "/"))).strip("/")
            if not prompt or name in ("", "."):
                continue
            known = written.setdefault(fold(name), name)
            if prompts.setdefault(known, prompt) != prompt:
                raise ManifestError(f"the prompts file has two prompts for {name!r}: keep one")
    except CsvError as error:
        raise ManifestError(f"the prompts file is not a UTF-8 CSV: line {error.line}: {error}") from None
    except NotUtf8Error as error:
        raise ManifestError(f"the prompts file is not a UTF-8 CSV: byte {error.position} is not UTF-8") from None
    return prompts
