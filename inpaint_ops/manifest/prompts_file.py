"""A table with a prompt for each image: which of its prompts is whose."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import PurePosixPath

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest import excel
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.text import DELIMITERS, CsvError, NotUtf8Error, TooLong, csv_records, delimiter_of
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped
from inpaint_ops.manifest.values import as_text
from inpaint_ops.wording import counted

_RECORD_BYTES = 2**20
_ZIP = b"PK\x03\x04"
_NAME = "the prompts file"


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


def read_prompts(
    data: bytes, *, key_column: str, prompt_column: str, max_bytes: int = 2**28, notes: Notes | None = None
) -> dict[str, str]:
    """Prompts by image, from a CSV with a header or an Excel workbook, in any form in which manifests may be.

    What is read in another way than it stands is noted in `notes`. Raises ManifestError naming a missing column, or an
    image with two prompts.
    """
    prompts: dict[str, str] = {}
    written: dict[str, str] = {}
    notes = Notes() if notes is None else notes
    nameless = 0
    data = gunzipped(data, _NAME, max_bytes)
    if data.startswith(_ZIP):
        rows = _excel_rows(data, (key_column, prompt_column), max_bytes, notes)
        between = ""
    else:
        data, _ = as_utf8(data, _NAME, max_bytes)
        delimiter, start = delimiter_of(data, key_column, _RECORD_BYTES)
        rows = _csv_rows(data, delimiter, start)
        between = "" if delimiter == "," else f" (read with {DELIMITERS[delimiter]} between the columns)"
    with closing(rows):
        header = [cell.strip() for cell in next(rows, (1, []))[1]]
        for column in (key_column, prompt_column):
            if column not in header:
                raise ManifestError(f"{_NAME} has no column {column!r}; it has {', '.join(header[:20])}{between}")
            if header.count(column) > 1:
                raise ManifestError(f"{_NAME} has two columns {column!r}: rename one")
        keys, texts = header.index(key_column), header.index(prompt_column)
        for _, cells in rows:
            name, prompt = (cells[at] if at < len(cells) else "" for at in (keys, texts))
            name = str(PurePosixPath(name.strip().replace("\\", "/"))).strip("/")
            if not prompt or name in ("", "."):
                nameless += bool(prompt)
                continue
            known = written.setdefault(fold(name), name)
            if prompts.setdefault(known, prompt) != prompt:
                raise ManifestError(f"{_NAME} has two prompts for {name!r}: keep one")
    if nameless:
        notes.add(f"{_NAME}: {counted(nameless, 'row has', 'rows have')} a prompt and no {key_column!r}")
    return prompts


def _csv_rows(data: bytes, delimiter: str, start: int) -> Generator[tuple[int, list[str]], None, None]:
    """The header's cells and each record's, with their lines."""
    try:
        for line, cells in csv_records(data, _RECORD_BYTES, delimiter=delimiter, start=start):
            if isinstance(cells, TooLong):
                raise ManifestError(f"line {line} of {_NAME} is longer than {_RECORD_BYTES} bytes: shorten it")
            yield line, cells
    except CsvError as error:
        raise ManifestError(f"{_NAME} is not a UTF-8 CSV: line {error.line}: {error}") from None
    except NotUtf8Error as error:
        raise ManifestError(f"{_NAME} is not a UTF-8 CSV: byte {error.position} is not UTF-8") from None


def _excel_rows(
    data: bytes, columns: tuple[str, str], max_bytes: int, notes: Notes
) -> Generator[tuple[int, list[str]], None, None]:
    """The same of the first sheet that has the key column, which is the first of `columns`, with numbers as their
    digits. Raises ManifestError where a formula in one of them has no result.
    """
    header: list[str] = []
    lines = excel.read_lines(data, max_bytes=max_bytes, max_row_bytes=_RECORD_BYTES, column=columns[0])
    with closing(lines):
        for line in lines:
            if "error" in line:
                raise ManifestError(f"{_NAME}: {line['error']}")
            if "note" in line:
                notes.add(f"{_NAME}: {line['note']}")
            elif "header" in line:
                header = [str(cell) for cell in line["header"]]
                yield 0, header
            elif "bad" in line:
                raise ManifestError(f"row {line['number']} of {_NAME} is {line['bad']}: shorten it")
            elif "cells" in line:
                missing = [header[at] for at in line.get("not_calculated", ()) if header[at] in columns]
                if missing:
                    raise ManifestError(f"row {line['number']} of {_NAME}: {missing[0]}: {excel.NOT_CALCULATED}")
                yield line["number"], ["" if cell is None else str(as_text(cell)) for cell in line["cells"]]
