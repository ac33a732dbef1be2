"""Compiled code is kept where no other user can put code of theirs, or nothing is compiled."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from inpaint_ops.model import attention, compiled, digests, tuned
from inpaint_ops.protocol import Bye, Done, End, Ready
from inpaint_ops.tuning import PROBES, AttentionProbe, Tuning
from tests.attacks.neighbour.conftest import NOBODY, Neighbour, plant
from tests.support.ledgers import CPU, fresh, look
from tests.support.waiting import PATIENCE
from tests.support.worker_talk import Talk, job, picture, start

__all__ = ["start"]

TUNING = Tuning(compile="regional")
PLANTED = {
    "their own": 'mkdir -m 777 "$1"',
    "a link": 'mkdir -m 777 theirs && ln -s "$PWD/theirs" "$1"',
}


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (compiled.VARIABLE, "TRITON_CACHE_DIR", "TRITON_HOME"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards, whatever is set meanwhile
        monkeypatch.delenv(name)


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("variable", [compiled.VARIABLE, "TRITON_CACHE_DIR", "TRITON_HOME", ""])
def test_nothing_is_compiled_where_another_user_keeps_code(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch, variable: str, what: str
) -> None:
    """Another user makes the folder of compiled code first: the one that is set, or else PyTorch's in /tmp."""
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    monkeypatch.setenv("LOGNAME", "somebody")
    place = shared / ("code" if variable else "torchinductor_somebody")
    plant(neighbour, PLANTED[what], place)
    if variable:
        monkeypatch.setenv(variable, str(place))
    pipe = fresh()
    entry = look(pipe, TUNING, why_not=tuned.apply(pipe, TUNING, CPU))["compile"]
    assert (entry.effective, entry.matches, entry.measured) == ("off", False, {})
    assert f"{place} belongs to uid {NOBODY}" in entry.reason


def test_nothing_is_compiled_where_another_user_has_the_folder_above(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the folder of all compiled code in a model cache that all users share."""
    plant(neighbour, "mkdir -m 755 compiled")
    assert compiled.keep_in(shared / "compiled" / "key") == ""
    assert f"{shared}/compiled belongs to uid {NOBODY}" in compiled.refusal()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_nothing_is_compiled_where_another_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """The folder of compiled code is ours, and everybody may add to it."""
    folder = tmp_path / "code"
    folder.mkdir()
    folder.chmod(mode)
    assert compiled.keep_in(folder) == ""
    assert f"other users can write to {folder}" in compiled.refusal()
    pipe = fresh()
    assert "other users can write" in tuned.apply(pipe, TUNING, CPU)["compile"]
    folder.chmod(0o755)
    assert "compile" not in tuned.apply(fresh(), TUNING, CPU), "that others may read it is no matter"


def test_what_is_made_for_compiled_code_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a umask of 0 everybody could write to the folder that we make for compiled code."""
    before = os.umask(0)
    try:
        assert compiled.keep_in(tmp_path / "cache" / "key") == ""
        monkeypatch.delenv(compiled.VARIABLE)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        assert compiled.refusal() == ""
    finally:
        os.umask(before)
    for folder in (tmp_path / "cache", tmp_path / "cache" / "key", Path(os.environ[compiled.VARIABLE])):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_real_worker_compiles_nothing_beside_a_neighbour_and_paints(
    start: Callable[..., Talk], shared: Path, tmp_path: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user makes the folders of compiled graphs and of kernels in a model cache that all users share."""
    monkeypatch.setenv("HF_HOME", str(shared))
    plant(neighbour, f"mkdir -m 777 {compiled.FOLDER} {PROBES}")
    talk = start()
    talk.send(job(tmp_path, tuning_overrides={"compile": "regional"}))
    talk.until(lambda: talk.all(Ready))
    talk.send(picture(tmp_path, 1, (64, 64)), End())
    [bye] = talk.until(lambda: talk.all(Bye), PATIENCE)
    assert len(talk.all(Done)) == 1
    [entry] = [entry for entry in bye.ledger if entry.name == "compile"]
    assert (entry.effective, entry.matches) == ("off", False)
    assert f"{compiled.FOLDER} belongs to uid {NOBODY}" in entry.reason
    assert not list((shared / compiled.FOLDER).iterdir()) and not list((shared / PROBES).iterdir())


def test_a_workers_temporary_files_are_in_its_own_folder(
    start: Callable[..., Talk], tmp_path: Path, shared: Path, neighbour: Neighbour
) -> None:
    """Another user makes, in the temporary folder, what libraries look for by a name that can be guessed."""
    (tmp_path / "worker").mkdir(mode=0o700)
    talk = start()
    talk.send(job(tmp_path / "worker"))
    talk.until(lambda: talk.all(Ready))
    talk.send(End())
    talk.until(lambda: talk.all(Bye))
    assert stat.S_IMODE((tmp_path / "worker" / "tmp").stat().st_mode) == 0o700
    left = {path.name for path in tmp_path.iterdir()} - {"worker"}
    assert left == {f"inpaint_ops-leases-{os.geteuid()}"}, "the lease alone is for all workers"


@pytest.mark.parametrize("what", ["their folder", "their file"])
def test_that_weights_are_whole_is_noted_by_nobody_else(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Another user notes that weights which they changed are the published ones."""
    model, notes = shared / "model", shared / "notes"
    model.mkdir()
    (model / "unet.safetensors").write_bytes(b"weights")
    digests.write_known(model)
    digests.check_digests(model, ["unet.safetensors"], notes)
    [note] = notes.iterdir()
    read: list[Path] = []
    real = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: read.append(path) or real(path))
    digests.check_digests(model, ["unet.safetensors"], notes)
    assert not read, "what is noted is not read again"
    if what == "their folder":
        os.chown(notes, NOBODY, NOBODY)
    else:
        os.chown(note, NOBODY, NOBODY)
    digests.check_digests(model, ["unet.safetensors"], notes)
    assert read


FILES = {
    "a link": 'ln -s "$PWD/precious" "$1"',
    "a FIFO": 'mkfifo -m 666 "$1"',
    "a file of theirs": 'echo "$2" > "$1"',
}


@pytest.mark.parametrize("what", FILES)
def test_what_is_known_of_kernels_comes_from_nobody_else(
    shared: Path, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Another user plants the note of which attention kernels work: measured anew, nothing is written or waited for."""
    asked: list[str] = []
    found = AttentionProbe(device="card", dtype="float32", shape=(1, 1, 1, 1), seconds={"sdpa": 1.0}, why_not={})
    monkeypatch.setattr(attention, "measure", lambda device, dtype: (asked.append(dtype) or found, True))
    (shared / "precious").write_text("ours")
    assert attention.probe(CPU, "float32", shared) == found
    [path] = (shared / PROBES).iterdir()
    assert attention.probe(CPU, "float32", shared) == found
    assert asked == ["float32"], "the second time it is read"
    path.unlink()
    (shared / PROBES).chmod(0o1777)
    theirs = found.model_copy(update={"seconds": {"sdpa-math": 1e-9}}).model_dump_json()
    plant(neighbour, FILES[what], path, theirs)
    assert attention.probe(CPU, "float32", shared) == found, "whose folder it is"
    (shared / PROBES).chmod(0o755)
    assert attention.probe(CPU, "float32", shared) == found, "whose file it is"
    assert asked == ["float32"] * 3
    assert (shared / "precious").read_text() == "ours"
