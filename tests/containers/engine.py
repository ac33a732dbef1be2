"""A real Docker engine in namespaces of its own, on a machine that has none: from Debian's packages, in one folder.

Root, `debootstrap` and `slirp4netns` are all it takes. The engine sees its own root, network and processes; of the
machine it uses the kernel, the folder and a cgroup. The way out is a process beside it (slirp4netns), for builds, which
ask the package indexes; `offline` ends it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUITE = "trixie"
PACKAGES = ("docker.io", "docker-cli", "docker-compose", "docker-buildx", "iptables", "iproute2", "curl")
TOOLS = ("debootstrap", "slirp4netns", "unshare", "nsenter", "apt-get")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C", "BUILDKIT_PROGRESS": "plain"}


def why_not() -> str:
    """What this machine lacks, with the words that `tests/support/skipped.py` has a cure for; empty if nothing."""
    if os.geteuid() != 0:
        return "an engine needs mounts and addresses of its own, which only root makes"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"an engine is put together by tools that are missing: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "an engine's builds ask the package indexes by /dev/net/tun, which is missing"
    return ""


class CommandError(Exception):
    """A command next to the engine failed; the message has its last lines."""


class Engine:
    """The engine below `home`: `base` (a minimal Debian, for images), `engine` (the same with Docker), and `shared`,
    which lies at /shared in the engine's root.

    The two trees are kept between runs, the engine's data (images, volumes) only until `remove_data`.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shared = home / "shared"
        self.base = home / "base"
        self._tree = home / "engine"
        self._cgroup = f"/inpaint-ops-containers-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._way_out: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the two trees, if they are not there. A half-made one is made anew."""
        self.shared.mkdir(parents=True, exist_ok=True)
        if not self.base.exists():
            listed = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
            mirrors = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
            mirror = next(mirror for mirror in mirrors if "security" not in mirror)  # the machine's own
            half = self._anew("base")
            self._host("debootstrap", "--variant=minbase", SUITE, half, mirror)
            shutil.copy(CERTIFICATES, half / "etc/machine-certificates.crt")
            half.rename(self.base)
        if not self._tree.exists():
            half = self._anew("engine")
            self._host("cp", "-a", f"{self.base}/.", half)
            shutil.copy("/etc/resolv.conf", half / "etc/resolv.conf")
            no_services = half / "usr/sbin/policy-rc.d"
            no_services.write_text("#!/bin/sh\nexit 101\n")
            no_services.chmod(0o755)
            install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(PACKAGES)}"
            self._host("env", "DEBIAN_FRONTEND=noninteractive", "chroot", half, "sh", "-c", install)
            (half / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")  # slirp4netns' own
            self._pretend_nvidia(half / "usr/bin/nvidia-container-runtime-hook")
            half.rename(self._tree)

    def _pretend_nvidia(self, hook: Path) -> None:
        """Have the engine accept a reservation of GPUs: it runs this hook before a container starts, for no GPU."""
        hook.write_text("#!/bin/sh\ncat >/dev/null\n")
        hook.chmod(0o755)

    def _anew(self, name: str) -> Path:
        half = self.home / f"{name}.half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        return half

    def _host(self, *command: str | Path) -> None:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(f"{command[0]}: {done.stdout[-1000:]}{done.stderr[-2000:]}")

    def start(self, *, way_out: bool = True, late_addresses: bool = False) -> None:
        """Start the engine, and its way out, and wait until it answers. Containers come back as their policy says.

        `late_addresses`: its kernel lets programs bind to addresses that are still to come.
        """
        inside = [HERE / "engine-inside", self._tree, self.shared, self._cgroup, str(int(late_addresses))]
        self._process = self._begin("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", *inside)
        _wait(lambda: bool(self._pid()), "the engine's namespaces")
        if way_out:
            self._way_out = self._begin(
                "slirp4netns", "--configure", "--disable-host-loopback", str(self._pid()), "tap0"
            )
        _wait(self._answers, f"the engine; see {self.home / 'engine.log'}")

    def _begin(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, without the tests' variables: their folders are not in its root."""
        with (self.home / "engine.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _pid(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise CommandError(f"the engine has ended; see {self.home / 'engine.log'}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _answers(self) -> bool:
        self._pid()
        # until the root is pivoted there is no docker to find
        return subprocess.run(self._inside("docker", "info"), capture_output=True, check=False).returncode == 0

    def offline(self) -> None:
        """Take the way out away: from here on nothing outside can be asked."""
        if self._way_out is not None:
            self._way_out.terminate()
            self._way_out.wait()
            self._way_out = None

    def stop(self) -> None:
        """Stop as at a shutdown: the engine first ends its containers, within their grace. Volumes and images stay."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(CommandError, ProcessLookupError):
                os.kill(self._pid(), signal.SIGTERM)
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.offline()
        for folder in (*Path("/sys/fs/cgroup").glob(f"*{self._cgroup}"), Path(f"/sys/fs/cgroup{self._cgroup}")):
            _wait(functools.partial(_removed, folder), f"the last processes of {folder} to be gone")

    def remove_data(self) -> None:
        """Remove images, volumes and containers from the disk. Only after `stop`."""
        for name in ("docker", "containerd"):
            shutil.rmtree(self._tree / "var/lib" / name, ignore_errors=True)
        shutil.rmtree(self.shared, ignore_errors=True)

    def _inside(self, *command: str, environment: Mapping[str, str] | None = None) -> list[str]:
        variables = [f"{name}={value}" for name, value in {**ENVIRONMENT, **(environment or {})}.items()]
        return ["nsenter", "-t", str(self._pid()), "-m", "-n", "-p", "-r", "-w", "env", "-i", *variables, *command]

    def run(
        self,
        *command: str,
        data: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> str:
        """Run a command next to the engine; returns its output, standard error included. Raises CommandError."""
        done = subprocess.run(
            self._inside(*command, environment=environment),
            input=data, stdin=None if data is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        text = done.stdout.decode(errors="replace")
        if check and done.returncode != 0:
            raise CommandError(f"{' '.join(command[:6])}: exit code {done.returncode}\n{text[-4000:]}")
        return text

    def output(self, *command: str, data: bytes | None = None) -> bytes:
        """Run a command next to the engine; returns its standard output alone, as it is. Raises CommandError."""
        done = subprocess.run(self._inside(*command), input=data, capture_output=True, check=False)
        if done.returncode != 0:
            raise CommandError(f"{' '.join(command[:6])}: {done.stderr.decode(errors='replace')[-4000:]}")
        return done.stdout

    def processes(self, container: str) -> list[Path]:
        """The folders in the machine's own /proc of a container's processes, its first one first."""
        first = int(self.run("docker", "inspect", "-f", "{{.State.Pid}}", container))  # as the engine counts them
        cgroup = self.run("cat", f"/proc/{first}/cgroup")
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cgroup").read_text() == cgroup:
                    (counted,) = re.findall(r"^NSpid:.*\s(\d+)$", (folder / "status").read_text(), re.MULTILINE)
                    found[folder] = int(counted)
        return sorted(found, key=lambda folder: found[folder])


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup with those below it; false while processes that were killed are still ending in one."""
    with contextlib.suppress(OSError):
        for below in sorted(cgroup.rglob("*"), reverse=True):
            if below.is_dir():
                below.rmdir()
        cgroup.rmdir()
    return not cgroup.exists()


def _wait(is_so: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise CommandError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
