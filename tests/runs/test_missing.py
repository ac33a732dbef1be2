"""Images and masks that are not there are found by few requests, on any layout of folders."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ObjectNotFoundError
from inpaint_ops.locations import Location
from inpaint_ops.manifest import ParsedManifest, read_manifest
from inpaint_ops.runs import Workspace, missing
from inpaint_ops.runs.missing import missing_objects
from inpaint_ops.storage import Storage

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client


class Counted(Storage):
    """Storage that counts what it is asked."""

    lists = stats = 0

    def list(self, where: Any, **options: Any) -> Iterator[Any]:
        self.lists += 1
        return super().list(where, **options)

    def stat(self, where: Any) -> Any:
        self.stats += 1
        return super().stat(where)


@pytest.mark.parametrize("ask_each", [False, True])
def test_a_folder_is_listed_once_and_only_what_it_lacks_is_asked_for(tmp_path: Path, ask_each: bool) -> None:
    for index in range(40):
        (tmp_path / f"{index}.png").touch()
    rows = [{"image": f"{index}.png", "mask": f"{index + 2}.png", "prompt": "x"} for index in range(40)]
    (tmp_path / "job.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    storage = Counted(readable=[tmp_path])
    workspace = Workspace(Settings(), Location(None, f"{tmp_path}/out/"), storage)
    parsed, _ = workspace.read_manifest(str(tmp_path / "job.jsonl"))
    missing = list(missing_objects(storage, parsed, ask_each=ask_each))
    assert [line[:13] for line in missing] == ["row 39: mask:", "row 40: mask:"]
    assert (storage.lists, storage.stats) == (1, 2)


def test_a_large_folder_of_few_wanted_files_is_not_listed_to_its_end(tmp_path: Path) -> None:
    for index in range(1200):
        (tmp_path / f"{index}.png").touch()
    (tmp_path / "job.jsonl").write_text(json.dumps({"image": "0.png", "mask": "none.png", "prompt": "x"}) + "\n")
    storage = Counted(readable=[tmp_path])
    workspace = Workspace(Settings(), Location(None, f"{tmp_path}/out/"), storage)
    parsed, _ = workspace.read_manifest(str(tmp_path / "job.jsonl"))
    assert list(missing_objects(storage, parsed, ask_each=False)) == [] and storage.stats == 0
    (line,) = missing_objects(storage, parsed, ask_each=True)
    assert line.startswith("row 1: mask: ") and storage.stats == 2
    with pytest.raises(ObjectNotFoundError):
        storage.stat(str(tmp_path / "none.png"))


@pytest.fixture
def storage(s3_client: S3Client, s3_prefix: Location) -> Counted:
    return Counted(writable=[s3_prefix], s3_client=lambda: s3_client)


def manifest_of(prefix: Location, pairs: Sequence[tuple[str, str]]) -> ParsedManifest:
    rows = ({"id": f"r{at}", "image": one, "mask": other, "prompt": "x"} for at, (one, other) in enumerate(pairs))
    lines = map(json.dumps, rows)
    return read_manifest("\n".join(lines).encode(), location=prefix.join("job.jsonl"), is_allowed=lambda _: True)


def lines_of(lines: Sequence[str]) -> list[str]:
    return [" ".join(line.split()[:3]) for line in lines]


def test_a_folder_for_each_of_many_products_costs_no_listing_each(
    storage: Counted, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "_FOLDERS", 5)
    monkeypatch.setattr(missing, "_KEYS", 20)
    pairs = [(f"shop/SKU{at:02d}/photo.png", f"shop/SKU{at:02d}/mask.png") for at in range(60)]
    for key in (key for pair in pairs for key in pair):
        if key not in {"shop/SKU07/mask.png", "shop/SKU59/photo.png"}:
            storage.put(s3_prefix.join(key), b"x")
    found = list(missing_objects(storage, manifest_of(s3_prefix, pairs), ask_each=False))
    assert lines_of(found) == ["row 8: mask:", "row 60: image:"]
    assert (storage.lists, storage.stats) == (6, 2)


def test_a_large_folder_is_listed_in_parts_beside_each_other(
    storage: Counted, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "PART", 20)
    pairs = [(f"in/{at:02d}.png", f"masks/{at // 5:02d}.png") for at in range(60)]
    for key in {key for pair in pairs for key in pair} - {"in/42.png", "masks/11.png"}:
        storage.put(s3_prefix.join(key), b"x")
    found = list(missing_objects(storage, manifest_of(s3_prefix, pairs), ask_each=False))
    assert lines_of(found) == ["row 43: image:", *(f"row {row}: mask:" for row in range(56, 61))]
    images, masks = 6, 10 + 1  # masks are wanted five times each, so 50 of them begin with a zero
    assert storage.lists == images + masks


def test_where_other_objects_are_far_more_nothing_is_listed_to_its_end(
    storage: Counted, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "_FOLDERS", 2)
    monkeypatch.setattr(missing, "_PAGE", 5)
    pairs = [(f"a{at}/photo.png", f"a{at}/mask.png") for at in range(4)]
    for at in range(4):
        for name in ("photo.png", "1.raw", "2.raw", "3.raw"):
            storage.put(s3_prefix.join(f"a{at}/{name}"), b"x")
    parsed = manifest_of(s3_prefix, pairs)
    assert list(missing_objects(storage, parsed, ask_each=False)) == [] and storage.stats == 0
    found = list(missing_objects(storage, parsed, ask_each=True))
    assert lines_of(found) == [f"row {at}: mask:" for at in range(1, 5)]


def test_what_lies_above_the_allowed_prefixes_is_not_listed(
    s3_client: S3Client, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "_FOLDERS", 1)
    roots = [s3_prefix.join("promo/"), s3_prefix.join("products/")]
    storage = Counted(writable=roots, s3_client=lambda: s3_client)
    for root in roots:
        storage.put(root.join("1/a.png"), b"x")
    pairs = [(f"{folder}/{at}/a.png", f"{folder}/1/a.png") for at in (1, 2) for folder in ("promo", "products")]
    parsed = manifest_of(s3_prefix, pairs)
    assert list(missing_objects(storage, parsed, ask_each=False)) == [], "one listing would have to be of both"
    assert lines_of(list(missing_objects(storage, parsed, ask_each=True))) == ["row 3: image:", "row 4: image:"]


@pytest.mark.parametrize("seed", range(12))
def test_on_any_layout_just_what_is_not_there_is_told(
    storage: Counted, s3_prefix: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    choices = {"_FOLDERS": (1, 3, 1000), "_KEYS": (1, 3, 1000), "PART": (2, 5, 1000), "_WAITING": (1, 2, 512)}
    for name, values in choices.items():
        monkeypatch.setattr(missing, name, chance.choice(values))
    if seed % 3 == 0:
        storage, s3_prefix = Counted(writable=[tmp_path]), Location(None, f"{tmp_path}/")
    parts = ["a", "ab", "b", "ü", "a b", "x+y", "cup-1", "cup-10"]
    folders = ["/".join(chance.choices(parts, k=chance.randint(1, 3))) for _ in range(40)]
    keys = [f"{folder}/{chance.choice(parts)}.png" for folder in folders]
    there = {key for key in keys if chance.random() < 0.7}
    for key in there | {f"other/{at}.png" for at in range(9)}:
        storage.put(s3_prefix.join(key), b"x")
    pairs = [(chance.choice(keys), chance.choice(keys)) for _ in range(40)]
    expected = [
        f"row {at}: {name}:"
        for at, pair in enumerate(pairs, 1)
        for name, key in zip(("image", "mask"), pair, strict=True)
        if key not in there
    ]
    parsed = manifest_of(s3_prefix, pairs)
    for ask_each in (True, False):
        assert lines_of(list(missing_objects(storage, parsed, ask_each=ask_each))) == expected
