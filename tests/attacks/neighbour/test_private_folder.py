"""What another user has planted in the place of a folder or a file is refused, whatever it is."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from inpaint_ops.errors import UnsafePathError
from inpaint_ops.machine import private_folder as private_folder_module
from inpaint_ops.machine.private_folder import open_file, private_folder, read_bounded, replace_file, trusted_folder
from tests.attacks.neighbour.conftest import NOBODY, Neighbour, plant

FOLDERS = {
    "their own": 'mkdir -m 700 "$1"',
    "their own, open to all": 'mkdir -m 777 "$1"',
    "a link to a folder of theirs": 'mkdir theirs && ln -s "$PWD/theirs" "$1"',
    "a link to a folder of ours": 'ln -s "$PWD/ours" "$1"',
    "a link that leads nowhere": 'ln -s "$PWD/nowhere" "$1"',
    "a link to itself": 'ln -s "$1" "$1"',
}


@pytest.mark.parametrize("place", ["itself", "above"])
@pytest.mark.parametrize("what", FOLDERS)
def test_a_planted_folder_is_refused(shared: Path, neighbour: Neighbour, what: str, place: str) -> None:
    """Another user makes the folder, or one above it, first."""
    (shared / "ours").mkdir(mode=0o700)
    wanted = shared / "first" if place == "itself" else shared / "first" / "second" / "third"
    plant(neighbour, FOLDERS[what], shared / "first")
    for use in (private_folder, trusted_folder):
        with pytest.raises(UnsafePathError, match=f"{shared}/first belongs to uid {NOBODY}"):
            use(wanted)
    assert not list((shared / "ours").iterdir()), "nothing was made by way of the link"


def test_a_folder_planted_between_the_look_and_the_making_is_refused(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user makes the folder after we have seen that it is missing, just before we make it."""
    real = os.mkdir

    def slow(name: str, mode: int, *, dir_fd: int) -> None:
        plant(neighbour, 'mkdir -m 777 "$1"', shared / "ours")
        real(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", slow)
    with pytest.raises(UnsafePathError, match=f"uid {NOBODY}"):
        private_folder(shared / "ours")


def test_a_folder_swapped_between_the_look_and_its_opening_is_refused(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user puts a link in the folder's place after we have seen a folder there."""
    (shared / "ours").mkdir(mode=0o700)
    plant(neighbour, "mkdir planted")
    real = os.open

    def slow(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "planted":
            plant(neighbour, 'rmdir planted && ln -s "$1" planted', shared / "ours")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", slow)
    with pytest.raises(OSError, match="Not a directory"):
        private_folder(shared / "planted")


@pytest.mark.parametrize("mode", [0o777, 0o733, 0o772, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path, mode: int) -> None:
    """Another user adds files to a folder of ours that was made with too wide a mode."""
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(mode)
    for use in (private_folder, trusted_folder):
        with pytest.raises(UnsafePathError, match=r"other users can write to .*wide \(mode"):
            use(tmp_path / "wide")
    assert (tmp_path / "wide").stat().st_mode & 0o7777 == mode, "nor is it made to look safe"


def test_a_group_counts_as_others(tmp_path: Path) -> None:
    """Another user of the folder's group adds files to it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another group")
    (tmp_path / "group").mkdir()
    os.chown(tmp_path / "group", -1, NOBODY)
    (tmp_path / "group").chmod(0o770)
    with pytest.raises(UnsafePathError, match="mode 0770"):
        trusted_folder(tmp_path / "group")
    os.chown(tmp_path / "group", -1, 0)
    assert trusted_folder(tmp_path / "group") == tmp_path / "group", "root's group is root"


def test_what_lies_in_a_folder_that_others_can_rename_in_is_not_used(tmp_path: Path) -> None:
    """Another user renames our folder away and puts theirs in its place: its parent is open and not sticky."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UnsafePathError, match=r"chmod \+t it"):
        private_folder(tmp_path / "open" / "ours")
    (tmp_path / "open").chmod(0o1777)
    ours = private_folder(tmp_path / "open" / "ours")
    assert ours.stat().st_mode & 0o7777 == 0o700


def test_a_folder_that_others_could_read_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another user reads in a folder of ours that was made with the usual mode."""
    (tmp_path / "readable").mkdir(mode=0o755)
    assert private_folder(tmp_path / "readable").stat().st_mode & 0o7777 == 0o700
    assert "0755" in caplog.text


def test_links_of_ours_are_followed_once_and_for_all(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/../disk")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    assert private_folder(tmp_path / "chain" / "new") == tmp_path / "disk" / "new"


def in_a_user_namespace(path: Path) -> str:
    """What comes of `private_folder(path)` for a user who is alone in a user namespace: there root has no number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it cannot be made"
        try:
            os.setgroups([])
            os.setresgid(4321, 4321, 4321)
            os.setresuid(4321, 4321, 4321)
            libc = ctypes.CDLL(None)
            libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else its uid_map is root's
            if libc.unshare(0x10000000) == 0:  # CLONE_NEWUSER
                Path("/proc/self/uid_map").write_text("4321 4321 1")
                said = "a folder of ours"
                private_folder_module._nobody.cache_clear()
                private_folder(path)
        except UnsafePathError as error:
            said = str(error)
        except PermissionError:  # the map: no namespaces here
            said = "it cannot be made"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as answer:
        return answer.read()


def test_in_a_user_namespace_the_folders_of_root_are_known_by_where_they_are(
    shared: Path, neighbour: Neighbour
) -> None:
    """Another user makes a folder first that looks as root's does in a namespace without root: `nobody`'s."""
    ours = shared.with_name(f"{shared.name}-ours")
    try:
        if (said := in_a_user_namespace(ours)) == "it cannot be made":
            pytest.skip("no user namespaces here")
        assert said == "a folder of ours", "in /tmp, which is root's"
        assert ours.stat().st_uid == 4321
        plant(neighbour, "mkdir -m 777 theirs")
        assert f"{shared} belongs to uid {NOBODY}" in in_a_user_namespace(shared / "theirs" / "ours")
    finally:
        shutil.rmtree(ours, ignore_errors=True)


FILES = {
    "a link to a file of ours": ('ln -s "$PWD/precious" "$1"', "is a link"),
    "a link to nothing": ('ln -s "$PWD/nothing" "$1"', "is a link"),
    "a FIFO": ('mkfifo "$1"', "no regular file"),
    "a folder": ('mkdir "$1"', "no regular file"),
    "a file of theirs": ('touch "$1" && chmod 666 "$1"', "belongs to uid"),
    "a hard link to a file of theirs": ('touch other && chmod 666 other && ln other "$1"', "hard links"),
}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
@pytest.mark.parametrize("what", FILES)
def test_a_planted_file_is_refused(shared: Path, neighbour: Neighbour, what: str, flags: int) -> None:
    """Another user makes the file first; it is neither written to nor waited for."""
    (shared / "precious").write_text("ours")
    script, said = FILES[what]
    plant(neighbour, script, shared / "file")
    with pytest.raises(UnsafePathError, match=said):
        open_file(shared / "file", flags)
    assert (shared / "precious").read_text() == "ours"
    assert not (shared / "nothing").exists()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
def test_a_hard_link_to_a_file_of_ours_is_refused(shared: Path, flags: int) -> None:
    """A hard link to one of our own files stands where ours should be made (where the kernel lets others make one)."""
    (shared / "precious").write_text("ours")
    (shared / "file").hardlink_to(shared / "precious")
    with pytest.raises(UnsafePathError, match="2 names"):
        open_file(shared / "file", flags)


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    """A device stands where a file should be: to open one may do something."""
    with pytest.raises(UnsafePathError, match="no regular file"):
        open_file(Path("/dev/zero"), os.O_RDONLY)
    with pytest.raises(UnsafePathError, match="no regular file"):
        read_bounded(Path("/dev/zero"), 10)


def test_a_file_swapped_between_the_look_and_its_opening_is_refused(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user puts a FIFO of theirs in place after we have seen that no file is there."""
    real = os.open

    def slow(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "file" and not (shared / "file").exists():
            plant(neighbour, "mkfifo file")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", slow)
    with pytest.raises(UnsafePathError, match="no regular file"):
        open_file(shared / "file", os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("tail", [False, True])
def test_a_file_of_two_gigabytes_is_read_up_to_the_limit(tmp_path: Path, tail: bool) -> None:
    """A file has grown to 2 GB, nearly all of it a hole."""
    with (tmp_path / "large").open("wb") as file:
        file.write(b"first")
        file.truncate(2 * 2**30)
        file.seek(0, os.SEEK_END)
        file.write(b"last")
    found = read_bounded(tmp_path / "large", 100, tail=tail)
    assert len(found) == 100
    assert found.endswith(b"last") if tail else found.startswith(b"first")


def test_a_file_is_replaced_and_never_written_through_a_link(shared: Path, neighbour: Neighbour) -> None:
    """Another user links the file to one of ours before it is written."""
    (shared / "precious").write_text("ours")
    plant(neighbour, 'ln -s "$PWD/precious" kept')
    replace_file(shared / "kept", b"new")
    assert (shared / "precious").read_text() == "ours"
    assert (shared / "kept").read_bytes() == b"new"
    assert (shared / "kept").lstat().st_mode & 0o777 == 0o600
