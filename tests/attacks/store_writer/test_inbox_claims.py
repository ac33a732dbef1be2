"""What somebody who can write to the store can do with claims: hold back a manifest, and no more than that."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import StorageError
from inpaint_ops.housekeeping import Candidate, in_the_store, retention, sweep
from inpaint_ops.inbox import MAX_CLAIM_BYTES, Claim, claim_all, claim_of, note_triggered
from inpaint_ops.locations import Location
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import now
from inpaint_ops.runs import Workspace, prepare

pytestmark = pytest.mark.usefixtures("aws_environment")

DAMAGED = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe\x00",
    "a list": b"[]",
    "no claimant": b"{}",
    "a claimant that is no text": b'{"claimant": 7}',
    "too deep": b'{"claimant":' + b"[" * 5000,
    "an endless claimant": json.dumps({"claimant": "x" * 2000}).encode(),
    "too large": json.dumps({"claimant": "airflow", "more": "x" * MAX_CLAIM_BYTES}).encode(),
}


@pytest.fixture
def workspace(prefix: Location) -> Workspace:
    return Workspace.open(Settings(), store=prefix.uri)


def drop(workspace: Workspace, name: str) -> Location:
    where = workspace.places.inbox.join(name)
    workspace.storage.put(where, b'{"image": "a.png", "mask": "b.png", "prompt": "x"}\n')
    return where


def place(workspace: Workspace, claim: Claim) -> Location:
    return workspace.places.claim(claim.mark)


def found(workspace: Workspace, days: float) -> list[Candidate]:
    return list(in_the_store(workspace, retention(), now() + timedelta(days=days)))


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_claim_costs_itself_a_line(workspace: Workspace, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A claim that is empty, garbage, or a bomb."""
    for name in ("hurt.jsonl", "other.jsonl"):
        drop(workspace, name)
    hurt, other = sorted(claim_all(workspace, "airflow"), key=lambda claim: claim.manifest)
    workspace.storage.put(place(workspace, hurt), DAMAGED[kind])
    drop(workspace, "new.jsonl")
    claims = claim_all(workspace, "airflow")
    assert other in claims and hurt not in claims and len(claims) == 2
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert hurt.mark in warning and "hurt.jsonl" in warning and "delete the claim" in warning
    workspace.storage.delete(place(workspace, hurt))
    assert hurt in claim_all(workspace, "airflow"), "the cure helps"


@pytest.mark.parametrize(
    "forged",
    [
        {"manifest": "s3://elsewhere/{{ 7*191 }}.jsonl", "run": "{{ 7*191 }}", "etag": "x"},
        {"manifest": "/etc/passwd", "run": "../../other", "etag": None},
        {"manifest": 7, "run": ["x"], "schema_version": 99, "claimed_at": "naïve", "more": {}},
    ],
)
def test_nothing_that_a_claim_says_of_its_manifest_or_run_is_believed(
    workspace: Workspace, forged: dict[str, Any]
) -> None:
    """A forged claim that points to another manifest and another run."""
    drop(workspace, "night.jsonl")
    (claim,) = claim_all(workspace, "airflow")
    workspace.storage.put(place(workspace, claim), json.dumps({"claimant": "airflow", **forged}).encode())
    assert claim_all(workspace, "airflow") == [claim]


@pytest.mark.parametrize("said", [*DAMAGED.values(), b'{"run": "../../x"}', b'{"run": 7}', b'{"run": "x\\ud800"}'])
def test_housekeeping_goes_on_past_any_claim(workspace: Workspace, said: bytes) -> None:
    """Claims that would stop housekeeping: damaged, with a forged run, or with a naive time."""
    left = drop(workspace, "left.jsonl")
    for name in ("begun.jsonl", "dead.jsonl"):
        drop(workspace, name)
    claims = {claim.manifest.rpartition("/")[2]: claim for claim in claim_all(workspace, "airflow")}
    begun = claims["begun.jsonl"]
    prepare(workspace, begun.manifest, begun.run, JobOptions(model="tiny-random"))
    workspace.storage.delete(left)
    for claim in claims.values():
        workspace.storage.put(place(workspace, claim), said)
    workspace.storage.put(workspace.places.claims.join("notes.txt"), b"a stray object")
    assert found(workspace, 1) == []
    assert sweep(found(workspace, 3), dry_run=False) == {"bytes": 2 * len(said), "failed": 0, "claim": 2}
    assert workspace.storage.exists(place(workspace, begun)), "its run is there"
    assert workspace.storage.exists(workspace.places.claims.join("notes.txt"))
    assert [claim.run for claim in claim_all(workspace, "another")] == [claims["dead.jsonl"].run]


def test_a_freed_claim_takes_the_note_that_it_was_triggered_with_it(workspace: Workspace) -> None:
    """Or the manifest would be claimed again and never be found again by a claimant that died."""
    drop(workspace, "night.jsonl")
    (claim,) = claim_all(workspace, "airflow")
    note_triggered(workspace, claim.mark)
    assert claim_all(workspace, "airflow") == []
    assert sweep(found(workspace, 3), dry_run=False)["claim"] == 1
    assert list(workspace.storage.list(workspace.places.claims)) == []
    assert claim_all(workspace, "airflow") == [claim]
    note_triggered(workspace, claim.mark)
    workspace.storage.delete(place(workspace, claim))
    assert [one.name for one in found(workspace, 3)] == [workspace.places.triggered(claim.mark).uri], (
        "one whose claim was deleted by hand goes too"
    )


def test_a_claim_that_cannot_be_written_holds_up_its_own_manifest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder in the claim's place."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    hurt = claim_of(workspace.storage.stat(drop(workspace, "hurt.jsonl")), "airflow")
    Path(place(workspace, hurt).key).mkdir(parents=True)
    with pytest.raises(StorageError, match="it is a folder"):
        claim_all(workspace, "airflow")
    caplog.clear()
    drop(workspace, "other.jsonl")
    (claim,) = claim_all(workspace, "airflow")
    assert claim.manifest.endswith("other.jsonl")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "hurt.jsonl" in warning and "it is a folder" in warning
