"""The same name in other Unicode characters: `é` is one character in NFC, a letter and an accent in NFD.

macOS writes names decomposed, most others composed, and a store keeps what it was given: two keys that look alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from itertools import islice, takewhile

_LOOKED_AT = 1000
"""Keys of a folder that are compared: one page of a listing."""


def forms(key: str) -> dict[str, str]:
    """The key composed (NFC) and decomposed (NFD); empty where both are one, as for every key in ASCII."""
    both = {form: unicodedata.normalize(form, key) for form in ("NFC", "NFD")}
    return both if len(set(both.values())) > 1 else {}


def find_twin(
    key: str, exists: Callable[[str], bool], listed: Callable[[str], Iterable[str]]
) -> tuple[str, str] | None:
    """An existing key that looks like the missing `key`, and its form; None if no such key exists.

    `listed` gives the keys below a folder, which is asked where folders and files are written in different forms.
    """
    candidates = forms(key)
    if not candidates:
        return None
    for form, twin in candidates.items():
        if twin != key and exists(twin):
            return twin, form
    parts = zip(*(one.split("/") for one in (key, *candidates.values())), strict=True)
    folder = "".join(f"{same[0]}/" for same in takewhile(lambda same: len(set(same)) == 1, parts))
    for found in islice(listed(folder), _LOOKED_AT):
        if unicodedata.normalize("NFC", found) == candidates["NFC"]:
            return found, "a mixture of NFC and NFD"
    return None
