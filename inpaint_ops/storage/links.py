"""Which files of local folders are symbolic links: a folder of which very many files are asked for is listed once."""

from __future__ import annotations

import os

_ASKED_ONE_BY_ONE = 1_000
"""Files of a folder that are looked at one by one; from then on a listing costs less."""
_MOST_ENTRIES, _MOST_LINKS = 1_000_000, 10_000
"""What a listing goes through and keeps at most, so that neither its time nor its memory depends on the folder."""


class Links:
    """Whether files are symbolic links. What a listing said holds for as long as this is kept."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._listed: dict[str, frozenset[str] | None] = {}
        """By folder: the names of its links; None where it has too much for a listing, or cannot be listed."""

    def is_link(self, folder: str, name: str) -> bool:
        """Whether the folder's file of this name is a link; one that is not there is none."""
        asked = self._asked[folder] = self._asked.get(folder, 0) + 1
        if asked > _ASKED_ONE_BY_ONE:
            if folder not in self._listed:
                self._listed[folder] = _links_of(folder)
            links = self._listed[folder]
            if links is not None:
                return name in links
        return os.path.islink(f"{folder}/{name}")  # noqa: PTH114  # a Path costs more


def _links_of(folder: str) -> frozenset[str] | None:
    links = set()
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if entry.is_symlink():
                    links.add(entry.name)
                if count >= _MOST_ENTRIES or len(links) > _MOST_LINKS:
                    return None
    except OSError:
        return None
    return frozenset(links)
