"""What is put comes back, also if it is put only where nothing is yet: on S3 as in a folder."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inpaint_ops.errors import (
    AccessDeniedError,
    ForbiddenLocationError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StorageError,
)
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.files import TEMP_PREFIX, locked
from inpaint_ops.storage.probe import probe_conditional_put
from tests.support.stores import names


class TestPutAndGet:
    def test_what_was_put_comes_back(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("a/b.bin")
        put = storage.put(where, b"\x00body\xff")
        assert storage.get(where) == b"\x00body\xff"
        assert (put.location, put.size) == (where, 6)
        assert storage.get(where.uri) == storage.get(where)

    def test_a_put_overwrites(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("a")
        first = storage.put(where, b"first")
        second = storage.put(where, b"second, longer")
        assert storage.get(where) == b"second, longer"
        assert first.etag != second.etag

    def test_an_empty_object_is_an_object(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        where = prefix.join("empty")
        storage.put(where, b"")
        assert storage.get(where) == b""
        assert storage.download(where, tmp_path / "copy").size == 0
        assert [info.size for info in storage.list(prefix)] == [0]

    def test_a_file_is_put_by_its_path(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        source.write_bytes(os.urandom(3 * 2**20))
        info = storage.put(prefix.join("big.bin"), source, content_type="image/png")
        assert info.size == 3 * 2**20
        assert storage.get(prefix.join("big.bin")) == source.read_bytes()

    def test_a_folder_that_cannot_be_made_is_no_missing_object(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        storage = Storage(readable=[], writable=[Location(None, "/proc/nope/"), Location(None, f"{tmp_path}/")])
        with pytest.raises(AccessDeniedError, match="no folder can be made there; choose another store"):
            storage.put(Location(None, "/proc/nope/plan.json"), b"x")
        with pytest.raises(StorageError, match="file is a file and no folder; rename it, or choose another store"):
            storage.put(Location(None, f"{tmp_path}/file/runs/plan.json"), b"x")

    def test_a_missing_local_file_is_not_a_missing_object(
        self, storage: Storage, prefix: Location, tmp_path: Path
    ) -> None:
        with pytest.raises(FileNotFoundError):
            storage.put(prefix.join("a"), tmp_path / "nowhere")

    @pytest.mark.parametrize("name", ["ünïcode/日本語 🎨.png", "a b+c&d=e%20f#g?.json", "quote'\"<>.txt", "e\u0301"])
    def test_any_plain_key_works(self, storage: Storage, prefix: Location, name: str) -> None:
        where = prefix.join(name)
        storage.put(where, name.encode())
        assert storage.get(where) == name.encode()
        assert names(storage, prefix) == {name}
        assert storage.stat(where).location == where
        storage.delete(where)
        assert not storage.exists(where)

    def test_a_range_has_both_its_ends(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("digits")
        storage.put(where, b"0123456789")
        assert storage.get(where, byte_range=(0, 0)) == b"0"
        assert storage.get(where, byte_range=(2, 5)) == b"2345"
        assert storage.get(where, byte_range=(7, 99)) == b"789"
        assert storage.get(where, byte_range=(0, 3), max_bytes=4) == b"0123"
        with pytest.raises(StorageError, match="beyond its end"):
            storage.get(where, byte_range=(10, 12))

    def test_a_read_can_insist_on_an_etag(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("a")
        storage.put(where, b"first")
        etag = storage.stat(where).etag
        assert storage.get(where, if_match=etag) == b"first"
        storage.put(where, b"second")
        with pytest.raises(StorageError, match="changed"):
            storage.get(where, if_match=etag)

    def test_what_is_not_there_is_not_found(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        missing = prefix.join("no/such")
        for read in (storage.get, storage.stat, lambda where: storage.download(where, tmp_path / "copy")):
            with pytest.raises(ObjectNotFoundError, match="no/such"):
                read(missing)
        assert not storage.exists(missing)
        assert not (tmp_path / "copy").exists()

    def test_a_prefix_is_no_object(self, storage: Storage, prefix: Location) -> None:
        storage.put(prefix.join("a/b"), b"x")
        with pytest.raises(ObjectNotFoundError):
            storage.get(prefix.join("a"))
        with pytest.raises(ObjectNotFoundError):
            storage.stat(prefix.join("a"))
        with pytest.raises(ForbiddenLocationError, match="prefix, not an object"):
            storage.put(prefix, b"x")
        storage.delete(prefix.join("a"))
        assert storage.get(prefix.join("a/b")) == b"x"

    def test_more_than_was_allowed_is_refused(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        where = prefix.join("a")
        storage.put(where, b"12345")
        assert storage.get(where, max_bytes=5) == b"12345"
        with pytest.raises(ObjectTooLargeError, match="limit is 4"):
            storage.get(where, max_bytes=4)
        with pytest.raises(ObjectTooLargeError):
            storage.download(where, tmp_path / "copy", max_bytes=4)
        assert list(tmp_path.glob("copy*")) == []


class TestPutIfAbsent:
    def test_a_taken_key_is_refused_and_kept(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        where = prefix.join("claim")
        storage.put(where, b"one", if_absent=True)
        (tmp_path / "file").write_bytes(b"six")
        for body in (b"two", b"longer", tmp_path / "file"):
            with pytest.raises(ObjectExistsError):
                storage.put(where, body, if_absent=True)
        assert storage.get(where) == b"one"

    def test_putting_the_same_bytes_again_is_no_conflict(
        self, storage: Storage, prefix: Location, tmp_path: Path
    ) -> None:
        where = prefix.join("claim")
        storage.put(where, b"attempt 7", if_absent=True)
        assert storage.put(where, b"attempt 7", if_absent=True).size == 9
        (tmp_path / "file").write_bytes(b"attempt 7")
        assert storage.put(where, tmp_path / "file", if_absent=True).size == 9

    def test_a_deleted_key_is_free_again(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("claim")
        storage.put(where, b"one", if_absent=True)
        storage.delete(where)
        storage.put(where, b"two", if_absent=True)
        assert storage.get(where) == b"two"

    def test_a_race_has_exactly_one_winner(self, storage: Storage, prefix: Location) -> None:
        racers = 16
        # One heat on SeaweedFS, whose losers wait for seconds: its lock is polled once a second.
        heats = 20 if prefix.bucket is None else 1
        start = threading.Barrier(racers)

        def claim(heat: int, racer: int) -> int | None:
            start.wait()
            try:
                storage.put(prefix.join(f"race-{heat}"), f"racer {racer}".encode(), if_absent=True)
            except ObjectExistsError:
                return None
            return racer

        with ThreadPoolExecutor(racers) as pool:

            def race(heat: int) -> list[int]:
                return [racer for racer in pool.map(claim, [heat] * racers, range(racers)) if racer is not None]

            for heat in range(heats):
                winners = race(heat)
                if len(winners) > 1 and prefix.bucket is not None:
                    winners = race(heat := heats)  # SeaweedFS lets two win in one of some hundreds: docs/storage.md
                assert len(winners) == 1
                assert storage.get(prefix.join(f"race-{heat}")) == f"racer {winners[0]}".encode()

    def test_the_probe_is_content_and_leaves_nothing(self, storage: Storage, prefix: Location) -> None:
        found = probe_conditional_put(storage, prefix)
        if found is not None and prefix.bucket is not None:  # as above
            found = probe_conditional_put(storage, prefix)
        assert found is None
        assert names(storage, prefix) == set()

    def test_the_probe_names_a_store_that_overwrites(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put = storage.put
        monkeypatch.setattr(storage, "put", lambda where, data, **_: put(where, data))
        assert "ignores If-None-Match" in (probe_conditional_put(storage, prefix) or "")
        assert names(storage, prefix) == set()

    def test_the_probe_names_a_store_that_checks_and_then_puts(
        self, storage: Storage, prefix: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put, checked = storage.put, threading.Barrier(8)

        def racy(where: Location, data: bytes, *, if_absent: bool) -> object:
            if storage.exists(where):
                raise ObjectExistsError("taken")
            if "race" in where.name:
                checked.wait()
            return put(where, data)

        monkeypatch.setattr(storage, "put", racy)
        assert "8 of 8" in (probe_conditional_put(storage, prefix) or "")


class TestPutIfMatch:
    def test_the_version_that_was_looked_at_is_replaced(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("marks")
        first = storage.put(where, b"one")
        second = storage.put(where, b"one, two", if_match=first.etag)
        assert storage.get(where) == b"one, two"
        assert storage.stat(where).etag == second.etag
        assert names(storage, prefix) == {"marks"}

    def test_another_version_or_none_is_refused_and_kept(
        self, storage: Storage, prefix: Location, tmp_path: Path
    ) -> None:
        where = prefix.join("marks")
        old = storage.put(where, b"one")
        storage.put(where, b"two, by somebody else")
        (tmp_path / "file").write_bytes(b"mine")
        for body in (b"mine", tmp_path / "file"):
            with pytest.raises(ObjectChangedError, match="has changed since"):
                storage.put(where, body, if_match=old.etag)
        assert storage.get(where) == b"two, by somebody else"
        storage.delete(where)
        with pytest.raises(ObjectChangedError):
            storage.put(where, b"mine", if_match=old.etag)
        assert not storage.exists(where)

    def test_the_same_bytes_again_are_no_conflict(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("marks")
        old = storage.put(where, b"one")
        storage.put(where, b"one, two", if_match=old.etag)
        assert storage.put(where, b"one, two", if_match=old.etag).size == 8

    def test_a_race_has_exactly_one_winner(self, storage: Storage, prefix: Location) -> None:
        racers, heats = 8, 20 if prefix.bucket is None else 1
        start = threading.Barrier(racers)
        where = prefix.join("marks")

        def replace(etag: str, racer: int) -> int | None:
            start.wait()
            try:
                storage.put(where, f"racer {racer}".encode(), if_match=etag)
            except ObjectChangedError:
                return None
            return racer

        with ThreadPoolExecutor(racers) as pool:

            def race(heat: int) -> list[int]:
                etag = storage.put(where, f"heat {heat}".encode()).etag
                return [one for one in pool.map(replace, [etag] * racers, range(racers)) if one is not None]

            for heat in range(heats):
                winners = race(heat)
                if len(winners) > 1 and prefix.bucket is not None:
                    winners = race(heats)  # as above
                assert len(winners) == 1
                assert storage.get(where) == f"racer {winners[0]}".encode()

    def test_a_lock_that_was_deleted_while_it_was_waited_for_is_taken_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beside, really, taken = tmp_path / f"{TEMP_PREFIX}lock-marks", fcntl.flock, list[int]()

        def deleted_before_the_first_is_taken(descriptor: int, operation: int) -> None:
            if not taken:
                beside.unlink()  # as housekeeping does with what ended processes have left
            taken.append(os.fstat(descriptor).st_ino)
            really(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", deleted_before_the_first_is_taken)
        with locked(tmp_path / "marks"):
            assert len(taken) == 2
            assert beside.stat().st_ino == taken[1]
