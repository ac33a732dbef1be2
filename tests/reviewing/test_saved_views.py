"""Named views of the gallery in the store: one object per person, replaced only as it was read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, DamagedObjectError
from inpaint_ops.locations import Location
from inpaint_ops.reviewing import read_views, remove_view, save_view
from inpaint_ops.reviewing.saved_views import MAX_VIEWS
from inpaint_ops.runs import Workspace


@pytest.fixture
def workspace(prefix: Location, request: pytest.FixtureRequest) -> Workspace:
    """A store on each kind of storage."""
    return Workspace.open(Settings(), store=prefix.uri, s3_client=lambda: request.getfixturevalue("s3_client"))


def test_views_are_kept_replaced_and_removed_per_person(workspace: Workspace) -> None:
    assert read_views(workspace, "ann") == {}
    assert save_view(workspace, "ann", " failed rows ", "order=slowest&status=failed") == {
        "failed rows": "status=failed&order=slowest"
    }
    save_view(workspace, "ann", "ä/../%&", "text=a+%26+b%2F..")
    save_view(workspace, "ann", "all", "")
    save_view(workspace, "ben@example.org", "failed rows", "flag=any")
    assert read_views(workspace, "ann") == {
        "failed rows": "status=failed&order=slowest", "ä/../%&": "text=a+%26+b%2F..", "all": "",
    }  # fmt: skip
    save_view(workspace, "ann", "failed rows", "status=rejected")
    assert remove_view(workspace, "ann", "ä/../%&") == {"failed rows": "status=rejected", "all": ""}
    assert remove_view(workspace, "ann", "nowhere") == read_views(workspace, "ann")
    assert read_views(workspace, "ben@example.org") == {"failed rows": "flag=any"}


def test_many_windows_of_one_person_lose_no_view(workspace: Workspace) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: save_view(workspace, "ann", f"view {number}", f"least={number}"), range(6)))
    assert read_views(workspace, "ann") == {f"view {number}": f"least={number}" for number in range(6)}


def test_there_is_a_limit_of_views(workspace: Workspace) -> None:
    body = ",".join(f'"v{number}": ""' for number in range(MAX_VIEWS))
    workspace.storage.put(workspace.places.views("ann"), f'{{"views": {{{body}}}}}'.encode())
    with pytest.raises(ConfigError, match="50 views already: remove one first"):
        save_view(workspace, "ann", "one more", "")
    assert save_view(workspace, "ann", "v7", "flag=any")["v7"] == "flag=any"
    remove_view(workspace, "ann", "v8")
    assert len(save_view(workspace, "ann", "one more", "")) == MAX_VIEWS


@pytest.mark.parametrize(
    "body", [b"x", b"[]", b'{"views": {"a": 1}}', b'{"views": {"a": "run=x"}}', b'{"views": {"": ""}}']
)
def test_what_is_no_list_of_views_is_named(workspace: Workspace, body: bytes) -> None:
    workspace.storage.put(workspace.places.views("ann"), body)
    with pytest.raises(DamagedObjectError, match=r"views/ann\.json holds no views: remove it"):
        read_views(workspace, "ann")


@pytest.mark.parametrize(
    ("reviewer", "name", "query", "words"),
    [
        ("", "a", "", "reviewer"),
        ("a\nb", "a", "", "reviewer"),
        ("ann", "", "", "1 to 60"),
        ("ann", "x" * 61, "", "1 to 60"),
        ("ann", "a\nb", "", "not printable"),
        ("ann", "a", "page=3", "'page' is no filter"),
        ("ann", "a", "x" * 2001, "2,000"),
        ("ann", "a", "status", "query of an address"),
    ],
)
def test_what_is_no_view_is_refused(workspace: Workspace, reviewer: str, name: str, query: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        save_view(workspace, reviewer, name, query)
    assert not list(workspace.storage.list(workspace.places.views()))
