"""A run that goes on looks at its store once, and leaves alone the shards of which every row has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpaint_ops.runs import unfinished_shards
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


def test_a_shard_whose_rows_have_ended_is_not_left_and_no_record_is_read(
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
    assert not [place for place in read if "/records/" in place]


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
