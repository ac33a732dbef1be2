"""The pages' list of runs is kept in a file of their own, and a bad line costs itself alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from inpaint_ops.browse import kept
from inpaint_ops.browse.catalogue import RunEntry, RunQuery, cache_path
from inpaint_ops.browse.views import RunViews
from inpaint_ops.config import Settings
from inpaint_ops.runs import Workspace
from tests.attacks.neighbour.conftest import NOBODY, Neighbour, plant
from tests.support.synthetic_run import put_finished_run


@pytest.fixture
def workspace(shared: Path, tmp_path: Path) -> Workspace:
    made = Workspace.open(Settings(scratch=shared), store=str(tmp_path / "store"))
    put_finished_run(made, "good", 4)
    return made


def names(workspace: Workspace) -> set[str]:
    page = RunViews(workspace).catalogue.page(RunQuery())
    assert page.unread == 0
    return {entry.run for entry in page.entries if entry.state == "finished"}


FILES = {
    "a link": 'ln -s "$2" "$1"',
    "a FIFO": 'mkfifo -m 666 "$1"',
    "their own file": 'touch "$1" && chmod 666 "$1"',
    "a hard link": 'touch other && chmod 666 other && ln other "$1"',
}


@pytest.mark.parametrize("what", FILES)
def test_another_users_folder_is_done_without(
    workspace: Workspace, neighbour: Neighbour, shared: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another user makes the folder of the list first, with a file at which the pages wait or append elsewhere."""
    precious = shared / "precious"
    precious.write_text("ours\n")
    path = cache_path(workspace)
    plant(neighbour, f'mkdir -m 777 "$3" && {FILES[what]}', path, precious, path.parent)
    assert names(workspace) == {"good"}, "the pages work all the same"
    assert precious.read_text() == "ours\n"
    assert not neighbour('cat "$1"', path).stdout if what == "their own file" else True
    assert f"not kept between restarts: {path.parent} belongs to uid {NOBODY}" in caplog.text


@pytest.mark.parametrize("what", ["a link", "a FIFO", "a hard link", "a folder"])
def test_what_is_no_file_in_our_own_folder_is_done_without(
    workspace: Workspace, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the list's place is a FIFO or a link, of ours: the pages start, and do not wait."""
    path, precious = cache_path(workspace), tmp_path / "precious"
    path.parent.mkdir(mode=0o700)
    precious.write_text("ours\n")
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a link":
        path.symlink_to(precious)
    elif what == "a folder":
        path.mkdir()
    else:
        (path.parent / "other").write_text("ours\n")
        path.hardlink_to(path.parent / "other")
    assert names(workspace) == {"good"}
    assert precious.read_text() == "ours\n"
    assert "not kept between restarts" in caplog.text


BAD = {
    "not JSON": b"{",
    "no object": b"[[[[]]]]",
    "deep": b"[" * 60_000,
    "not UTF-8": b'{"run": "\xff\xfe", "state": "finished"}',
    "a naive time": b'{"run": "good", "state": "finished", "created_at": "2026-01-01T00:00:00"}',
    "no name of a run": json.dumps({"run": "../../etc", "state": "finished"}).encode(),
    "control characters": json.dumps({"run": "a\u001b[2J", "state": "finished"}).encode(),
    "a state that is kept of no run": json.dumps({"run": "good", "state": "unreadable"}).encode(),
    "too long": json.dumps({"run": "good", "state": "finished", "manifest": "m" * 100_000}).encode(),
    "empty": b"",
    "zeros": b"\0" * 5000,
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_costs_itself(workspace: Workspace, what: str) -> None:
    """A damaged line of the list stands among good ones."""
    path = cache_path(workspace)
    path.parent.mkdir(mode=0o700)
    good = [RunEntry(run=name, state="finished").model_dump_json().encode() for name in ("first", "last")]
    path.write_bytes(b"\n".join([good[0], BAD[what], good[1], b""]))
    assert set(RunViews(workspace).catalogue._entries) == {"first", "last"}
    assert names(workspace) == {"good"}, "what the store does not list is not shown"


def test_of_a_huge_list_the_newest_lines_are_read_and_kept(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list has grown to 2 GB."""
    monkeypatch.setattr(kept, "MAX_BYTES", 10_000)
    path = cache_path(workspace)
    path.parent.mkdir(mode=0o700)
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + RunEntry(run="newest", state="finished").model_dump_json().encode() + b"\n")
    assert set(RunViews(workspace).catalogue._entries) == {"newest"}
    assert path.stat().st_size < 10_000
    assert set(RunViews(workspace).catalogue._entries) == {"newest"}, "the next start finds it"
