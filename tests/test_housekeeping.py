"""Housekeeping: a dry run touches nothing, a real one takes what is old and no more, on both kinds of store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, ForbiddenLocationError
from inpaint_ops.housekeeping import Candidate, Retention, in_the_model_cache, in_the_store, retention, sweep
from inpaint_ops.inbox import claim_all
from inpaint_ops.layout import gallery_name
from inpaint_ops.locations import Location
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import now
from inpaint_ops.runs import Workspace, keep_refusal, prepare, refusal
from inpaint_ops.storage.files import TEMP_PREFIX

pytestmark = pytest.mark.usefixtures("aws_environment")

RETENTION = Retention()
ROW = b'{"image": "a.png", "mask": "b.png", "prompt": "a cup"}\n'


@pytest.fixture
def workspace(prefix: Location) -> Workspace:
    return Workspace.open(Settings(), store=prefix.uri)


def put(workspace: Workspace, key: str, data: bytes = b"x") -> Location:
    return workspace.storage.put(Location(workspace.store.bucket, f"{workspace.store.key}{key}"), data).location


def make_run(workspace: Workspace, run: str) -> None:
    manifest = put(workspace, f"inbox/{run}.jsonl", ROW)
    prepare(workspace, manifest.uri, run, JobOptions(model="tiny-random"))
    for key in ("images/a.png", "records/00000/0000001.json", "run.json"):
        put(workspace, f"runs/{run}/{key}")


def keys(workspace: Workspace) -> set[str]:
    return {info.location.key.removeprefix(workspace.store.key) for info in workspace.storage.list(workspace.store)}


def found(workspace: Workspace, days: int) -> list[Candidate]:
    return list(in_the_store(workspace, RETENTION, now() + timedelta(days=days)))


def test_a_refused_job_is_removed_when_it_is_old_and_nothing_else_that_has_no_plan(workspace: Workspace) -> None:
    assert keep_refusal(workspace, refusal(ConfigError("no"), run="refused", manifest="x"))
    put(workspace, "runs/foreign/refused.json", b'{"run": "foreign"}')
    put(workspace, "runs/of-another/refused.json", workspace.storage.get(workspace.layout("refused").refusal))
    assert not [one for one in found(workspace, 89) if one.kind == "run"]
    assert sweep(found(workspace, 91), dry_run=False)["run"] == 1
    assert keys(workspace) == {"runs/foreign/refused.json", "runs/of-another/refused.json"}


def test_a_gallery_goes_once_its_link_has_ended_and_not_before(workspace: Workspace) -> None:
    ends = now() + timedelta(days=3)
    place = workspace.places.gallery("night", gallery_name(ends))
    for name in ("contact-sheet/0001.html", "SHA256SUMS"):
        workspace.storage.put(place.join(name), b"x")
    for strange in (
        "night/until-20261399T000000Z-00000000/a",
        "night/until-x/a",
        "a.html",
        "until-20200101T000000Z-1f2e3d4c/a",
    ):
        put(workspace, f"linked/{strange}")
    assert not found(workspace, 2)
    counts = sweep(found(workspace, 4), dry_run=False)
    assert (counts["gallery"], counts["bytes"], counts["failed"]) == (1, 2, 0)
    assert len(keys(workspace)) == 4, "what has no name of ours is not ours"


def test_a_dry_run_says_what_would_go_and_touches_nothing(workspace: Workspace) -> None:
    make_run(workspace, "old")
    before = keys(workspace)
    counts = sweep(found(workspace, 91))
    assert counts["run"] == 1
    assert counts["bytes"] > 0
    assert keys(workspace) == before


def test_an_old_run_goes_whole_and_nothing_beside_it(workspace: Workspace) -> None:
    make_run(workspace, "old")
    stranger = put(workspace, "runs/not-a-run/holiday.jpg")
    before = keys(workspace)
    sweep(found(workspace, 91), dry_run=False)
    gone = before - keys(workspace)
    assert gone == {key for key in before if key.startswith("runs/old/")}
    assert workspace.storage.exists(stranger)
    assert workspace.storage.exists(workspace.places.inbox.join("old.jsonl"))


def test_a_run_that_changed_lately_stays(workspace: Workspace) -> None:
    make_run(workspace, "young")
    assert found(workspace, 89) == []


def test_a_run_and_its_child_runs_go_together(tmp_path: Path) -> None:
    """Else a run that is still reviewed would lose the images that were accepted in place of its own."""
    workspace = Workspace.open(Settings(), store=str(tmp_path / "store"))
    for run in ("parent", "child", "grandchild", "alone"):
        make_run(workspace, run)
    put(workspace, "runs/parent/redo/child.jsonl", ROW)
    put(workspace, "runs/child/redo/grandchild.jsonl", ROW)
    put(workspace, "runs/grandchild/redo/parent.jsonl", ROW)  # a circle, by somebody else
    old = time.time() - 100 * 86400
    for info in workspace.storage.list(workspace.store):
        os.utime(info.location.key, (old, old))
    assert {one.name for one in found(workspace, 0)} == {"parent", "child", "grandchild", "alone"}
    put(workspace, "runs/parent/reviews/ann.jsonl")
    assert {one.name for one in found(workspace, 0)} == {"alone"}


def test_a_run_half_removed_still_says_that_rows_are_missing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(workspace, "old")
    (candidate,) = found(workspace, 91)
    deleted: list[Location] = []
    delete = workspace.storage.delete

    def dies_after_two(where: Location) -> None:
        if len(deleted) == 2:
            raise OSError("power cut")
        deleted.append(where)
        delete(where)

    monkeypatch.setattr(workspace.storage, "delete", dies_after_two)
    assert sweep([candidate], dry_run=False)["failed"] == 1
    monkeypatch.undo()
    assert workspace.plan("old") is not None
    assert not list(workspace.storage.list(workspace.layout("old").records)), "no record without its image"
    sweep(found(workspace, 91), dry_run=False)
    assert workspace.plan("old") is None


def test_a_claim_of_the_dead_is_freed_and_claimed_again(workspace: Workspace) -> None:
    put(workspace, "inbox/night.jsonl", ROW)
    (claim,) = claim_all(workspace, "the dead")
    assert claim_all(workspace, "the living") == []
    assert found(workspace, 1) == []
    sweep(found(workspace, 3), dry_run=False)
    (again,) = claim_all(workspace, "the living")
    assert again.run == claim.run, "so that two who both begin it share one run"


def test_a_claim_whose_run_began_stays_and_so_does_one_whose_run_may_have_been_removed(workspace: Workspace) -> None:
    manifest = put(workspace, "inbox/night.jsonl", ROW)
    (claim,) = claim_all(workspace, "me")
    assert [one.kind for one in found(workspace, 91)] == []
    prepare(workspace, manifest.uri, claim.run, JobOptions(model="tiny-random"))
    assert found(workspace, 3) == []
    sweep(found(workspace, 91), dry_run=False)
    assert workspace.plan(claim.run) is None
    assert claim_all(workspace, "another") == [], "or the manifest, which waits still, would be painted again"


def test_a_claim_without_manifest_or_run_goes(workspace: Workspace) -> None:
    manifest = put(workspace, "inbox/night.jsonl", ROW)
    claim_all(workspace, "me")
    workspace.storage.delete(manifest)
    sweep(found(workspace, 3), dry_run=False)
    assert not [key for key in keys(workspace) if key.startswith("claims/")]


@pytest.fixture
def begin_upload(workspace: Workspace, request: pytest.FixtureRequest) -> Callable[[Location], None]:
    """Begin a write at a location and never end it."""

    def begin(where: Location) -> None:
        if where.bucket is None:
            path = Path(where.key).with_name(f"{TEMP_PREFIX}dead")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        else:
            client = request.getfixturevalue("s3_client")
            client.create_multipart_upload(Bucket=where.bucket, Key=where.key)

    return begin


def test_an_upload_that_nobody_ended_is_given_up_and_one_outside_the_store_is_not(
    workspace: Workspace, begin_upload: Callable[[Location], None]
) -> None:
    root = workspace.store
    inside = Location(root.bucket, f"{root.key}inbox/large.tif")
    outside = Location(root.bucket, f"{root.parent.key}elsewhere/large.tif")
    for where in (inside, outside):
        begin_upload(where)
    assert found(workspace, 6) == []
    assert [one.kind for one in found(workspace, 8)] == ["upload"]
    assert len(list(workspace.storage.unfinished(root))) == 1
    sweep(found(workspace, 8), dry_run=False)
    assert list(workspace.storage.unfinished(root)) == []
    with pytest.raises(ForbiddenLocationError):
        workspace.storage.unfinished(root.parent)
    everywhere = Workspace.open(Settings(), store=root.parent.uri)
    (left,) = everywhere.storage.unfinished(root.parent)
    assert "elsewhere" in left.location.key
    with pytest.raises(ForbiddenLocationError):
        workspace.storage.discard(left)


def make_model(cache: Path, name: str, read: datetime) -> Path:
    folder = cache / name
    (folder / "blobs").mkdir(parents=True)
    blob = folder / "blobs/abc"
    blob.write_bytes(b"weights")
    (folder / "snapshots/1").mkdir(parents=True)
    (folder / "snapshots/1/model.safetensors").symlink_to(blob)
    os.utime(blob, (read.timestamp(), read.timestamp()))
    return folder


def test_a_model_that_nobody_reads_goes_and_the_one_in_use_stays(tmp_path: Path) -> None:
    old = now() - timedelta(days=40)
    unused = make_model(tmp_path, "models--us--unused", old)
    needed = make_model(tmp_path, "models--us--needed", old)
    fresh = make_model(tmp_path, "models--us--fresh", now())
    other = tmp_path / "datasets--us--old"
    other.mkdir()
    os.utime(other, (time.time() - 1e8,) * 2)
    assert sweep(in_the_model_cache(tmp_path, RETENTION, keep=["us/needed"]))["model"] == 1
    assert unused.exists()
    assert sweep(in_the_model_cache(tmp_path, RETENTION, keep=["us/needed"]), dry_run=False)["bytes"] == 7
    assert not unused.exists()
    assert needed.exists() and fresh.exists() and other.exists()


def test_one_that_cannot_be_removed_does_not_stop_the_others() -> None:
    removed: list[str] = []

    def refuse() -> None:
        raise PermissionError("read-only")

    candidates = [Candidate("model", "a", "", 1, refuse), Candidate("model", "b", "", 2, lambda: removed.append("b"))]
    assert sweep(candidates, dry_run=False) == {"bytes": 2, "failed": 1, "model": 1}
    assert removed == ["b"]


def test_claims_are_freed_before_runs_go() -> None:
    with pytest.raises(ConfigError, match="fewer days"):
        retention(claims=90, runs=90)
