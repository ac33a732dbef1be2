"""Photos on the machine's disk are nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inpaint_ops.cli.doctor import diagnose
from inpaint_ops.config import Settings
from inpaint_ops.errors import UnsafePathError
from inpaint_ops.machine.scratch import scratch_folder, sweep
from tests.attacks.neighbour.conftest import NOBODY, Neighbour, plant


def test_another_users_folder_is_not_taken_for_scratch(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the scratch folder first, lets everybody write to it, and reads the photos."""
    plant(neighbour, 'mkdir -m 777 "$1"', shared / "scratch")
    with (
        pytest.raises(UnsafePathError, match=f"scratch belongs to uid {NOBODY}"),
        scratch_folder(shared / "scratch", "run-00000-try") as folder,
    ):
        (folder / "image").write_bytes(b"a photo")
    assert not neighbour("cat scratch/*/image").stdout


@pytest.mark.parametrize("root", ["made here", "of the administrator, for all"])
def test_photos_cannot_be_read_or_replaced(shared: Path, neighbour: Neighbour, root: str) -> None:
    """Another user looks into the scratch folder, and tries to put a folder of theirs in its place."""
    place = shared if root != "made here" else shared / "scratch"
    with scratch_folder(place, "run-00000-try") as folder:
        (folder / "image").write_bytes(b"a photo")
        for script in ('cat "$1/image"', 'ls "$1"', 'mv "$1" away', 'rm -rf "$1"', 'touch "$1/planted"'):
            done = neighbour(script, folder)
            assert done.returncode != 0 and not done.stdout, script
        assert (folder / "image").read_bytes() == b"a photo"
    assert not folder.exists()


def test_a_try_never_uses_a_folder_that_is_there(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the try's own folder first, in a scratch folder for all."""
    plant(neighbour, "mkdir -m 777 run-00000-try")
    with pytest.raises(FileExistsError), scratch_folder(shared, "run-00000-try"):
        pass


SWEPT = {
    "a folder of theirs": "mkdir old && echo theirs > old/kept && touch old/.owner && chmod -R a+rwX old",
    "a FIFO for a lock": "mkdir old && echo theirs > old/kept && mkfifo -m 666 old/.owner && chmod a+rx old",
    "a link to our folder": 'ln -s "$1" old',
    "a link for a lock": 'mkdir old && echo theirs > old/kept && ln -s "$1/.owner" old/.owner && chmod a+rx old',
}


@pytest.mark.parametrize("what", SWEPT)
def test_a_sweep_removes_our_own_folders_alone(shared: Path, neighbour: Neighbour, what: str) -> None:
    """Another user has us remove, or wait for, what is not a dead try of ours."""
    ours = shared / "closed" / "precious"
    ours.mkdir(parents=True)
    (ours / ".owner").write_text("")
    (ours / "kept").write_text("ours")
    plant(neighbour, SWEPT[what], ours)
    sweep(shared)
    assert (ours / "kept").read_text() == "ours"
    assert (shared / "old" / "kept").exists()


def test_a_sweep_of_another_users_scratch_is_refused(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the scratch folder first; the sweep comes before it is used."""
    plant(neighbour, "mkdir -m 777 scratch")
    with pytest.raises(UnsafePathError, match=f"uid {NOBODY}"):
        sweep(shared / "scratch")


def test_the_default_is_a_folder_of_this_users_own(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users have the same temporary folder, and the first one's scratch was everybody's."""
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    assert Settings().scratch == shared / f"inpaint_ops-{os.geteuid()}"
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert Settings().scratch == shared / "inpaint_ops-4321"


def test_doctor_tells_of_scratch_that_is_not_safe(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the scratch folder first, and the operator asks what is wrong."""
    plant(neighbour, "mkdir -m 777 scratch")
    [found] = [one for one in diagnose(Settings(scratch=shared / "scratch")) if one.name == "scratch"]
    assert found.state == "missing"
    assert f"belongs to uid {NOBODY}" in found.detail
