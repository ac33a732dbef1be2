"""One trial: a real job by the real command, one fault at a seeded moment, the retries of a scheduler, the evidence."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import psutil

from demo.object_store import ObjectStoreServer
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from tests.faults.evidence import Findings, look_at_machine, look_at_store, look_at_traffic
from tests.faults.job import MOMENTS, TRIAL, Home, Job, command, put_job
from tests.support.fault_proxy import FaultProxy
from tests.support.warm import Host, warm_host

TRIES = 4
"""How often a scheduler starts the task: as the DAG's, once and three retries."""

PATIENCE = 600.0
"""Seconds after which a try that has not ended counts as hung."""

LAST_WORDS = 60.0
"""Seconds for what a try that has ended printed to be read, and for what its lines set off to be done."""


@dataclass(frozen=True)
class Outcome:
    """How one trial ended. `seconds`: from the fault to the end of the run; `log`: what was printed, if it failed."""

    fault: str
    seed: int
    moment: str
    lost: int
    doubled: int
    seconds: float
    problems: tuple[str, ...]
    log: str = ""

    @property
    def recovered(self) -> bool:
        """Whether every promise holds."""
        return not (self.lost or self.doubled or self.problems)

    def __str__(self) -> str:
        state = "recovered" if self.recovered else "FAILED"
        problems = "".join(f"\n    {problem}" for problem in self.problems)
        return f"{state}  {self.fault} {self.seed}  at {self.moment}  {self.seconds:.1f} s{problems}"


@dataclass
class Trial:
    """What a fault may lay its hands on: the proxy in front of the store, the processes, the folders, chance."""

    job: Job
    run: str
    home: Home
    proxy: FaultProxy
    environment: dict[str, str]
    chance: random.Random
    direct: Storage
    command: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    output: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    moment: str = "no fault"
    struck_at: float | None = None
    failed: dict[int, str] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    settling: list[Callable[[], None]] = field(default_factory=list)
    ending: list[Callable[[], None]] = field(default_factory=list)
    painted_twice_is_fine: bool = False
    host: Host | None = None
    """The warm host that its workers are forked from."""
    second_key: tuple[str, str] = ("", "")
    _watchers: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    _reading: dict[subprocess.Popen[bytes], threading.Thread] = field(default_factory=dict)
    _acting: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # -- moments --------------------------------------------------------------------------------------------------

    def strike(self, moment: str) -> bool:
        """Note that the fault happens now; False if it has happened already."""
        with self._lock:
            if self.struck_at is not None:
                return False
            self.struck_at, self.moment = time.monotonic(), moment
        return True

    def at_a_moment(self, action: Callable[[], None], moments: tuple[str, ...] = MOMENTS) -> None:
        """Have `action` happen once, at one of `moments` that chance picks."""
        moment, row = self.chance.choice(moments), self.chance.randint(1, self.job.rows)
        pause = self.chance.random()

        def act() -> None:
            if self.strike(f"{moment} {row}" if " " in moment else moment):
                action()

        def later(words: str, seconds: float) -> None:
            """After a line. No record is written before, so that the run has not ended when the fault strikes."""
            struck = threading.Event()

            def strike() -> None:
                time.sleep(seconds)
                act()
                struck.set()

            self.on_line(words, strike)
            self.proxy.barrier("PUT", f"/{self.run}/records/", before=lambda: struck.wait(20) and self._command_lives())

        def put(path: str, when: str) -> None:
            def before() -> bool:
                act()
                return self._command_lives()

            self.proxy.barrier("PUT", path, row, **{when: before})

        match moment.split():
            case ["loading"]:
                later("imports:", (4 if self.host is None else 0.3) * pause)
            case ["painting"]:
                later("ready after", 0.3 * pause)
            case [when, "image"]:
                put(f"/{self.run}/images/", when)
            case [when, "record"]:
                put(f"/{self.run}/records/", when)

    def on_line(self, words: str, action: Callable[[], None]) -> None:
        """Have `action` happen when the command first prints a line with these words."""
        self._watchers.append((words, action))

    def _command_lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # -- processes ------------------------------------------------------------------------------------------------

    def worker(self) -> psutil.Process | None:
        """The worker of the running command."""
        with suppress(psutil.Error):
            if self.process is not None:
                for child in psutil.Process(self.process.pid).children():
                    if "inpaint_ops.worker" in child.cmdline():
                        return child
        if self.host is not None:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if process.name() == "inpaint-worker" and self.home.owns(process):
                        return process
        return None

    def guard(self) -> psutil.Process | None:
        """The process that the worker was forked from."""
        worker = self.worker()
        with suppress(psutil.Error):
            return worker and worker.parent()
        return None

    def signal_worker(self, number: signal.Signals) -> None:
        """Send the worker a real signal. One that has just ended has nothing to lose."""
        worker = self.worker()
        if worker is not None:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    def signal_command(self, number: signal.Signals) -> None:
        """Send the command a real signal, and for SIGKILL wait until it is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the command."""
        process = subprocess.Popen(
            self.command,
            env=dict(environment or self.environment),
            cwd=self.home.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.process = process
        self._reading[process] = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reading[process].start()
        return process

    def _read(self, output: IO[bytes]) -> None:
        for raw in output:
            line = raw.decode(errors="replace").rstrip()
            self.output.append(line)
            for watcher in list(self._watchers):
                if watcher[0] in line:
                    self._watchers.remove(watcher)
                    self._acting.append(threading.Thread(target=watcher[1], daemon=True))
                    self._acting[-1].start()

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code, once all that it printed is in `output`; one that hangs is killed, and that is a finding."""
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.findings.add(f"the command hung for {PATIENCE:.0f} s")
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        self._reading[process].join(LAST_WORDS)
        self.codes.append(code)
        return code

    def run_as_scheduled(self) -> None:
        """Start the command as a scheduler would: again while it ends with anything but a finished run."""
        for _ in range(TRIES):
            if self.wait(self.start()) in (0, 3):
                return

    # -- the end --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Gather the evidence, once the fault's own traces are gone (`settling`); then put away what it needed."""
        for thread in self._acting:
            thread.join(LAST_WORDS)
        for action in self.settling:
            action()
        look_at_store(self.direct, self.job, self.run, self.findings, failed=self.failed)
        look_at_traffic(self.proxy.exchanges, self.run, self.findings, painted_twice_is_fine=self.painted_twice_is_fine)
        look_at_machine(self.home, self.findings)
        for action in self.ending:
            action()
        if self.struck_at is None:
            self.findings.add("the fault never happened")


@dataclass(frozen=True)
class Fault:
    """A fault of the matrix: `inject` scripts it before the command starts; `act` replaces the scheduler's tries.

    `shown_by` names the test that shows in seconds what the fault puts the whole job to: `make faults` alone tries it.
    """

    name: str
    means: str
    inject: Callable[[Trial], None]
    act: Callable[[Trial], None] = Trial.run_as_scheduled
    poison: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    shown_by: str = ""
    lacking: Callable[[], str] = lambda: ""
    warm: bool = False
    """Its workers are forked from a warm host, which is there before the command starts."""
    own_host: bool = False
    """It changes the host, or what the workers import: no other trial may have the same."""

    def forked(self) -> Fault:
        """The same, with workers that are forked."""
        return self if self.warm else replace(self, name=f"{self.name}, forked", warm=True, shown_by="")


_OF_ONE_TRIAL = (TRIAL, "INPAINT_WORKER_ENV", "INPAINT_SCRATCH", "TMPDIR")

EVERYTHING = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
)


def fault_store(folder: Path) -> ObjectStoreServer:
    """A store with a second key, for when the first expires."""
    return ObjectStoreServer(folder, "inpaint", policies={"second": EVERYTHING})


def shared_environment(cache: Path) -> dict[str, str]:
    """What a warm host is started with that serves several trials: of a trial's, what its workers see of it."""
    return {name: value for name, value in Home(cache).environment({}, cache).items() if name not in _OF_ONE_TRIAL}


def run_trial(
    fault: Fault, seed: int, server: ObjectStoreServer, folder: Path, cache: Path, shared: Host | None = None
) -> Outcome:
    """Run one trial in `folder`, which is made; `cache` is a model cache that no trial changes. Workers are forked
    from the `shared` host, where the fault may be tried with one.
    """
    run = "run"
    root = Location(server.bucket, f"faults/{folder.name}-{seed}-{os.getpid()}/")
    direct = Storage(writable=[root], s3_client=lambda: make_s3_client(server.session(), endpoint_url=server.endpoint))
    with FaultProxy(server.endpoint) as proxy:
        home = Home(folder).make()
        environment = home.environment(server.env | {"AWS_ENDPOINT_URL": proxy.url}, cache) | dict(fault.settings)
        job = put_job(direct, root, seed, poison=fault.poison)
        trial = Trial(
            job, run, home, proxy, environment, random.Random(f"{fault.name} {seed}"), direct, command(job, run)
        )
        (trial.second_key,) = server.role_keys.values()
        with ExitStack() as stack:
            try:
                fault.inject(trial)
                if fault.warm and shared is not None and not fault.own_host:
                    trial.host = shared
                    del environment["INPAINT_WORKER_ENV"]  # the host's workers are of no one trial
                elif fault.warm:
                    trial.host = stack.enter_context(warm_host(home.path, environment))
                if trial.host is not None:
                    environment["INPAINT_WARM_HOST"] = trial.host.socket
                fault.act(trial)
            finally:
                ended = time.monotonic()
                stack.close()
                trial.look()
        if fault.warm and not any("forked from the warm host" in line for line in trial.output):
            trial.findings.add("no worker was forked")
        findings, seconds = trial.findings, ended - (trial.struck_at or ended)
        outcome = Outcome(
            fault.name, seed, trial.moment, findings.lost, findings.doubled, seconds, tuple(findings.problems)
        )
        return outcome if outcome.recovered else replace(outcome, log="\n".join([str(outcome), *trial.output]))
