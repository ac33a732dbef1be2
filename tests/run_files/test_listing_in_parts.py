"""A long listing on S3 is asked for in parts, side by side; a run is seen as by one listing of everything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inpaint_ops.errors import AccessDeniedError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.planning import Plan, naming
from inpaint_ops.run_files import inventory
from inpaint_ops.run_files.inventory import ListedImages, list_records, prefixes_of_run
from inpaint_ops.runs import finish, retrying, unfinished_shards
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, listed_in_parts
from tests.support.bench import Bench
from tests.support.retry_desk import DONE, FAILED, Desk
from tests.support.scripted_store import BUCKET, ScriptedStore

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of five objects already, listings are asked for in parts; which were asked for."""
    for module in (inventory, naming):
        monkeypatch.setattr(module, "PART", 4)
    asked: list[str] = []
    look = Storage.list

    def noted(self: Storage, where: Location, **more: Any) -> Iterator[ObjectInfo]:
        if more.get("starting"):
            asked.append(f"{where.name}/{more['starting']}")
        return look(self, where, **more)

    monkeypatch.setattr(Storage, "list", noted)
    return asked


@pytest.fixture
def store(s3_client: S3Client, s3_prefix: Location) -> Storage:
    return Storage(writable=[s3_prefix], s3_client=lambda: s3_client)


def on_s3(folder: Path, prefix: Location, client: S3Client, prompts: list[str], **more: Any) -> Bench:
    return Bench(folder, prompts, store=prefix.uri, s3_client=lambda: client, **more)


def test_records_in_parts_are_those_of_one_listing_and_what_else_lies_there_is_said(
    store: Storage, s3_prefix: Location, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = RunLayout(s3_prefix, "run")
    shards = {"00000": 3, "00001": 3, "00002": 3, "00010": 30, "00000r0001_0123abcd": 2, "rejected": 1}
    rows = {shard: [9 * at + 1, 9 * at + 2] for at, shard in enumerate(shards)}
    odd = ["stray", "00001/note.txt", "99999/0000001.json", "00002/deep/1.json"]
    for name in [*(f"{shard}/{row:07d}.json" for shard, some in rows.items() for row in some), *odd]:
        store.put(layout.records.join(name), name.encode())

    def seen() -> tuple[dict[str, dict[int, tuple[int, int]]], list[str]]:
        left = Leftovers()
        found = list_records(store, layout, shards, left, limit=1000)
        return {shard: one.by_row() for shard, one in found.items()}, sorted(left.lines())

    in_parts = seen()
    assert sorted(parts) == [
        "records/00000/", "records/00000r0001_0123abcd/", "records/00001/", "records/00002/", "records/00010/",
        "records/99999/", "records/rejected/",
    ]  # fmt: skip
    monkeypatch.setattr(inventory, "PART", 1000)
    assert seen() == in_parts
    assert len(parts) == 7
    assert {shard: sorted(found) for shard, found in in_parts[0].items()} == rows
    assert [[name for name in odd if name in line] for line in in_parts[1]] == [[one] for one in sorted(odd, key=str)]


def test_a_store_that_heeds_no_delimiter_shows_all_records_all_the_same(parts: list[str]) -> None:
    layout = RunLayout(Location(BUCKET, "out/"), "run")
    names = [f"{shard}/{row:07d}.json" for shard, row in (("00000", 1), ("00000", 2), ("00001", 3))]
    with ScriptedStore({layout.records.key + name: name.encode() for name in names}) as store:
        left = Leftovers()
        found = list_records(store.storage(), layout, {"00000": 4, "00001": 4}, left, limit=100)
    assert {shard: sorted(one.by_row()) for shard, one in found.items()} == {"00000": [1, 2], "00001": [3]}
    assert not left.lines() and not parts


def test_folders_beyond_the_limit_are_said(
    store: Storage, s3_prefix: Location, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "MAX_OBJECTS", 2)
    layout, left = RunLayout(s3_prefix, "run"), Leftovers()
    for shard in ("00000", "00001", "00002"):
        store.put(layout.records.join(f"{shard}/0000001.json"), b"x")
    list_records(store, layout, {"00000": 9}, left, limit=100)
    assert [line for line in left.lines() if "more than 2 folders" in line]


def test_images_in_parts_are_those_of_one_listing(store: Storage, s3_prefix: Location, parts: list[str]) -> None:
    layout = RunLayout(s3_prefix, "run")
    names = ["1.png", "1~2.png", "10.png", "2.0.png", "2.1.png", "a/1.png", "a/ü.png", "b.png"]
    for size, name in enumerate(names):
        store.put(layout.images.join(name), b"x" * size)
    asked = [layout.images.key + name for name in [*names, "3.png", "1.webp"]]
    whole = ListedImages.of(store, layout, (), Leftovers(), limit=100)
    found = ListedImages.of(store, layout, ("1", "2", "a/", "b"), Leftovers(), limit=100)
    assert found.sizes_of(asked) == whole.sizes_of(asked) == [*range(8), None, None]
    assert sorted(parts) == ["images/1", "images/2", "images/a/", "images/b"]


def test_parts_are_listed_beside_each_other_and_come_in_order(
    store: Storage, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a1", "a2", "b1", "c1"):
        store.put(s3_prefix.join(name), b"")
    both, look = threading.Barrier(2, timeout=60), Storage.list

    def met(self: Storage, where: Location, **more: Any) -> Iterator[ObjectInfo]:
        if more["starting"] in "ab":
            both.wait()  # for the other part, which nobody would ask for were this one to end first
        return look(self, where, **more)

    monkeypatch.setattr(Storage, "list", met)
    found = listed_in_parts(
        store, s3_prefix, "abc", lambda infos: sorted(one.location.name for one in infos), Leftovers()
    )
    assert list(found) == [["a1", "a2"], ["b1"], ["c1"]]


def test_a_limit_holds_for_all_parts_together(store: Storage, s3_prefix: Location) -> None:
    for name in ("a1", "a2", "a3", "b1", "b2", "b3"):
        store.put(s3_prefix.join(name), b"")
    left = Leftovers()
    assert sum(listed_in_parts(store, s3_prefix, "ab", lambda infos: len(list(infos)), left, limit=4)) == 4
    assert left.lines() == (f"{s3_prefix} holds more than 4 objects: the others were not looked at.",)
    left = Leftovers()
    assert sum(listed_in_parts(store, s3_prefix, "ab", lambda infos: len(list(infos)), left, limit=6)) == 6
    assert left.lines() == ()


def test_a_part_that_is_refused_fails_the_listing(
    store: Storage, s3_prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Storage.list

    def refused(self: Storage, where: Location, **more: Any) -> Iterator[ObjectInfo]:
        if more["starting"] == "b":
            raise AccessDeniedError("no")
        return look(self, where, **more)

    monkeypatch.setattr(Storage, "list", refused)
    with pytest.raises(AccessDeniedError):
        list(listed_in_parts(store, s3_prefix, "abcdefghijklmnop", list, Leftovers()))


@pytest.mark.usefixtures("no_gallery")
def test_a_run_that_goes_on_and_a_report_see_what_they_see_by_one_listing(
    tmp_path: Path, s3_client: S3Client, s3_prefix: Location, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = on_s3(tmp_path, s3_prefix, s3_client, ["ok"] * 10, shard_rows=10)
    assert bench.plan.image_prefixes == tuple("0123456789")
    bench.shard_run().run()
    assert unfinished_shards(bench.workspace, bench.plan) == []
    assert sorted(part for part in parts if part.startswith("images/")) == [f"images/{at}" for at in range(10)]
    assert finish(bench.workspace, "run").counts.done == 10
    results = bench.workspace.storage.get(bench.layout.results)
    monkeypatch.setattr(inventory, "prefixes_of_run", lambda *_: ())
    assert finish(bench.workspace, "run").counts.done == 10
    assert bench.workspace.storage.get(bench.layout.results) == results
    monkeypatch.undo()
    bench.workspace.storage.delete(bench.layout.image("7", ".png"))
    assert unfinished_shards(bench.workspace, bench.plan) == list(bench.plan.shards)


@pytest.mark.usefixtures("no_gallery")
@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, tuple("0123456789")), ("shop/x-{stem}-{k}.{ext}", tuple(f"shop/x-{at}" for at in range(10)))],
)
def test_names_by_a_template_and_of_variants_are_covered(
    tmp_path: Path, s3_client: S3Client, s3_prefix: Location, parts: list[str], names: str | None, expected: tuple[str]
) -> None:
    bench = on_s3(tmp_path, s3_prefix, s3_client, ["ok"] * 10, shard_rows=10, variants=2, names=names)
    assert [one.removesuffix("-") for one in bench.plan.image_prefixes] == list(expected)
    bench.shard_run().run()
    parts.clear()
    summary = finish(bench.workspace, "run")
    assert (summary.counts.done, summary.images) == (10, 20)
    assert len([part for part in parts if part.startswith("images/")]) == 10


def test_a_row_that_was_rejected_and_is_done_again_has_a_prefix_of_its_own(
    tmp_path: Path, s3_client: S3Client, s3_prefix: Location, parts: list[str]
) -> None:
    desk = Desk(tmp_path, store=s3_prefix.uri, s3_client=lambda: s3_client)
    desk.run(a=DONE, b=FAILED, c=DONE, d=DONE, e=DONE)
    desk.finish_retry(desk.ask("failed"))
    corrected = desk.write(tmp_path / "in" / "again.jsonl", [{"id": "f"}])
    again = desk.ask("rejected", manifest=corrected)
    desk.finish_retry(again)
    plan, storage = desk.workspace.plan("job"), desk.workspace.storage
    assert plan is not None and again.retry is not None
    assert plan.image_prefixes == tuple("abcde") and again.retry.image_prefixes == ("f",)
    parts.clear()
    summary = finish(desk.workspace, "job")
    assert (summary.counts.done, summary.verdict) == (6, "VALID")
    assert sorted(part for part in parts if part.startswith("images/")) == [f"images/{name}" for name in "abcdef"]
    place = desk.workspace.layout("job").retry(2)
    written = json.loads(storage.get(place))
    del written["image_prefixes"]  # as an earlier version wrote it
    storage.put(place, json.dumps(written).encode())
    parts.clear()
    assert finish(desk.workspace, "job").counts.done == 6
    assert not [part for part in parts if part.startswith("images/")]


def test_prefixes_are_known_where_all_plans_know_theirs(tmp_path: Path) -> None:
    plan: Plan = Bench(tmp_path, ["ok"]).plan
    assert plan.image_prefixes == () and prefixes_of_run(plan, []) == ()
    many = plan.model_copy(update={"image_prefixes": ("a", "b1")})
    assert prefixes_of_run(many, []) == ("a", "b1")
    assert retrying._image_prefixes([], plan) == ()
