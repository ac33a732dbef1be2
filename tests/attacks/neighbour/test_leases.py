"""A lease is a lock, and no way to have another user's worker read, write or wait."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inpaint_ops.device import Lease
from inpaint_ops.device.lease_files import LeaseFolder, own_folder
from inpaint_ops.errors import ConfigError, DeviceBusyError, UnsafePathError
from tests.attacks.neighbour.conftest import NOBODY, Neighbour, plant

REPOSITORY = Path(__file__).parents[3]


def test_another_users_folder_is_not_taken_for_ours(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the folder of our leases first."""
    plant(neighbour, "mkdir -m 777 leases")
    with pytest.raises(UnsafePathError, match=f"leases belongs to uid {NOBODY}"):
        Lease.acquire(["cpu-0"], shared / "leases", 0)


def test_each_user_has_a_folder_of_their_own(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's workers were there first, and ours found their folder closed, or theirs ours."""
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    ours = own_folder()
    with Lease.acquire(["cpu-0"], LeaseFolder.of(), 0) as lease:
        assert lease.path.parent == ours
        assert (ours.stat().st_mode & 0o777, lease.path.stat().st_mode & 0o777) == (0o700, 0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert own_folder() == shared / "inpaint_ops-leases-4321" != ours


OURS = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to(path.with_name("precious")),
    "a hard link": lambda path: path.hardlink_to(path.with_name("precious")),
}


@pytest.mark.parametrize("ending", ["lease", "losses"])
@pytest.mark.parametrize("what", OURS)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, what: str, ending: str) -> None:
    """A FIFO, a folder or a link stands where the lease or the note of failures should be."""
    (tmp_path / "precious").write_text("ours")
    OURS[what](tmp_path / f"cpu-0.{ending}")
    with pytest.raises(UnsafePathError, match=rf"cpu-0\.{ending} is "):
        Lease.acquire(["cpu-0"], tmp_path, 0)
    assert (tmp_path / "precious").read_text() == "ours"


def test_of_a_lease_of_two_gigabytes_a_line_is_read(tmp_path: Path) -> None:
    """The file of a lease that is held has grown to 2 GB; whoever waits says who holds it."""
    with Lease.acquire(["cpu-0"], tmp_path, 0) as lease:
        os.truncate(lease.path, 2 * 2**30)
        with pytest.raises(DeviceBusyError, match=rf"held are cpu-0 by pid {os.getpid()} on [^\0]*$") as caught:
            Lease.acquire(["cpu-0"], tmp_path, 0)
        assert len(str(caught.value)) < 400
        assert read_in_process(tmp_path) < 2**20
        lease.path.write_bytes(b"\x1b[2Jforged\nINFO forged\n" * 10_000)
        with pytest.raises(DeviceBusyError, match="forged") as caught:
            Lease.acquire(["cpu-0"], tmp_path, 0)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def read_in_process(folder: Path) -> int:
    """The bytes that a process reads of files while it is refused a lease, as the kernel counts them."""
    code = (
        "import sys; from pathlib import Path; from inpaint_ops.device import Lease\n"
        "from inpaint_ops.errors import DeviceBusyError\n"
        "count = lambda: int(Path('/proc/self/io').read_text().split()[1])\n"
        "before = count()\n"
        "try: Lease.acquire(['cpu-0'], Path(sys.argv[1]), 0)\n"
        "except DeviceBusyError: print(count() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_of_failures_the_last_ones_are_read(tmp_path: Path) -> None:
    """The note of failures has grown to 2 GB."""
    at = 1_764_000_000.5
    with Lease.acquire(["cpu-0"], tmp_path, 0, clock=lambda: at) as lease:
        lease.note_loss("once")
        os.truncate(tmp_path / "cpu-0.losses", 2 * 2**30)
        (tmp_path / "cpu-0.losses").open("a").write("\n")
        lease.note_loss("twice")
    folder = LeaseFolder(tmp_path, tmp_path)
    assert folder.losses_of("cpu-0", at) == ["twice"]
    (tmp_path / "cpu-0.losses").write_text(
        f"{at} good\nnan bad\ninf bad\n-1 bad\n1e400 bad\n{'9' * 400} far\n\0\n{at}\n"
    )
    assert folder.losses_of("cpu-0", at) == ["good"]


def test_the_administrators_folder_is_used_by_two_users(shared: Path, neighbour: Neighbour) -> None:
    """Two users share the machine's GPU: the second one to come waits, whoever made the file."""
    folder = LeaseFolder(shared, shared / "losses", shared=True)
    with Lease.acquire(["GPU-a"], folder, 0) as lease:
        assert neighbour("flock -n GPU-a.lease true").returncode != 0, "it is locked for the other user as well"
        assert neighbour("cat GPU-a.lease").stdout.startswith(f"pid {os.getpid()} on ")
        assert neighbour("mv GPU-a.lease away; rm -f GPU-a.lease").returncode != 0
        assert lease.path.exists()
    for mode in ("644", "666"):
        plant(neighbour, f"touch GPU-{mode}.lease && chmod {mode} GPU-{mode}.lease")
        held = subprocess.Popen(
            ["/usr/bin/env", "flock", f"GPU-{mode}.lease", "sh", "-c", "echo locked; read _"],
            cwd=shared, user=NOBODY, group=NOBODY, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert held.stdout is not None and held.stdout.readline() == b"locked\n"
        with pytest.raises(DeviceBusyError):
            Lease.acquire([f"GPU-{mode}"], folder, 0)
        held.communicate(b"\n")
        Lease.acquire([f"GPU-{mode}"], folder, 0).release()


FILES = {
    "a FIFO": "mkfifo -m 666 GPU-a.lease",
    "a folder": "mkdir GPU-a.lease",
    "a link": 'ln -s "$1" GPU-a.lease',
    "a hard link": "touch other && chmod 666 other && ln other GPU-a.lease",
}


@pytest.mark.parametrize("what", FILES)
def test_in_the_administrators_folder_a_trap_is_refused(shared: Path, neighbour: Neighbour, what: str) -> None:
    """Another user who may lease devices plants a file at which our worker would wait, or would write elsewhere."""
    precious = shared / "precious"
    precious.write_text("ours")
    plant(neighbour, FILES[what], precious)
    with pytest.raises(UnsafePathError, match=r"GPU-a\.lease is "):
        Lease.acquire(["GPU-a"], LeaseFolder(shared, shared / "losses", shared=True), 0)
    assert precious.read_text() == "ours"


def test_nobody_can_have_a_device_refused_to_others(shared: Path, neighbour: Neighbour) -> None:
    """Another user notes that the GPU has failed, twice, where everybody looks for its lease."""
    plant(neighbour, 'for _ in 1 2 3; do echo "$1 it is broken" >> GPU-a.losses; done', 1_764_000_000)
    folder = LeaseFolder(shared, shared / "ours", shared=True)
    with Lease.acquire(["GPU-a"], folder, 0, clock=lambda: 1_764_000_000.0) as lease:
        lease.note_loss("really")
    assert folder.losses_of("GPU-a", 1_764_000_000.0) == ["really"]


def test_a_shared_folder_must_be_made_by_the_administrator(shared: Path, neighbour: Neighbour) -> None:
    """Another user makes the folder that INPAINT_LEASES names, or it is open and not sticky, or it is missing."""
    missing = LeaseFolder(shared / "missing", shared / "losses", shared=True)
    with pytest.raises(ConfigError, match=r"docs/deploy\.md"):
        Lease.acquire(["cpu-0"], missing, 0)
    plant(neighbour, "mkdir -m 1777 missing")
    with pytest.raises(UnsafePathError, match=f"belongs to uid {NOBODY}"):
        Lease.acquire(["cpu-0"], missing, 0)
    (shared / "open").mkdir()
    (shared / "open").chmod(0o777)
    with pytest.raises(UnsafePathError, match=r"chmod \+t"):
        Lease.acquire(["cpu-0"], LeaseFolder(shared / "open", shared / "losses", shared=True), 0)


def test_a_lease_that_was_replaced_before_it_was_locked_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is removed and made anew between its opening and its locking: two would hold the same device."""
    import fcntl

    real, done = fcntl.flock, threading.Event()

    def slow(descriptor: int, operation: int) -> None:
        if not done.is_set():
            done.set()
            (tmp_path / "cpu-0.lease").unlink()
            (tmp_path / "cpu-0.lease").touch()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(DeviceBusyError):
        Lease.acquire(["cpu-0"], tmp_path, 0)
    with Lease.acquire(["cpu-0"], tmp_path, 0):
        assert subprocess.run(["flock", "-n", tmp_path / "cpu-0.lease", "true"]).returncode != 0
