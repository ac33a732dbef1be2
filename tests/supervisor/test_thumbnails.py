"""Thumbnails on their way to the store: never a reason for a row to fail, and never anything but a small WebP file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.bench import Bench
from tests.support.scripted_worker import webp


def test_a_record_names_the_thumbnails_that_are_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["thumbnail: both", "ok"])
    assert bench.shard_run().run().done == 2
    records = bench.records()
    found = records[1].thumbnails
    assert [one.size for one in found] == [256, 1600]
    for one, data in zip(found, (webp(200, 100), webp(1600, 800)), strict=True):
        place = bench.layout.thumbnail(bench.layout.images.join("0.png"), one.size)
        assert one.uri == place.uri
        assert bench.workspace.storage.get(place) == data
        assert (one.sha256, one.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert records[1].thumbnail_problem == ""
    assert (records[2].thumbnails, records[2].thumbnail_problem) == ((), "")


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("missing", "it is not there"),
        ("png", "it is png of 2x1"),
        ("large", "webp of 257x100"),
        ("heavy", "262,144 would be the most"),
        ("link", "it is a symbolic link"),
        ("other size", ""),
        ("failed", "MemoryError: no room"),
    ],
)
def test_a_bad_thumbnail_is_a_note_in_the_record_and_the_row_is_done(tmp_path: Path, kind: str, problem: str) -> None:
    bench = Bench(tmp_path, [f"thumbnail: {kind}", "ok"])
    result = bench.shard_run().run()
    assert (result.done, result.failed, result.workers) == (2, 0, 1), "and the worker goes on"
    record = bench.records()[1]
    assert record.status == "done" and record.thumbnails == ()
    assert problem in record.thumbnail_problem if problem else record.thumbnail_problem == ""
    assert not [info for info in bench.workspace.storage.list(bench.layout.root) if "thumbnails/" in info.location.key]


def test_an_earlier_attempts_image_gets_no_thumbnail_of_another_picture(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["thumbnail: both"])
    bench.workspace.storage.put(bench.layout.image("0", ".png"), b"the image of an attempt that died")
    assert bench.shard_run().run().done == 1
    record = bench.records()[1]
    assert (record.thumbnails, record.thumbnail_problem) == ((), "the image is an earlier attempt's")
