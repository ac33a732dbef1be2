"""What images are called below `images/`: a job's template, filled for each row with what may name a file anywhere.

A name is made of a row's source, which strangers may have named. So each is checked as a store, Windows and macOS would
take it, and no two rows may have names that one of them takes for one.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import string
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from inpaint_ops.config import EXTENSIONS
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest.formats import MANIFEST_ENDINGS, manifest_ending
from inpaint_ops.manifest.problems import BadRowError
from inpaint_ops.manifest.rows import RESERVED, AcceptedRow

PLACEHOLDERS: dict[str, str] = {
    "id": "the row's id",
    "stem": "the source's file name without its ending",
    "folder": "the source's folder: below the manifest's folder, or its whole path where it lies elsewhere",
    "k": "the number of the row's variant, from 0",
    "row": "the row's line in the manifest",
    "ext": "the ending of the row's format",
}
"""What a template may name."""

ENDING = ".{ext}"
"""How a template ends: the row's format decides."""

_PART_BYTES = 200
"""Of a file or folder, in UTF-8. File systems have 255, and a retry's number, a thumbnail's ending and so on follow."""
_NAME_BYTES = 500
"""Of the whole name. S3 has 1024 for a key, of which the store's prefix and the run's name are part."""
_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
"""What Windows has in no name."""
_RETRY = re.compile(r".*~[0-9]+", re.DOTALL)
"""How an image of a retry is called beside an earlier one: `<name>~<retry>`."""
_NO_CHARACTER = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of what is not seen, or is no character: control, format and line characters, surrogates."""


def why_no_name(name: str) -> str | None:
    """Why `name`, with its ending, may not be the key of an image below `images/`; None if it may."""
    if not name or name.startswith("/"):
        return "it is an absolute path"
    if len(name.encode(errors="replace")) > _NAME_BYTES:
        return f"it has more than {_NAME_BYTES} bytes"
    parts = name.split("/")
    if _RETRY.fullmatch(posixpath.splitext(parts[-1])[0]):
        return "it ends in '~' and a number, as the images of retries do"
    return next((why for part in parts if (why := _why_no_part(part))), None)


def _why_no_part(part: str) -> str | None:
    if part in ("", ".", ".."):
        return f"it has a part {part!r}"
    seen = next((one for one in part if unicodedata.category(one) in _NO_CHARACTER), None)
    if seen is not None:
        return f"it holds the character U+{ord(seen):04X}, which is not seen"
    if found := _FORBIDDEN.search(part):
        return f"it holds {found[0]!r}, which Windows has in no name"
    plain = unicodedata.normalize("NFKC", part)
    if plain in (".", "..") or _FORBIDDEN.search(plain) or "/" in plain:
        return f"{part!r} looks like {plain!r}"
    if part.startswith((".", " ")) or part.endswith((".", " ")):
        return f"{part!r} begins or ends with a dot or a space"
    if RESERVED.fullmatch(part):
        return f"Windows reserves {part!r} for a device"
    if part != unicodedata.normalize("NFC", part):
        return f"{part!r} is not composed (NFC)"
    return f"{part[:20]!r}… has more than {_PART_BYTES} bytes" if len(part.encode()) > _PART_BYTES else None


def check_template(template: str) -> str:
    """Return `template`. Raises ValueError where it names something else than `PLACEHOLDERS`, or is no plain key."""
    try:
        found = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}: braces stand around {_known()}") from None
    for _, name, form, conversion in found:
        if name not in PLACEHOLDERS or form or conversion:
            raise ValueError(f"{template!r} names {{{name or ''}{':' + form if form else ''}}}: there are {_known()}")
    if not template.endswith(ENDING):
        raise ValueError(f"{template!r} must end with {ENDING}: each row's format decides the ending")
    sample = OutputNames(template, Location(None, "/"))
    if why := why_no_name(sample.fill(id="a", stem="a", folder="a", k=0, row=1) + EXTENSIONS["png"]):
        raise ValueError(f"{template!r} makes no plain name below images/: {why}")
    return template


def _known() -> str:
    return ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def folder_of(manifest: str) -> Location:
    """The folder that a manifest's relative keys belong to; of a folder of Parquet files, that folder."""
    place = parse(manifest)
    is_folder = place.key.endswith("/") or manifest_ending(place.name) not in MANIFEST_ENDINGS
    return place.as_prefix() if is_folder else place.parent


@dataclass(frozen=True, slots=True)
class OutputNames:
    """A job's template, and the folder that `{folder}` counts from."""

    template: str
    folder: Location

    def fill(self, *, id: str, stem: str, folder: str, k: int, row: int, ext: str = "png") -> str:  # noqa: A002
        """The name without its ending. A part of the template that is an empty `{folder}` alone leaves no part."""
        values = {"id": id, "stem": stem, "folder": folder, "k": str(k), "row": str(row), "ext": ext}
        parts = []
        for part in self.template.removesuffix(ENDING).split("/"):
            if part != "{folder}" or folder:
                parts.append(part.format_map(values))
        return unicodedata.normalize("NFC", "/".join(parts))

    def names(self, row: AcceptedRow, variants: int = 1) -> tuple[str, ...]:
        """The names of the row's images, one for each variant, without their endings. Raises BadRowError.

        Where a row has several and the template no `{k}`, names end in `.0`, `.1` and so on.
        """
        return tuple(self.name(row, k, several=variants > 1) for k in range(variants))

    def name(self, row: AcceptedRow, k: int = 0, *, several: bool = False) -> str:
        """The name of the row's image, or of its variant `k` of several, without its ending. Raises BadRowError."""
        source, ending = parse(row.image), EXTENSIONS[row.output_format]
        below = self.folder.as_prefix().key
        is_below = self.folder.contains(source)
        key = source.key[len(below) :] if is_below else source.key.lstrip("/")
        name = self.fill(
            id=row.id, stem=posixpath.splitext(source.name)[0], folder=posixpath.dirname(key), k=k, row=row.row,
            ext=ending.removeprefix("."),
        )  # fmt: skip
        if several and "{k}" not in self.template:
            name += f".{k}"
        if why := why_no_name(name + ending):
            is_of_source = "{stem}" in self.template or "{folder}" in self.template
            raise BadRowError(
                f"{_shown(name + ending)} would be the name of its image ({self.template}), and {why}: "
                + ("rename the source, or name images by {id}" if is_of_source else "shorten the template or the id"),
                "image" if is_of_source else "id",
            )
        return name


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:119] + "…")


@dataclass(slots=True)
class TakenNames:
    """The names that rows have, as a store takes them that ignores case and how accents are written.

    Each costs a digest of 16 bytes and a number, and each of its folders too.
    """

    _files: dict[bytes, int] = field(default_factory=dict)
    _folders: dict[bytes, int] = field(default_factory=dict)

    def claim(self, name: str, row: int) -> int | None:
        """Take `name`, with its ending, for a row; or the other row that has it, or a folder or a file in its way."""
        folders = [_digest(name[:at]) for at, letter in enumerate(name) if letter == "/"]
        file = _digest(name)
        for other in (self._files.get(file), self._folders.get(file), *map(self._files.get, folders)):
            if other is not None and other != row:
                return other
        self._files[file] = row
        for one in folders:
            self._folders.setdefault(one, row)
        return None


def _digest(name: str) -> bytes:
    """Of a name as all stores take it that take some names for one: caseless matching of Unicode (D145)."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return hashlib.blake2b(folded.encode(), digest_size=16).digest()


def check_apart(named: Iterable[tuple[int, str]], template: str) -> None:
    """Raise ConfigError where two rows would have one name. `named`: each row's line and name, gone through twice."""
    taken = TakenNames()
    for row, name in named:
        other = taken.claim(name, row)
        if other is not None:
            first = next((name for number, name in named if number == other), "")
            same = (
                f"both be called {_shown(name)}"
                if first == name
                else (f"be called {_shown(first)} and {_shown(name)}, which not every store tells apart")
            )
            raise ConfigError(
                f"names: rows {other} and {row} would {same} ({template}): add {{id}} or {{row}} to the template, "
                "which no two rows share, or rename one source"
            )
