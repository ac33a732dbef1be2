"""A run that goes on looks at its store once, and leaves alone the shards of which every row has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpaint_ops.runs import finish, unfinished_shards
from inpaint_ops.storage import Storage
from tests.support.bench import Bench


def test_a_new_run_has_all_of_its_shards_left_and_one_listing_finds_that_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    asked: list[str] = []
    look = Storage.list
    monkeypatch.setattr(
        Storage, "list", lambda self, where, **more: (asked.append(str(where)), look(self, where, **more))[1]
    )
    assert unfinished_shards(bench.workspace, bench.plan) == bench.plan.shards
    assert [place.rpartition("run/")[2] for place in asked] == ["compacted/"]


def test_a_shard_whose_rows_have_ended_is_not_left_and_neither_rows_nor_records_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, ["ok", "fail", "ok"])
    bench.shard_run().run()
    read: list[str] = []
    get = Storage.get
    monkeypatch.setattr(
        Storage, "get", lambda self, where, **more: (read.append(str(where)), get(self, where, **more))[1]
    )
    assert unfinished_shards(bench.workspace, bench.plan) == []
    assert [place.rpartition("run/")[2] for place in read] == [
        "shards/retry-0001.json",
        "compacted/00000.ended.json",
    ]


@pytest.mark.parametrize("lost", ["image", "record", "forged"])
def test_a_shard_with_a_row_that_does_not_count_is_left(tmp_path: Path, lost: str) -> None:
    bench = Bench(tmp_path, ["ok", "ok", "ok"])
    bench.shard_run().run()
    place = Path(bench.layout.record("00000", 2).key)
    record = json.loads(place.read_bytes())
    if lost == "image":
        Path(record["output"]["uri"]).unlink()
    elif lost == "record":
        place.unlink()
    else:
        place.write_text(json.dumps(record | {"id": "another"}))
    assert unfinished_shards(bench.workspace, bench.plan) == list(bench.plan.shards)
    assert bench.shard_run().run().done == 1
    assert unfinished_shards(bench.workspace, bench.plan) == []


def damaged(text: str, how: str) -> str:
    """What says that a shard has ended, less what it needs."""
    ended = json.loads(text)
    if how == "cut":
        return text[:-9]
    if how == "another size":
        ended["sizes"][0] += 1
    elif how == "another etag":
        ended["etags"][0] = "0" * 32
    elif how == "another image":
        ended["images"][0] = "another.png"
    elif how == "a row less":
        ended = {name: values[1:] if name in ("rows", "etags", "sizes") else values for name, values in ended.items()}
    elif how == "a row twice":
        ended["rows"][1] = ended["rows"][0]
    elif how == "another shard's row":
        ended["rows"][0] = 99
    elif how == "out of step":
        ended["images"] = []
    else:
        ended = {}
    return json.dumps(ended)


@pytest.mark.parametrize(
    "how",
    ["cut", "another size", "another etag", "another image", "a row less", "a row twice", "another shard's row",
     "out of step", "empty"],
)  # fmt: skip
def test_what_does_not_say_what_the_store_lists_costs_the_reading_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    bench = Bench(tmp_path, ["ok", "fail", "ok"])
    bench.shard_run().run()
    place = Path(bench.layout.ended_shard("00000").key)
    place.write_text(damaged(place.read_text(), how))
    read: list[str] = []
    get = Storage.get
    monkeypatch.setattr(
        Storage, "get", lambda self, where, **more: (read.append(str(where)), get(self, where, **more))[1]
    )
    assert unfinished_shards(bench.workspace, bench.plan) == []
    assert [name for name in read if name.endswith("compacted/00000.jsonl.gz")]


def test_a_shard_with_variants_has_ended_with_the_images_of_all_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"], variants=2)
    bench.shard_run().run()
    ended = json.loads(Path(bench.layout.ended_shard("00000").key).read_text())
    assert len(ended["images"]) == 4
    assert unfinished_shards(bench.workspace, bench.plan) == []
    Path(bench.layout.images.key, ended["images"][1]).unlink()
    assert unfinished_shards(bench.workspace, bench.plan) == list(bench.plan.shards)


@pytest.mark.usefixtures("no_gallery")
def test_a_shard_that_is_said_to_have_ended_and_has_not_is_looked_at_again_after_a_report(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"])
    bench.shard_run().run()
    place = Path(bench.layout.record("00000", 2).key)
    place.write_text(json.dumps(json.loads(place.read_bytes()) | {"id": "another"}))
    there = bench.workspace.storage.stat(place)
    said = Path(bench.layout.ended_shard("00000").key)
    ended = json.loads(said.read_text())
    ended["etags"][1], ended["sizes"][1] = there.etag, there.size
    said.write_text(json.dumps(ended))
    assert unfinished_shards(bench.workspace, bench.plan) == [], "whoever writes to the store can hide a shard"
    assert finish(bench.workspace, "run").verdict == "INVALID"
    assert unfinished_shards(bench.workspace, bench.plan) == list(bench.plan.shards), "until the report is made"
