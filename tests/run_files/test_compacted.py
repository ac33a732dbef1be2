"""Compacted records save requests and decide nothing: whatever becomes of them, the report stays the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.object_store import ObjectStoreServer
from inpaint_ops.errors import ShardIncompleteError
from inpaint_ops.locations import Location
from inpaint_ops.run_files.compacted import KeptRecord, compact, read_compacted
from inpaint_ops.runs import finish
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.supervisor.compacting import KeptRecords
from tests.support.bench import Bench, Flaky
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_gallery")

ROOM = {"max_bytes": 2**20, "max_line": 2**16}


def kept(row: int, text: str = "", etag: str = "") -> KeptRecord:
    return KeptRecord(etag or f"tag-{row}", json.dumps({"row": row, "prompt": text}, ensure_ascii=False).encode())


@given(st.dictionaries(st.integers(1, 2**31 - 1), st.text(), max_size=50))
def test_what_is_compacted_is_read_back_byte_by_byte_and_by_line(texts: dict[int, str]) -> None:
    records = {row: kept(row, text) for row, text in texts.items()}
    assert list(read_compacted(compact(records), **ROOM)) == sorted(records.items())


def test_a_file_that_was_cut_off_anywhere_gives_its_first_lines() -> None:
    records = {row: kept(row, "x" * row) for row in range(1, 400)}
    whole = compact(records)
    for size in range(0, len(whole), 97):
        found = list(read_compacted(whole[:size], **ROOM))
        assert found == sorted(records.items())[: len(found)]


def test_a_line_whose_bytes_are_not_those_of_its_md5_is_left_out() -> None:
    body = kept(1).body
    right = hashlib.md5(body, usedforsecurity=False).hexdigest()
    records = {1: KeptRecord(right, body), 2: KeptRecord("0" * 32, kept(2).body), 3: kept(3)}
    assert [row for row, _ in read_compacted(compact(records), **ROOM)] == [1, 3]


@pytest.mark.parametrize(
    "text",
    [b"", b"{}\n", b"\x00\n" * 1000, b'{"row":2,"etag":"a","record":{}}\n{"row":1,"etag":"b","record":{}}\n'],
    ids=["empty", "no line", "zeros", "out of order"],
)
def test_what_is_no_line_ends_the_reading(text: bytes) -> None:
    assert len(list(read_compacted(gzip.compress(text), **ROOM))) <= 1


def test_a_file_that_unpacks_to_a_gigabyte_is_not_unpacked() -> None:
    line = b'{"row":1,"etag":"a","record":{"x":"' + b"x" * 2**30
    packed = gzip.compress(line, 1)
    read = []
    for size in (2**16, 2**20):
        read += read_compacted(packed, max_bytes=size, max_line=2**16)
    assert read == []


def test_records_beyond_the_room_for_them_are_left_to_the_report() -> None:
    records = KeptRecords(max_bytes=100)
    for row in (1, 2, 3):
        records.keep(row, "etag", b"x" * 40)
    records.keep(1, "other", b"y" * 50)
    assert {row: (one.etag, len(one.body)) for row, one in records._records.items()} == {
        1: ("other", 50),
        2: ("etag", 40),
    }


PROMPTS = ("ok", "fail", "ok", "ok", "ok")


@pytest.fixture(params=["folder", "s3"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Bench]:
    """A planned run in a folder and on S3."""

    def bench(prompts: Sequence[str] = PROMPTS) -> Bench:
        if request.param == "folder":
            return Bench(tmp_path, list(prompts))
        server, prefix = request.getfixturevalue("object_store"), request.getfixturevalue("s3_prefix")
        return on_s3(tmp_path, server, prefix, prompts)

    return bench


def on_s3(folder: Path, server: ObjectStoreServer, prefix: Location, prompts: Sequence[str] = PROMPTS) -> Bench:
    """A planned run on S3."""
    return Bench(
        folder, list(prompts), store=prefix.uri,
        s3_client=lambda: make_s3_client(server.session(), endpoint_url=server.endpoint),
    )  # fmt: skip


def results(bench: Bench) -> bytes:
    """The report's results, made anew."""
    assert finish(bench.workspace, "run").counts.missing == 0
    return bench.workspace.storage.get(bench.layout.results)


def single_records_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The single records that a report reads."""
    places: list[str] = []
    get = Storage.get

    def noted(self: Storage, where: Any, **options: Any) -> bytes:
        places.append(str(where))
        return get(self, where, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "get", noted)
        results(bench)
    return sorted(place.rpartition("/")[2] for place in places if "/records/" in place)


def test_a_report_reads_the_shard_and_none_of_its_records(
    made: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = made()
    bench.shard_run().run()
    with_it = results(bench)
    assert single_records_read(bench, monkeypatch) == []
    bench.workspace.storage.delete(bench.layout.compacted_shard("00000"))
    assert len(single_records_read(bench, monkeypatch)) == 5
    assert results(bench) == with_it


def test_the_next_attempt_reads_the_shard_too(made: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = made()
    bench.shard_run().run()
    places: list[str] = []
    get = Storage.get
    monkeypatch.setattr(
        Storage, "get", lambda self, where, **more: (places.append(str(where)), get(self, where, **more))[1]
    )
    again = bench.shard_run().run()
    assert (again.skipped, again.workers) == (5, 0)
    assert not [place for place in places if "/records/" in place]


def test_an_attempt_that_leaves_rows_to_another_compacts_nothing_and_the_other_one_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok", "ok"])
    flaky = Flaky(readable=[Location(None, str(tmp_path / "in"))], writable=[bench.workspace.store])
    with pytest.raises(ShardIncompleteError):
        bench.shard_run(storage=flaky).run()
    assert not list(bench.workspace.storage.list(bench.layout.compacted))
    bench.shard_run().run()
    data = bench.workspace.storage.get(bench.layout.compacted_shard("00000"))
    assert [row for row, _ in read_compacted(data, **ROOM)] == [1, 2, 3]


def forged(line: dict[str, Any]) -> dict[str, Any]:
    """A line whose record is of the same size, and of another row's id."""
    return line | {"record": line["record"] | {"id": "z" * len(line["record"]["id"])}}


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(data).splitlines()]


def packed(lines: list[dict[str, Any]]) -> bytes:
    return gzip.compress(
        b"".join(json.dumps(one, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for one in lines)
    )


@pytest.mark.parametrize(
    ("change", "most_read"),
    [
        (lambda data: data[: len(data) // 2], 5),
        (lambda data: b"", 5),
        (lambda data: b"no gzip", 5),
        (lambda data: data[:40] + bytes(len(data) - 40), 5),
        (lambda data: gzip.compress(bytes(2**26)), 5),
        (lambda data: packed(lines_of(data)[:1]), 4),
        (lambda data: packed([one | {"etag": "0" * 32} for one in lines_of(data)]), 5),
        (lambda data: packed([one | {"row": one["row"] + 1} for one in lines_of(data)]), 5),
        (lambda data: packed([forged(one) for one in lines_of(data)]), 5),
        (lambda data: packed([one | {"record": one["record"] | {"prompt": "longer"}} for one in lines_of(data)]), 5),
        (lambda data: packed([one | {"record": {}} for one in lines_of(data)]), 5),
        (lambda data: data + b"more", 0),
    ],
    ids=["cut", "empty", "garbage", "damaged", "bomb", "too few", "other etags", "other rows", "forged", "other sizes",
         "no records", "longer"],
)  # fmt: skip
def test_a_damaged_or_forged_file_costs_the_reading_of_the_single_records(
    made: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], most_read: int
) -> None:
    bench = made()
    bench.shard_run().run()
    before = results(bench)
    warnings = finish(bench.workspace, "run").warnings
    place = bench.layout.compacted_shard("00000")
    bench.workspace.storage.put(place, change(bench.workspace.storage.get(place)))
    assert len(single_records_read(bench, monkeypatch)) == most_read
    assert results(bench) == before
    assert finish(bench.workspace, "run").warnings == warnings
    again = bench.shard_run().run()
    assert (again.skipped, again.workers) == (5, 0), "no row is painted again"
    assert single_records_read(bench, monkeypatch) == [], "and that attempt has compacted them again"


def test_on_s3_a_record_of_the_right_size_and_etag_is_told_by_its_bytes(
    object_store: ObjectStoreServer, s3_prefix: Location, tmp_path: Path
) -> None:
    bench = on_s3(tmp_path, object_store, s3_prefix)
    bench.shard_run().run()
    before, place = results(bench), bench.layout.compacted_shard("00000")
    lines = lines_of(bench.workspace.storage.get(place))
    for line in lines:
        line["record"]["seed"] += 1 if line["record"]["seed"] % 10 < 9 else -1
    bench.workspace.storage.put(place, packed(lines))
    assert results(bench) == before


def test_a_record_that_came_later_counts_and_not_its_compacted_copy(made: Callable[..., Bench]) -> None:
    bench = made()
    bench.shard_run().run()
    where = bench.layout.record("00000", 2)
    record = json.loads(bench.workspace.storage.get(where))
    record["error"]["message"] = record["error"]["message"][::-1]
    bench.workspace.storage.put(where, json.dumps(record, separators=(",", ":")).encode())
    row = json.loads(results(bench).splitlines()[1])
    assert row["error"]["message"] == record["error"]["message"]


ATTEMPT = """
import sys
from pathlib import Path
from tests.support.bench import Bench
Bench(Path(sys.argv[1]), sys.argv[3:], store=sys.argv[2]).shard_run().run()
"""


def attempt(folder: Path, store: str, server: ObjectStoreServer, endpoint: str) -> subprocess.Popen[bytes]:
    """An attempt at the shard, in a process of its own."""
    command = [sys.executable, "-c", ATTEMPT, str(folder), store, *PROMPTS]
    environment = os.environ | server.env | {"AWS_ENDPOINT_URL": endpoint}
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])


def test_an_attempt_that_is_killed_while_it_compacts_costs_the_reading_of_the_records(
    object_store: ObjectStoreServer, s3_prefix: Location, proxy: FaultProxy, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bench = on_s3(tmp_path, object_store, s3_prefix)
    killed: list[subprocess.Popen[bytes]] = []

    def kill() -> bool:
        wait_until(lambda: killed)[0].send_signal(signal.SIGKILL)
        return False

    proxy.barrier("PUT", "/compacted/", before=kill)
    killed.append(attempt(tmp_path, s3_prefix.uri, object_store, proxy.url))
    assert killed[0].wait() == -signal.SIGKILL
    assert len(single_records_read(bench, monkeypatch)) == 5
    before = results(bench)
    assert attempt(tmp_path, s3_prefix.uri, object_store, object_store.endpoint).wait() == 0
    assert single_records_read(bench, monkeypatch) == [] and results(bench) == before


def test_two_attempts_at_once_leave_one_file_that_serves(
    object_store: ObjectStoreServer, s3_prefix: Location, tmp_path: Path
) -> None:
    bench = on_s3(tmp_path, object_store, s3_prefix)
    both = [attempt(tmp_path, s3_prefix.uri, object_store, object_store.endpoint) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    there = results(bench)
    bench.workspace.storage.delete(bench.layout.compacted_shard("00000"))
    assert results(bench) == there
