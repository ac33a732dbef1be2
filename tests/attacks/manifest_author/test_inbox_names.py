"""What the name of a file in the inbox, or the number of files there, can do to those who look into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.inbox import BATCH, claim_all, note_triggered, waiting
from inpaint_ops.layout import check_run_name
from inpaint_ops.locations import Location, parse
from inpaint_ops.planning import JobOptions
from inpaint_ops.runs import Workspace, prepare

pytestmark = pytest.mark.usefixtures("aws_environment")

REFUSED = [
    "{{ 7*191 }}.jsonl",
    "{% include 'x' %}.jsonl",
    "{# x #}.csv",
    "${jndi:ldap:x}.parquet",
    "%(asctime)s.jsonl",
    "%s%s%n.jsonl",
    "a%0d%0aforged.jsonl",
    "a\n2026-11-25 00:00:00 CRITICAL forged.jsonl",
    "a\rb.jsonl",
    "a\tb.jsonl",
    "\x1b[2Jcleared.jsonl",
    "\x7fdelete.jsonl",
    "\x9b2Jc1.jsonl",
    "a\u202egnp.jsonl",
    "a\u2066b.jsonl",
    "a\u2028b.jsonl",
    "a\u200bb.jsonl",
    "a\\b.jsonl",
]
TAKEN = [
    "night.jsonl",
    "Night 2 (final), take+1.JSONL",
    "été_#1?x=1&y.ndjson",
    "夜の仕事.csv",
    "..jsonl",
    "-rf.parquet",
]


@pytest.fixture
def workspace(prefix: Location) -> Workspace:
    return Workspace.open(Settings(), store=prefix.uri)


def drop(workspace: Workspace, name: str) -> None:
    """As any tool would, past the checks of our own storage."""
    inbox = workspace.places.inbox
    where = Location(inbox.bucket, inbox.key + name)
    if where.bucket is None:
        Path(where.key).parent.mkdir(parents=True, exist_ok=True)
        Path(where.key).write_bytes(b"x")
    else:
        workspace.storage._store(where)._client.put_object(Bucket=where.bucket, Key=where.key, Body=b"x")  # type: ignore[attr-defined]


def test_a_name_that_means_something_to_somebody_costs_itself_a_line(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """Templates, format strings, escapes, forged lines and turned text, all as names of files."""
    refused = [
        name for name in REFUSED if workspace.store.bucket is None or "\\" not in name
    ]  # to this S3 it is a slash
    for name in (*refused, *TAKEN):
        drop(workspace, name)
    with caplog.at_level("INFO"):
        claims = claim_all(workspace, "me")
    assert {parse(claim.manifest).name for claim in claims} == set(TAKEN)
    for claim in claims:
        check_run_name(claim.run)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == len(refused)
    for record in caplog.records:
        said = record.getMessage()
        assert said.isprintable(), ascii(said)
        assert record.levelname == "INFO" or "rename it" in said


def test_a_name_that_is_no_text_costs_itself_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that no encoding reads, which a file system allows."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    drop(workspace, "good.jsonl")
    with open(os.fsencode(tmp_path / "inbox") + b"/\xff\xfe.jsonl", "wb"):
        pass
    assert [parse(claim.manifest).name for claim in claim_all(workspace, "me")] == ["good.jsonl"]
    assert r"\udcff\udcfe.jsonl' in the inbox is not taken" in caplog.text


def test_a_thousand_refused_names_are_not_a_thousand_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flood of refused names, to hide what else the log says."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    for number in range(1000):
        drop(workspace, f"{{{number}}}.jsonl")
    drop(workspace, "good.jsonl")
    assert len(claim_all(workspace, "me")) == 1
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 21 and "980 more" in caplog.text


def test_a_full_inbox_delays_and_never_jams(tmp_path: Path) -> None:
    """1,025 empty files, each of which Airflow triggers and no run comes of; then a manifest of somebody else."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    for number in range(1025):
        drop(workspace, f"{number:04}.jsonl")
        os.utime(tmp_path / "inbox" / f"{number:04}.jsonl", (number, number))
    first = claim_all(workspace, "airflow")
    assert [parse(claim.manifest).name for claim in first] == [f"{number:04}.jsonl" for number in range(BATCH)]
    drop(workspace, "victim.jsonl")
    looks = 0
    while not any(claim.manifest.endswith("victim.jsonl") for claim in first):
        for claim in first:
            note_triggered(workspace, claim.mark)
        first, looks = claim_all(workspace, "airflow"), looks + 1
        assert len(first) <= BATCH
    assert looks == 1026 // BATCH


def test_claims_that_nothing_comes_of_leave_half_of_each_look_to_others(tmp_path: Path) -> None:
    """The same where the triggering itself fails each time: what was claimed comes back, and new ones get in."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    for number in range(BATCH):
        drop(workspace, f"{number:04}.jsonl")
    assert len(claim_all(workspace, "airflow")) == BATCH
    assert len(claim_all(workspace, "airflow")) == BATCH, "found again, all of them"
    for number in range(BATCH):
        drop(workspace, f"new-{number:04}.jsonl")
    claims = claim_all(workspace, "airflow")
    assert sum("new-" in claim.manifest for claim in claims) == BATCH // 2 == len(claims) // 2


def test_a_long_used_inbox_costs_a_look_no_more_than_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 manifests that were painted long ago and lie there still."""
    workspace = Workspace.open(Settings(), store=str(tmp_path))
    for number in range(2000):
        drop(workspace, f"old-{number}.jsonl")
    for claim in claim_all(workspace, "airflow", limit=5000):
        (tmp_path / "runs" / claim.run).mkdir(parents=True)
        (tmp_path / "runs" / claim.run / "plan.json").touch()
    for number in range(3):
        drop(workspace, f"new-{number}.jsonl")
    calls: list[str] = []
    for name in ("get", "put", "stat", "list", "folders", "delete"):
        real = getattr(workspace.storage, name)
        monkeypatch.setattr(
            workspace.storage, name, lambda *a, real=real, name=name, **o: (calls.append(name), real(*a, **o))[1]
        )
    claims = claim_all(workspace, "airflow")
    assert sorted(parse(claim.manifest).name for claim in claims) == [f"new-{number}.jsonl" for number in range(3)]
    assert sorted(calls) == ["folders", "list", "list", "put", "put", "put"]


def test_folders_in_the_inbox_are_not_walked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that we may not list, or a million photos below the inbox."""
    drop(workspace, "night.jsonl")
    for number in range(3):
        where = workspace.places.inbox.join(f"photos/{number}.jsonl")
        workspace.storage.put(where, b"x")
    scanned: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": (scanned.append(str(path)), real(path))[1])
    assert [info.location.name for info in waiting(workspace)] == ["night.jsonl"]
    assert not [path for path in scanned if "photos" in path]


def test_a_run_that_began_is_not_triggered_again(workspace: Workspace) -> None:
    """A manifest left in the inbox after its night."""
    row = b'{"image": "a.png", "mask": "b.png", "prompt": "x"}\n'
    where = workspace.places.inbox.join("night.jsonl")
    workspace.storage.put(where, row)
    (claim,) = claim_all(workspace, "me")
    assert claim_all(workspace, "me") == [claim]
    prepare(workspace, claim.manifest, claim.run, JobOptions(model="tiny-random"))
    assert claim_all(workspace, "me") == []
