"""What calamine leaves out of a sheet: cells that hold an error, formulas without a result, and hidden rows.

It reads an error (`#N/A`) and a formula that was never calculated as an empty cell, and a row would be painted as if
nothing stood there. They are looked for in the sheet's own XML (ECMA-376, part 1, 18.3.1.4 and 18.3.1.73).
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

_BOOK, _RELATIONS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels"
_MAY_MATTER = re.compile(rb"""<(\w+:)?f\b|\s(t\s*=\s*["']e["']|hidden\s*=)""")
_LONGEST_ERROR = 40
"""Characters. `#GETTING_DATA` is the longest known one."""

Cell = tuple[int, int]
"""A row and a column, from 0."""


@dataclass(frozen=True, slots=True)
class OddCells:
    """Of a sheet, by position."""

    errors: dict[Cell, str] = field(default_factory=dict)
    """The error that a cell holds: `#N/A`; whatever the file says."""
    not_calculated: set[Cell] = field(default_factory=set)
    """Formulas whose result the file does not hold, as programs write them that do not calculate."""
    hidden_rows: set[int] = field(default_factory=set)
    """Rows that hold something and are not shown, by a filter or by hand."""


def odd_cells(archive: zipfile.ZipFile, sheet: str) -> OddCells | None:
    """The odd cells of the sheet of this name; None where it is not found in the archive.

    Raises zipfile.BadZipFile and expat.ExpatError for a damaged one.
    """
    try:
        data = archive.read(_part(archive, sheet))
    except KeyError:
        return None
    reader = _Reader()
    if _MAY_MATTER.search(data):
        _parse(data, reader.begin, reader.end, reader.text)
    return reader.found


def _part(archive: zipfile.ZipFile, sheet: str) -> str:
    """The name of the file that holds a sheet. Raises KeyError."""
    parts: dict[str, str] = {}
    targets: dict[str, str] = {}

    def sheets(name: str, given: dict[str, str]) -> None:
        if name == "sheet":
            by_name = {_local(key): value for key, value in given.items()}
            parts[by_name.get("name", "")] = by_name.get("id", "")

    def relations(name: str, given: dict[str, str]) -> None:
        if name == "Relationship":
            targets[given.get("Id", "")] = given.get("Target", "")

    _parse(archive.read(_BOOK), sheets)
    _parse(archive.read(_RELATIONS), relations)
    return posixpath.normpath(posixpath.join("/xl", targets[parts[sheet]])).lstrip("/")


class _Reader:
    """Takes a sheet's elements in order."""

    def __init__(self) -> None:
        self.found = OddCells()
        self._row = self._column = -1
        self._is_hidden = self._is_formula = self._is_value = False
        self._type = ""
        self._text = ""

    def begin(self, name: str, given: dict[str, str]) -> None:
        if name == "row":
            self._row = int(given["r"]) - 1 if "r" in given else self._row + 1
            self._column = -1
            self._is_hidden = given.get("hidden") in ("1", "true")
        elif name == "c":
            self._column = _column(given["r"]) if "r" in given else self._column + 1
            self._type, self._text, self._is_formula = given.get("t", "n"), "", False
        elif name == "f":
            self._is_formula = True
        elif name in ("v", "t"):
            self._is_value = True

    def text(self, text: str) -> None:
        if self._is_value and len(self._text) < _LONGEST_ERROR:
            self._text += text[:_LONGEST_ERROR]

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            self._is_value = False
        elif name == "c":
            at, has_none = (self._row, self._column), not self._text.strip()
            if self._type == "e":
                self.found.errors[at] = self._text.strip()
            elif self._is_formula and has_none and self._type == "n":  # the result of a `str` may be ""
                self.found.not_calculated.add(at)
            if self._is_hidden and (self._text or self._is_formula):
                self.found.hidden_rows.add(self._row)


def _column(reference: str) -> int:
    """The column of `AB12`: 27."""
    number = 0
    for letter in reference[:3].upper():
        if not "A" <= letter <= "Z":
            break
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _parse(
    data: bytes,
    begin: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None] | None = None,
    text: Callable[[str], None] | None = None,
) -> None:
    """Hand over elements by their names without a prefix."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, given: begin(_local(name), given)
    if end is not None:
        parser.EndElementHandler = lambda name: end(_local(name))
    parser.CharacterDataHandler = text
    parser.Parse(data, True)
