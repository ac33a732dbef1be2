"""Keys that look alike and are written in other Unicode characters: named where one of them is missing."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from inpaint_ops.errors import ObjectNotFoundError
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage

COMPOSED = unicodedata.normalize("NFC", "café/crème brûlée.png")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
MIXED = unicodedata.normalize("NFC", "café/") + unicodedata.normalize("NFD", "crème brûlée.png")


@pytest.mark.parametrize(
    ("stored", "asked", "form"),
    [
        (COMPOSED, DECOMPOSED, "NFC"),
        (DECOMPOSED, COMPOSED, "NFD"),
        (MIXED, COMPOSED, "mixture"),
        (COMPOSED, MIXED, "NFC"),
        (unicodedata.normalize("NFD", "가나.png"), "가나.png", "NFD"),
        ("Å.png", "\u212b.png", "NFC"),
    ],
)
def test_the_twin_is_named_by_its_characters(
    storage: Storage, prefix: Location, stored: str, asked: str, form: str, tmp_path: Path
) -> None:
    storage.put(prefix.join(stored), b"x")
    for read in (storage.get, storage.stat, lambda where: storage.download(where, tmp_path / "copy")):
        with pytest.raises(ObjectNotFoundError, match="as it is stored") as caught:
            read(prefix.join(asked))
        assert ascii(prefix.join(stored).key) in str(caught.value)
        assert form in str(caught.value)
    assert not storage.exists(prefix.join(asked)), "two keys stay two keys"
    storage.put(prefix.join(asked), b"y", if_absent=True)
    assert storage.get(prefix.join(stored)) == b"x"


@pytest.mark.parametrize("asked", [COMPOSED, "plain.png", "日本.png"])
def test_where_there_is_no_twin_none_is_named(storage: Storage, prefix: Location, asked: str) -> None:
    storage.put(prefix.join("other.png"), b"x")
    with pytest.raises(ObjectNotFoundError) as caught:
        storage.get(prefix.join(asked))
    assert str(caught.value) == f"there is no object {prefix.join(asked)}"


def test_what_may_not_be_read_is_not_looked_for(storage: Storage, prefix: Location) -> None:
    storage.put(prefix.join(DECOMPOSED), b"x")
    folder = prefix.join(COMPOSED).parent
    reader = Storage(readable=[folder], s3_client=storage._make_client)
    with pytest.raises(ObjectNotFoundError) as caught:
        reader.get(prefix.join(COMPOSED))
    assert "stored" not in str(caught.value)
