"""One suite for both stores: what holds on S3 holds in a folder."""

from __future__ import annotations

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.errors import (
    ConfigError,
    ForbiddenLocationError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from inpaint_ops.locations import Location, parse
from inpaint_ops.storage import FolderStore, ObjectInfo, Storage
from inpaint_ops.storage.files import TEMP_PREFIX
from inpaint_ops.storage.s3 import S3Store
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.stores import names


class TestListing:
    def test_every_key_is_listed_once_over_many_pages(self, storage: Storage, prefix: Location) -> None:
        keys = {f"{number % 7}/{number:05}.json" for number in range(2100)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: storage.put(prefix.join(key), b"{}"), keys))
        listed = [info.location.key.removeprefix(prefix.key) for info in storage.list(prefix)]
        assert len(listed) == 2100
        assert set(listed) == keys
        part = [info.location.key for info in storage.list(prefix.join("3/"))]
        assert len(part) == len(set(part)) == 300

    @pytest.mark.parametrize(
        ("starting", "expected"),
        [
            ("cup", ["cup-1", "cup-12", "cup/1", "cup/deep/1", "cup2/1"]),
            ("cup-1", ["cup-1", "cup-12"]),
            ("cup/", ["cup/1", "cup/deep/1"]),
            ("cup/d", ["cup/deep/1"]),
            ("sauc", ["saucer & s%C3", "saucer/ü+1"]),
            ("saucer/ü+", ["saucer/ü+1"]),
            ("saucer & s%", ["saucer & s%C3"]),
            ("C", []),
            ("../", []),
        ],
    )
    def test_a_part_of_a_listing_is_the_keys_that_go_on_with_it(
        self, storage: Storage, prefix: Location, starting: str, expected: list[str]
    ) -> None:
        for key in ("cup-1", "cup-12", "cup/1", "cup/deep/1", "cup2/1", "saucer/ü+1", "saucer & s%C3", "a/cup"):
            storage.put(prefix.join(f"in/{key}"), b"x")
        storage.put(prefix.join("cup"), b"beside it")
        found = storage.list(prefix.join("in"), starting=starting)
        assert sorted(info.location.key.removeprefix(f"{prefix.key}in/") for info in found) == sorted(expected)

    def test_folders_are_the_names_directly_below_a_prefix(self, storage: Storage, prefix: Location) -> None:
        for key in ("b/1/x", "a/1", "a/2", "a/deep/er", "loose"):
            storage.put(prefix.join(key), b"x")
        assert sorted(storage.folders(prefix)) == ["a", "b"]
        assert sorted(storage.folders(prefix.join("a/"))) == ["deep"]
        assert list(storage.folders(prefix.join("nothing/"))) == []

    def test_an_empty_or_missing_prefix_lists_as_empty(self, storage: Storage, prefix: Location) -> None:
        assert list(storage.list(prefix)) == []
        assert list(storage.list(prefix.join("no/such/"))) == []

    def test_a_prefix_ends_at_a_slash(self, storage: Storage, prefix: Location) -> None:
        storage.put(prefix.join("run/a"), b"")
        storage.put(prefix.join("run-evil/a"), b"")
        assert [info.location for info in storage.list(prefix.join("run"))] == [prefix.join("run/a")]

    def test_a_listing_describes_as_stat_does(self, storage: Storage, prefix: Location) -> None:
        before = datetime.now(UTC) - timedelta(minutes=1)
        put = storage.put(prefix.join("a"), b"12345")
        (info,) = storage.list(prefix)
        assert info == storage.stat(prefix.join("a"))
        assert (info.size, info.etag) == (5, put.etag)
        assert info.modified.tzinfo is UTC
        assert before < info.modified < before + timedelta(minutes=2)


class TestDownload:
    def test_a_download_replaces_the_file_whole(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        where, path = prefix.join("a"), tmp_path / "deep" / "copy"
        body = os.urandom(2**20 + 1)
        storage.put(where, body)
        path.parent.mkdir()
        path.write_bytes(b"old")
        info = storage.download(where, path)
        assert path.read_bytes() == body
        assert info.size == len(body)
        assert [entry.name for entry in path.parent.iterdir()] == ["copy"]

    def test_a_failed_download_leaves_the_old_file(self, storage: Storage, prefix: Location, tmp_path: Path) -> None:
        path = tmp_path / "copy"
        path.write_bytes(b"old")
        with pytest.raises(ObjectNotFoundError):
            storage.download(prefix.join("missing"), path)
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["copy"]


class TestDelete:
    def test_deleting_twice_is_fine(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("a")
        storage.put(where, b"x")
        storage.delete(where)
        storage.delete(where)
        assert not storage.exists(where)
        assert list(storage.list(prefix)) == []

    def test_a_copy_by_the_store_is_of_what_was_looked_at(self, storage: Storage, prefix: Location) -> None:
        """A folder copies nothing by itself."""
        source, copy = storage.put(prefix.join("a b/ä.png"), b"image", content_type="image/png"), prefix.join("c.png")
        made = storage.copy(source, copy)
        if prefix.bucket is None:
            assert made is None
            assert not storage.exists(copy)
            return
        assert made is not None
        assert (made.location, made.size, storage.get(copy)) == (copy, 5, b"image")
        storage.put(source.location, b"other")
        with pytest.raises(StorageError, match="has changed since it was last looked at"):
            storage.copy(source, prefix.join("d.png"))
        storage.delete(source.location)
        with pytest.raises(ObjectNotFoundError, match=r"there is no object .*ä\.png"):
            storage.copy(replace(source, etag=""), prefix.join("d.png"))
        assert not storage.exists(prefix.join("d.png"))

    def test_deleting_leaves_the_neighbours(self, storage: Storage, prefix: Location) -> None:
        for name in ("a", "ab", "b/a"):
            storage.put(prefix.join(name), b"x")
        storage.delete(prefix.join("a"))
        assert names(storage, prefix) == {"ab", "b/a"}


class TestGuard:
    @pytest.fixture
    def outside(self, prefix: Location) -> list[Location]:
        """Beside the prefix, above it, in another bucket or folder, and on another kind of store."""
        beside = Location(prefix.bucket, prefix.key.rstrip("/") + "-evil/x")
        above = prefix.parent.join("secret")
        climbing = Location(prefix.bucket, prefix.key + "../secret")
        other = Location(None if prefix.bucket else "inpaint", f"{'/' if prefix.bucket else ''}etc/hostname")
        return [beside, above, climbing, other]

    def test_no_method_reaches_outside(
        self, storage: Storage, prefix: Location, outside: list[Location], tmp_path: Path
    ) -> None:
        inside = prefix.join("a")
        calls: list[Callable[[Location], object]] = [
            storage.get,
            lambda where: storage.download(where, tmp_path / "copy"),
            lambda where: storage.put(where, b"x"),
            lambda where: storage.put(where, b"x", if_absent=True),
            storage.list,
            lambda where: list(storage.folders(where)),
            storage.stat,
            storage.exists,
            storage.delete,
            lambda where: storage.presign(where, timedelta(minutes=1)),
            lambda where: storage.copy(ObjectInfo(where, 1, "", datetime.now(UTC)), inside),
            lambda where: storage.copy(ObjectInfo(inside, 1, "", datetime.now(UTC)), where),
        ]
        for where in outside:
            for call in calls:
                with pytest.raises(ForbiddenLocationError):
                    call(where)
            assert not storage.may_read(where)

    def test_the_refusal_names_the_place_and_the_setting(self, storage: Storage, prefix: Location) -> None:
        beside = Location(prefix.bucket, prefix.key.rstrip("/") + "-evil/x")
        with pytest.raises(ForbiddenLocationError, match="INPAINT_ALLOWED_PREFIXES") as caught:
            storage.put(beside, b"x")
        assert beside.uri in str(caught.value)

    def test_what_may_be_read_may_not_be_written(self, storage: Storage, prefix: Location) -> None:
        where = prefix.join("in/a")
        storage.put(where, b"x")
        reader = Storage(readable=[prefix.join("in/")], s3_client=storage._make_client)
        assert reader.get(where) == b"x"
        assert [info.location for info in reader.list(prefix.join("in"))] == [where]
        for call in (lambda: reader.put(where, b"y"), lambda: reader.delete(where)):
            with pytest.raises(ForbiddenLocationError, match="written"):
                call()
        with pytest.raises(ForbiddenLocationError):
            reader.list(prefix)

    def test_one_object_can_be_allowed(self, storage: Storage, prefix: Location) -> None:
        storage.put(prefix.join("a.csv"), b"x")
        reader = Storage(readable=[prefix.join("a.csv").uri], s3_client=storage._make_client)
        assert reader.get(prefix.join("a.csv")) == b"x"
        assert not reader.may_read(prefix.join("a.csv2"))

    def test_nothing_is_allowed_by_default(self, prefix: Location) -> None:
        assert not Storage().may_read(prefix.join("a"))


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "secret").write_bytes(b"secret")
        (tmp_path / "root").mkdir()
        return tmp_path / "root"

    @pytest.fixture
    def folder(self, root: Path) -> Storage:
        return Storage(writable=[f"{root}/"])

    def test_symbolic_links_do_not_lead_out(self, folder: Storage, root: Path, tmp_path: Path) -> None:
        (root / "file").symlink_to(tmp_path / "outside" / "secret")
        (root / "folder").symlink_to(tmp_path / "outside")
        for name in ("file", "folder/secret"):
            for call in (folder.get, folder.stat, folder.delete, lambda where: folder.put(where, b"x")):
                with pytest.raises(ForbiddenLocationError):
                    call(root / name)
        with pytest.raises(ForbiddenLocationError):
            folder.list(root / "folder")
        assert list(folder.list(root)) == []
        assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"

    def test_symbolic_links_within_are_followed(self, folder: Storage, root: Path) -> None:
        folder.put(root / "real" / "a", b"x")
        (root / "link").symlink_to(root / "real")
        (root / "file").symlink_to(root / "real" / "a")
        assert folder.get(root / "link" / "a") == folder.get(root / "file") == b"x"
        assert names(folder, parse(f"{root}/")) == {"real/a", "file"}

    def test_an_allowed_prefix_may_itself_be_a_link(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "alias").symlink_to(root)
        storage = Storage(writable=[tmp_path / "alias"])
        storage.put(tmp_path / "alias" / "a", b"x")
        assert (root / "a").read_bytes() == b"x"

    def test_unfinished_files_are_not_listed(self, folder: Storage, root: Path) -> None:
        (root / f"{TEMP_PREFIX}0123").write_bytes(b"half")
        folder.put(root / "a", b"x")
        assert names(folder, parse(f"{root}/")) == {"a"}

    def test_a_failed_put_leaves_nothing(self, folder: Storage, root: Path) -> None:
        folder.put(root / "a", b"x")
        with pytest.raises(ObjectExistsError):
            folder.put(root / "a", b"y", if_absent=True)
        assert [path.name for path in root.iterdir()] == ["a"]

    @pytest.mark.parametrize("if_absent", [False, True])
    def test_a_key_is_an_object_or_a_folder(self, folder: Storage, root: Path, if_absent: bool) -> None:
        folder.put(root / "a", b"x")
        with pytest.raises(StorageError, match="folder") as below:
            folder.put(root / "a" / "b", b"y", if_absent=if_absent)
        folder.put(root / "c" / "d", b"x")
        with pytest.raises(StorageError, match="folder") as above:
            folder.put(root / "c", b"y", if_absent=if_absent)
        assert {type(below.value), type(above.value)} == {StorageError}
        assert names(folder, parse(f"{root}/")) == {"a", "c/d"}
        with pytest.raises(ObjectNotFoundError):
            folder.get(root / "a" / "b")

    def test_a_named_pipe_is_no_object(self, folder: Storage, root: Path) -> None:
        os.mkfifo(root / "pipe")
        with pytest.raises(ObjectNotFoundError):
            folder.get(root / "pipe")
        assert list(folder.list(root)) == []

    def test_objects_have_the_umasks_mode(self, folder: Storage, root: Path) -> None:
        umask = os.umask(0o022)
        try:
            folder.put(root / "a", b"x")
        finally:
            os.umask(umask)
        assert stat.S_IMODE((root / "a").stat().st_mode) == 0o644

    def test_a_full_disk_is_transient(self, folder: Storage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            folder.put(root / "a", b"x")
        assert not caught.value.permanent
        assert list(root.iterdir()) == []

    def test_a_folder_has_no_links(self, folder: Storage, root: Path) -> None:
        folder.put(root / "a", b"x")
        with pytest.raises(StorageError, match="no links"):
            folder.presign(root / "a", timedelta(minutes=1))
        with pytest.raises(StorageError):
            FolderStore().presign(str(root / "a"), timedelta(minutes=1))


class TestS3:
    def test_the_sdks_own_settings_are_enough(self, aws_environment: ObjectStoreServer, s3_prefix: Location) -> None:
        storage = Storage(writable=[s3_prefix])
        storage.put(s3_prefix.join("a"), b"x")
        assert storage.get(s3_prefix.join("a")) == b"x"

    def test_the_client_is_made_once_and_late(self, s3_client: object, s3_prefix: Location) -> None:
        made = []
        storage = Storage(writable=[s3_prefix], s3_client=lambda: made.append(1) or s3_client)  # type: ignore[arg-type, func-returns-value, return-value]
        assert made == []
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: storage.exists(s3_prefix.join(str(number))), range(16)))
        assert made == [1]

    def test_a_presigned_link_reads_and_does_not_write(
        self, object_store: ObjectStoreServer, s3_client: object, s3_prefix: Location
    ) -> None:
        storage = Storage(writable=[s3_prefix], s3_client=lambda: s3_client)  # type: ignore[arg-type, return-value]
        where = s3_prefix.join("a ü.png")
        storage.put(where, b"pixels", content_type="image/png")
        link = storage.presign(where, timedelta(minutes=15))
        assert object_store.secret_key not in link
        with urllib.request.urlopen(link) as reply:
            assert reply.read() == b"pixels"
            assert reply.headers["Content-Type"] == "image/png"
        for request in (
            urllib.request.Request(link, data=b"evil", method="PUT"),
            urllib.request.Request(link, method="DELETE"),
            urllib.request.Request(link.split("?")[0]),
            urllib.request.Request(link.replace("a%20", "b%20")),
        ):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request)
        assert storage.get(where) == b"pixels"

    @pytest.mark.parametrize("expires", [timedelta(0), timedelta(minutes=15, seconds=1), timedelta(days=1)])
    def test_a_presigned_link_lives_a_quarter_of_an_hour_at_most(
        self, s3_client: object, s3_prefix: Location, expires: timedelta
    ) -> None:
        storage = Storage(writable=[s3_prefix], s3_client=lambda: s3_client)  # type: ignore[arg-type, return-value]
        with pytest.raises(ValueError, match="15 minutes"):
            storage.presign(s3_prefix.join("a"), expires)

    def test_a_presigned_link_lives_longer_where_that_is_asked_for_and_a_week_at_most(
        self, s3_client: object, s3_prefix: Location
    ) -> None:
        storage = Storage(writable=[s3_prefix], s3_client=lambda: s3_client)  # type: ignore[arg-type, return-value]
        week = timedelta(days=7)
        assert "X-Amz-Expires=604800" in storage.presign(s3_prefix.join("a"), week, longest=week)
        for expires, longest in ((timedelta(hours=2), timedelta(hours=1)), (timedelta(hours=1), timedelta(days=8))):
            with pytest.raises(ValueError, match="a presigned link lives"):
                storage.presign(s3_prefix.join("a"), expires, longest=longest)

    def test_a_missing_bucket_is_named(self, s3_client: object) -> None:
        storage = Storage(writable=["s3://no-such-bucket/"], s3_client=lambda: s3_client)  # type: ignore[arg-type, return-value]
        calls: list[Callable[[str], object]] = [
            storage.get,
            lambda where: list(storage.list(where)),
            lambda where: storage.put(where, b"x"),
        ]
        for call in calls:
            with pytest.raises(ObjectNotFoundError, match="no-such-bucket"):
                call("s3://no-such-bucket/a")

    def test_an_unusable_endpoint_is_a_configuration_error(self) -> None:
        with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
            make_s3_client(endpoint_url="localhost")

    def test_of_a_directory_bucket_no_prefix_that_ends_within_a_name_is_asked_for(self) -> None:
        """S3 Express One Zone refuses it; none is here to be asked."""
        asked: list[str] = []
        item = {"Size": 1, "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}

        class Client:
            def get_paginator(self, _: str) -> Client:
                return self

            def paginate(self, **request: Any) -> list[dict[str, object]]:
                asked.append(request["Prefix"])
                found = [item | {"Key": f"out/images/{name}"} for name in ("cup-1.png", "cup-2.png", "dish.png")]
                return [{"IsTruncated": False, "Contents": found, "ResponseMetadata": {}}]

        where = "s3://photos--use1-az4--x-s3/out/images/"
        storage = Storage(readable=[where], s3_client=Client)  # type: ignore[arg-type]
        assert [one.location.name for one in storage.list(where, starting="cup-")] == ["cup-1.png", "cup-2.png"]
        assert len(list(storage.list(where))) == 3
        assert asked == ["out/images/", "out/images/"]
        assert not storage.lists_parts(where)
        assert storage.lists_parts("s3://photos/out/images/") and not storage.lists_parts("/photos/out/images/")

    def test_a_whole_bucket_can_be_listed(self, s3_client: object, s3_prefix: Location) -> None:
        S3Store(s3_client, "inpaint").put(s3_prefix.join("a").key, b"x")  # type: ignore[arg-type]
        storage = Storage(readable=["s3://inpaint"], s3_client=lambda: s3_client)  # type: ignore[arg-type, return-value]
        assert s3_prefix.join("a") in {info.location for info in storage.list("s3://inpaint")}
