"""Of many files in one folder, those that are links out of what may be read are refused, looked at singly or listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.locations import Location, parse
from inpaint_ops.storage import Storage, links


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_bytes(b"secret")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "plain.png").touch()
    (allowed / "within.png").symlink_to("plain.png")
    (allowed / "out.png").symlink_to("../outside")
    return allowed


def _answers(folder: Path) -> list[dict[str, bool]]:
    """What is said of the folder's files before it is listed, and after."""
    may_read = Storage(readable=[folder]).may_read_each()
    names = [*sorted(path.name for path in folder.iterdir()), "missing.png", "", ".."]
    places = {name: Location(None, f"{folder}/{name}") for name in names}
    before = {name: may_read(place) for name, place in places.items()}
    plain = parse(str(folder / "plain.png"))
    assert all(may_read(plain) for _ in range(links._ASKED_ONE_BY_ONE))
    return [before, {name: may_read(place) for name, place in places.items()}]


def test_links_are_followed_before_and_after_the_folder_is_listed(folder: Path) -> None:
    wanted = {"out.png": False, "plain.png": True, "within.png": True, "missing.png": True, "": False, "..": False}
    assert _answers(folder) == [wanted, wanted]


@pytest.mark.parametrize("limit", ["_MOST_ENTRIES", "_MOST_LINKS"])
def test_a_folder_with_too_much_to_list_is_looked_at_file_by_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(links, limit, 1)
    before, after = _answers(folder)
    assert before == after and not after["out.png"]


def test_many_files_are_not_looked_at_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    def is_no_link(path: str) -> bool:
        looked_at.append(path)
        return False

    monkeypatch.setattr("os.path.islink", is_no_link)
    may_read = Storage(readable=[folder]).may_read_each()
    for number in range(3 * links._ASKED_ONE_BY_ONE):
        assert may_read(Location(None, f"{folder}/{number}.png"))
    assert len(looked_at) == links._ASKED_ONE_BY_ONE
