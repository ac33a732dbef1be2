"""Each manifest is claimed exactly once, whoever else is looking, and a claim whose winner died is found again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.inbox import claim_all, waiting
from inpaint_ops.locations import Location
from inpaint_ops.runs import Workspace

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture
def workspace(prefix: Location) -> Workspace:
    return Workspace.open(Settings(), store=prefix.uri)


def drop(workspace: Workspace, name: str, data: bytes = b"{}\n") -> None:
    workspace.storage.put(workspace.places.inbox.join(name), data)


def test_manifests_directly_in_the_inbox_wait_and_nothing_else_does(workspace: Workspace) -> None:
    for name in (
        "night.jsonl",
        "b.csv",
        "c.parquet",
        "E.XLSX",
        "f.tsv",
        "g.csv.gz",
        "h.gz",
        "photo.png",
        "deeper/d.jsonl",
    ):
        drop(workspace, name)
    taken = {info.location.name for info in waiting(workspace)}
    assert taken == {"night.jsonl", "b.csv", "c.parquet", "E.XLSX", "f.tsv", "g.csv.gz"}


def test_of_many_schedulers_one_claims_each_manifest(workspace: Workspace) -> None:
    names = [f"night-{index}.jsonl" for index in range(5)]
    for name in names:
        drop(workspace, name)
    barrier = threading.Barrier(6)
    claimed: list[str] = []

    def scheduler(number: int) -> None:
        barrier.wait()
        claimed.extend(claim.manifest for claim in claim_all(workspace, f"scheduler-{number}"))

    threads = [threading.Thread(target=scheduler, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Path(uri).name for uri in claimed) == names


def test_a_claimant_that_died_finds_its_claims_again_under_the_same_run_name(workspace: Workspace) -> None:
    drop(workspace, "night.jsonl")
    (first,) = claim_all(workspace, "me")
    assert claim_all(workspace, "me") == [first]
    assert claim_all(workspace, "another") == []


def test_a_manifest_replaced_by_other_content_is_a_new_one(workspace: Workspace) -> None:
    drop(workspace, "night.jsonl", b"one")
    (first,) = claim_all(workspace, "me")
    drop(workspace, "night.jsonl", b"two, longer")
    second = next(claim for claim in claim_all(workspace, "me") if claim.run != first.run)
    assert second.manifest == first.manifest
