"""Marks in a store: whoever writes at once, and whatever is killed in between, no mark is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.object_store import ObjectStoreServer
from inpaint_ops.errors import ConfigError, ObjectTooLargeError, StorageError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location, parse
from inpaint_ops.reviewing import Mark, Reviews
from inpaint_ops.reviewing import reviews as module
from inpaint_ops.storage import Storage
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.stores import names
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
Flaky = Callable[..., Storage]


def of(prefix: Location) -> RunLayout:
    return RunLayout(prefix, "night")


def mark(row: str, what: str = "accept", **fields: Any) -> Mark:
    return Mark(id=row, mark=what, attempt="now", **fields)  # type: ignore[arg-type]


def ids(storage: Storage, prefix: Location) -> dict[str, set[str]]:
    """What a reader who has seen nothing yet finds: the rows of each reviewer."""
    reviews = Reviews(storage, of(prefix))
    reviews.refresh()
    assert reviews.left_out == ()
    return {name: set(opinions) for name, opinions in reviews.opinions.items()}


class TestAppending:
    def test_what_was_appended_is_there_and_nowhere_else(self, storage: Storage, prefix: Location) -> None:
        reviews = Reviews(storage, of(prefix))
        reviews.append("anna@studio.example", [mark("a", note="a seam"), mark("b", "redo", reason="hands")])
        reviews.append("anna@studio.example", [mark("a", "reject")])
        reviews.append("José", [mark("a")])
        assert names(storage, prefix) == {
            "runs/night/reviews/anna@studio.example.jsonl", "runs/night/reviews/Jos%C3%A9.jsonl",
        }  # fmt: skip
        assert ids(storage, prefix) == {"anna@studio.example": {"a", "b"}, "José": {"a"}}
        said = reviews.opinions["anna@studio.example"]
        assert (said["a"].verdict, said["a"].note, said["b"].reason) == ("reject", "a seam", "hands")
        assert storage.get(of(prefix).review("anna@studio.example")).count(b"\n") == 3

    def test_two_writers_at_once_lose_nothing(self, storage: Storage, prefix: Location) -> None:
        """Two browsers of one reviewer, in two processes, and a second reviewer beside them."""
        each = 12 if prefix.bucket is None else 4
        start = threading.Barrier(3)

        def write(reviewer: str, browser: int) -> None:
            reviews = Reviews(storage, of(prefix))
            start.wait()
            for number in range(each):
                reviews.append(reviewer, [mark(f"{browser}-{number}")])

        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(write, *who) for who in (("ann", 1), ("ann", 2), ("ben", 3))]:
                done.result()
        assert ids(storage, prefix) == {
            "ann": {f"{browser}-{number}" for browser in (1, 2) for number in range(each)},
            "ben": {f"3-{number}" for number in range(each)},
        }

    def test_a_writer_that_has_not_seen_the_others_lines_keeps_them(self, storage: Storage, prefix: Location) -> None:
        one, other = Reviews(storage, of(prefix)), Reviews(storage, of(prefix))
        one.append("ann", [mark("a")])
        other.refresh()
        one.append("ann", [mark("b")])
        other.append("ann", [mark("c")])  # it has read one line
        assert set(other.opinions["ann"]) == {"a", "b", "c"}
        assert ids(storage, prefix) == {"ann": {"a", "b", "c"}}

    def test_a_reply_that_was_lost_before_another_wrote_adds_no_line_twice(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location, storage_of_s3: Storage
    ) -> None:
        slow = Reviews(flaky_storage(client_attempts=2), of(s3_prefix))
        slow.append("ann", [mark("a")])
        other = Reviews(storage_of_s3, of(s3_prefix))
        proxy.on(Fault.LOST_REPLY, method="PUT", path="ann")
        proxy.barrier("PUT", "ann", nth=2, before=lambda: other.append("ann", [mark("theirs")]))  # before the repeat
        slow.append("ann", [mark("ours")])
        assert ids(storage_of_s3, s3_prefix) == {"ann": {"a", "ours", "theirs"}}
        body = storage_of_s3.get(of(s3_prefix).review("ann"))
        assert body.count(b'"ours"') == 1

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_writer_that_is_killed_in_between_loses_no_mark_that_was_confirmed(
        self,
        object_store: ObjectStoreServer,
        proxy: FaultProxy,
        s3_prefix: Location,
        storage_of_s3: Storage,
        moment: str,
    ) -> None:
        """The process is killed while the store has not seen its third PUT yet, or has seen it and not answered."""
        killed: list[subprocess.Popen[str]] = []
        text = f"""
import sys
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import parse
from inpaint_ops.reviewing import Mark, Reviews
from inpaint_ops.storage import Storage
prefix = parse({s3_prefix.uri!r})
reviews = Reviews(Storage(writable=[prefix]), RunLayout(prefix, "night"))
for number in range(9):
    reviews.append("ann", [Mark(id=f"row-{{number}}", mark="accept", attempt="now")])
    print(f"row-{{number}}", flush=True)
"""

        def kill() -> bool:
            wait_until(lambda: killed)[0].send_signal(signal.SIGKILL)
            killed[0].wait()
            return moment == "after"

        proxy.barrier("PUT", "ann", nth=4, **{moment: kill})  # the second PUT only asks whether If-Match is honoured
        environment = os.environ | object_store.env | {"AWS_ENDPOINT_URL": proxy.url, "PYTHONPATH": str(REPOSITORY)}
        killed.append(
            subprocess.Popen([sys.executable, "-c", text], env=environment, stdout=subprocess.PIPE, text=True)
        )
        confirmed = set((killed[0].communicate()[0] or "").split())
        assert killed[0].returncode == -signal.SIGKILL
        assert confirmed == {"row-0", "row-1"}
        found = ids(storage_of_s3, s3_prefix)["ann"]
        assert found == (confirmed if moment == "before" else confirmed | {"row-2"})
        Reviews(storage_of_s3, of(s3_prefix)).append("ann", [mark("next")])
        assert "next" in ids(storage_of_s3, s3_prefix)["ann"]

    def test_a_store_that_ignores_the_condition_is_refused(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put = storage.put
        monkeypatch.setattr(storage, "put", lambda where, data, **_: put(where, data))
        with pytest.raises(StorageError, match="ignores If-Match"):
            Reviews(storage, of(prefix)).append("ann", [mark("a")])

    def test_the_store_is_asked_once_whether_it_honours_the_condition(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location
    ) -> None:
        reviews = Reviews(flaky_storage(), of(s3_prefix))
        for row in "abc":
            reviews.append("ann", [mark(row)])
        assert proxy.count("PUT", "ann") == 4
        assert proxy.count("GET", "ann") == 0  # what we wrote ourselves is known

    def test_a_name_that_leads_elsewhere_stays_below_the_runs_reviews(self, storage: Storage, prefix: Location) -> None:
        Reviews(storage, of(prefix)).append("../../../claims/x", [mark("a")])
        assert names(storage, prefix) == {"runs/night/reviews/%2E.%2F..%2F..%2Fclaims%2Fx.jsonl"}
        with pytest.raises(ConfigError):
            Reviews(storage, of(prefix)).append("a\nb", [mark("a")])


class TestReading:
    def test_a_damaged_line_costs_only_itself_and_is_said(self, storage: Storage, prefix: Location) -> None:
        where = of(prefix).review("ann")
        lines = [mark("a").line(), b"{\n", b"\xff\xfe\n", b"\n", b'{"id":"x","mark":"maybe"}\n',
                 b"[" * 20_000 + b"\n", mark("b").line(), b'{"id":"cut off']  # fmt: skip
        storage.put(where, b"".join(lines))
        reviews = Reviews(storage, of(prefix))
        reviews.refresh()
        assert set(reviews.opinions["ann"]) == {"a", "b"}
        said = "\n".join(reviews.left_out)
        for number in (2, 3, 5, 6, 8):
            assert f"line {number} of {where}" in said
        assert len(reviews.left_out) == 5
        reviews.append("ann", [mark("c")])  # not glued to the line that was cut off
        again = Reviews(storage, of(prefix))
        again.refresh()
        assert set(again.opinions["ann"]) == {"a", "b", "c"}
        assert storage.get(where).startswith(b"".join(lines))

    def test_only_new_lines_of_a_file_that_has_grown_are_parsed(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer, reader = Reviews(storage, of(prefix)), Reviews(storage, of(prefix))
        writer.append("ann", [mark(str(number)) for number in range(100)])
        reader.refresh()
        parsed = []
        parse = module.parse_model
        monkeypatch.setattr(module, "parse_model", lambda *args: parsed.append(args) or parse(*args))
        writer.append("ann", [mark("new")])
        reader.refresh()
        assert len(reader.opinions["ann"]) == 101
        assert len(parsed) == 2  # by the writer and by the reader
        reader.refresh()
        assert len(parsed) == 2

    def test_a_file_that_somebody_rewrote_is_read_anew(self, storage: Storage, prefix: Location) -> None:
        reviews = Reviews(storage, of(prefix))
        reviews.append("ann", [mark("a"), mark("b")])
        before = reviews.version
        storage.put(of(prefix).review("ann"), mark("z").line())
        reviews.refresh()
        assert set(reviews.opinions["ann"]) == {"z"}
        assert reviews.version != before
        storage.delete(of(prefix).review("ann"))
        reviews.refresh()
        assert dict(reviews.opinions) == {}

    def test_what_is_no_reviewers_file_or_too_large_is_said(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "FILE_BYTES", 1000)
        storage.put(of(prefix).reviews.join("%zz.jsonl"), b"")
        storage.put(of(prefix).reviews.join("notes.txt"), b"")
        storage.put(of(prefix).review("large"), b"x" * 1001)
        reviews = Reviews(storage, of(prefix))
        reviews.append("ann", [mark("a")])
        reviews.refresh()
        assert set(reviews.opinions) == {"ann"}
        assert len(reviews.left_out) == 3

    def test_all_reviewers_together_have_a_limit(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = Reviews(storage, of(prefix))
        writer.append("ann", [mark("a")])
        writer.append("ben", [mark(str(number)) for number in range(20)])
        monkeypatch.setattr(module, "ALL_BYTES", 1000)
        reviews = Reviews(storage, of(prefix))
        reviews.refresh()
        assert set(reviews.opinions) == {"ann"}
        assert "more than 1,000 bytes together" in reviews.left_out[0]

    def test_a_file_that_changes_while_it_is_read_is_read_as_it_is_then(
        self, flaky_storage: Flaky, proxy: FaultProxy, s3_prefix: Location, storage_of_s3: Storage
    ) -> None:
        writer = Reviews(storage_of_s3, of(s3_prefix))
        writer.append("ann", [mark("a")])
        proxy.barrier("GET", "ann", before=lambda: writer.append("ann", [mark("b")]))
        reviews = Reviews(flaky_storage(), of(s3_prefix))
        reviews.refresh()
        assert set(reviews.opinions["ann"]) == {"a", "b"}

    @given(
        st.binary(max_size=300)
        | st.lists(st.sampled_from([b"{", b"}", b"\n", b"\r", b'"id":"a"', b"null"])).map(b"".join)
    )
    def test_whatever_a_file_holds_its_reviewer_can_go_on(self, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            prefix = parse(f"{folder}/")
            storage = Storage(writable=[prefix])
            storage.put(of(prefix).review("ann"), data)
            Reviews(storage, of(prefix)).append("ann", [mark("a")])
            reviews = Reviews(storage, of(prefix))
            reviews.refresh()
            assert reviews.opinions["ann"]["a"].verdict == "accept"
            assert storage.get(of(prefix).review("ann")).startswith(data)


class TestRoom:
    def test_superseded_lines_make_room(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "FILE_BYTES", 4000)
        reviews = Reviews(storage, of(prefix))
        for number in range(60):
            reviews.append("ann", [mark("a", "reject" if number % 2 else "accept", note=f"look {number}")])
        reviews.append("ann", [mark("b")])
        assert storage.stat(of(prefix).review("ann")).size <= 4000
        again = Reviews(storage, of(prefix))
        again.refresh()
        assert again.opinions["ann"] == reviews.opinions["ann"]
        assert (again.opinions["ann"]["a"].verdict, again.opinions["ann"]["a"].note) == ("reject", "look 59")

    def test_a_full_file_is_one_clear_error_and_stays(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "FILE_BYTES", 4000)
        reviews = Reviews(storage, of(prefix))
        reviews.append("ann", [mark(str(number)) for number in range(20)])
        before = storage.get(of(prefix).review("ann"))
        with pytest.raises(ObjectTooLargeError, match=r"is full: .* write shorter notes"):
            reviews.append("ann", [mark("x", note="n" * 900), mark("y", note="n" * 900)])
        assert storage.get(of(prefix).review("ann")) == before
        reviews.append("ben", [mark("x", note="n" * 900)])

    def test_ten_thousand_marks_fit_with_room_for_notes(self, storage: Storage, prefix: Location) -> None:
        reviews = Reviews(storage, of(prefix))
        reviews.append("ann", [mark(f"row-{number:05}", note="n" * 200, rating=3) for number in range(10_000)])
        assert len(ids(storage, prefix)["ann"]) == 10_000
        assert storage.stat(of(prefix).review("ann")).size < module.FILE_BYTES / 2


@pytest.fixture
def storage_of_s3(s3_prefix: Location, s3_client: Any) -> Storage:
    """The same store without the proxy."""
    return Storage(writable=[s3_prefix], s3_client=lambda: s3_client)
