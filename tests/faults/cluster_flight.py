"""One DAG run of a cluster's trial, from its job to what was found, and the site that it runs on."""

from __future__ import annotations

import contextlib
import fcntl
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import httpx
import psutil

from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from tests.faults.evidence import Findings, look_at_store, look_at_traffic
from tests.faults.job import BATCH, STEPS, Home, Job, put_job
from tests.faults.trial import Outcome
from tests.support.airflow import DAG
from tests.support.cluster import SLOTS
from tests.support.fault_proxy import Exchange, FaultProxy
from tests.support.machines import Broker, Cluster, Database

ROWS, WIDTH = 4, SLOTS
PAINTER = "painter"

PATIENCE = 600.0
"""Seconds after which a DAG run that has not ended counts as hung."""


@dataclass
class Flight:
    """One DAG run of a small job, and what is known of it."""

    fault: str
    seed: int
    run: str
    job: Job
    chance: random.Random
    moment: str = "no fault"
    run_id: str = ""
    struck_at: float | None = None
    ended_at: float | None = None
    state: str = ""
    findings: Findings = field(default_factory=Findings)

    def strike(self, moment: str) -> bool:
        """Note that the fault strikes this run now; False if it has been struck, or has ended."""
        if self.struck_at is not None or self.ended_at is not None:
            return False
        self.struck_at, self.moment = time.monotonic(), moment
        return True

    def outcome(self) -> Outcome:
        """How it ended."""
        if self.struck_at is None:
            self.findings.add("the fault never happened")
        ended = self.ended_at or time.monotonic()
        return Outcome(
            self.fault, self.seed, self.moment, self.findings.lost, self.findings.doubled,
            ended - (self.struck_at or ended), tuple(self.findings.problems),
        )  # fmt: skip


@dataclass
class Site:
    """The cluster, the store behind a proxy, and what has to be started again."""

    cluster: Cluster
    database: Database
    broker: Broker
    proxy: FaultProxy
    direct: Storage
    root: Location
    to_start: list[Callable[[], None]] = field(default_factory=list)
    flown: int = 0

    @property
    def painter(self) -> Home:
        """The folders of the machine that paints."""
        return Home(self.cluster.home / PAINTER)

    # -- runs -----------------------------------------------------------------------------------------------------

    def prepare(self, fault: str, seed: int) -> Flight:
        """Write a job into the store."""
        self.flown += 1
        run = f"{self.flown}-{fault.replace(' ', '-')}-{seed}"
        job = put_job(self.direct, self.root.join(f"jobs/{run}/").as_prefix(), seed, rows=ROWS)
        return Flight(fault, seed, run, replace(job, root=self.root), random.Random(f"{fault} {seed}"))

    def trigger(self, flight: Flight, run_id: str | None = None) -> str:
        """Trigger a DAG run of the job; returns its id."""
        conf = {"manifest": flight.job.manifest, "run": flight.run, "steps": STEPS, "batch_size": BATCH}
        return self.cluster.trigger(DAG, conf, run_id or flight.run)

    def wait(self, flight: Flight) -> None:
        """Wait until the DAG run has ended; one that hangs is given up, and that is a finding."""
        deadline = time.monotonic() + PATIENCE
        while flight.ended_at is None:
            with contextlib.suppress(httpx.HTTPError):  # the api-server may have lost its database
                flight.state = self.cluster.run_state(DAG, flight.run_id)
            if flight.state in ("success", "failed"):
                flight.ended_at = time.monotonic()
            elif time.monotonic() > deadline:
                flight.findings.add(f"the DAG run is still {flight.state} after {PATIENCE:.0f} s")
                self._give_up(flight)
            else:
                time.sleep(0.5)

    def keep_up(self) -> None:
        """Start again whatever has ended. From the main thread alone: what it starts dies with the thread."""
        while self.to_start:
            self.to_start.pop()()
        self.cluster.restart_ended()

    def fly(self, flights: Mapping[str, Callable[[], None]]) -> dict[str, BaseException]:
        """Call all of these at once, and keep everything up until they return; returns what they raised."""
        with ThreadPoolExecutor(len(flights)) as pool:
            futures = {name: pool.submit(call) for name, call in flights.items()}
            while not all(future.done() for future in futures.values()):
                self.keep_up()
                time.sleep(0.2)
        return {name: error for name, future in futures.items() if (error := future.exception()) is not None}

    def _give_up(self, flight: Flight) -> None:
        flight.ended_at = time.monotonic()
        with contextlib.suppress(httpx.HTTPError):
            self.cluster.api("PATCH", f"/dags/{DAG}/dagRuns/{flight.run_id}", {"state": "failed"})

    def in_flight(self, flight: Flight) -> bool:
        """Whether the run's first task has come to the store, and the run has not ended."""
        return bool(self.exchanges(flight)) and flight.ended_at is None

    # -- moments --------------------------------------------------------------------------------------------------

    def at_a_moment(self, flight: Flight, moments: Sequence[str], action: Callable[[str], bool]) -> None:
        """Have `action(moment)` happen once, at one of `moments` of this run that chance picks. It says whether the
        request that shows the moment goes on.
        """
        moment, row = flight.chance.choice(moments), flight.chance.randint(1, ROWS)
        pause = 3 * flight.chance.random()
        below = f"/runs/{flight.run}/"
        match moment.split():
            case ["planning"]:
                self.proxy.barrier("PUT", f"{below}plan.json", before=lambda: action(moment))
            case ["loading"]:  # the first photo comes while the worker imports and loads
                timer = threading.Timer(pause, action, (moment,))
                timer.daemon = True
                self.proxy.barrier("GET", f"/jobs/{flight.run}/in/1.png", after=timer.start)
            case [when, what]:
                path = f"{below}{what}s/"
                name = f"{moment} {row}"
                self.proxy.barrier("PUT", path, row, **{when: lambda: action(name)})  # type: ignore[arg-type]
            case _:
                self.proxy.barrier("PUT", f"{below}run.json", before=lambda: action(moment))

    # -- processes ------------------------------------------------------------------------------------------------

    def task(self, flight: Flight) -> psutil.Process:
        """The run's painting task: the parent of its worker, which works in the run's scratch. Raises LookupError."""
        for process in self._of_the_painter():
            with contextlib.suppress(psutil.Error):
                if "inpaint_ops.worker" in process.cmdline() and f"/{flight.run}-" in process.cwd():
                    parent = process.parent()
                    if parent is not None:
                        return parent
        raise LookupError(f"{flight.run} has no worker now")

    def _of_the_painter(self) -> Iterator[psutil.Process]:
        """Every process with the machine's TMPDIR in its environment, whoever its parent is by now."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("TMPDIR") == str(self.painter.temporary):
                    yield process

    def _left_behind(self) -> list[psutil.Process]:
        """The machine's processes that are neither its Celery worker nor a child in that one's idle pool."""
        celery = self.cluster.processes[PAINTER].pid
        left = []
        for process in self._of_the_painter():
            with contextlib.suppress(psutil.Error):
                idle = process.ppid() == celery and not process.name().startswith("airflow supervi")
                if process.pid != celery and not idle:
                    left.append(process)
        return left

    # -- evidence -------------------------------------------------------------------------------------------------

    def look(self, flights: Sequence[Flight], traffic: Mapping[str, Sequence[Exchange]] | None = None) -> None:
        """Gather the evidence of a round; `traffic` in place of all that the store answered about a run."""
        for problem in self._look_at_painter():
            for flight in flights:
                flight.findings.add(problem)
        for flight in flights:
            if flight.state != "success":
                flight.findings.add(f"the DAG run ended as {flight.state}: {self._tasks(flight.run_id)}")
            look_at_store(self.direct, flight.job, flight.run, flight.findings)
            look_at_traffic((traffic or {}).get(flight.run, self.exchanges(flight)), flight.run, flight.findings)
            kept = [path.name for path in self.painter.scratch.glob(f"{flight.run}-*")]
            if kept:
                flight.findings.add(f"scratch holds {', '.join(kept)}")

    def _look_at_painter(self) -> list[str]:
        """No process of a task lives, no lease is held. What is just ending gets a moment."""
        problems = []
        deadline = time.monotonic() + 120
        while (left := self._left_behind()) and time.monotonic() < deadline:
            self.keep_up()
            time.sleep(0.2)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                problems.append(f"process {process.pid} is still there: {' '.join(process.cmdline())[:200]}")
                process.kill()
        for lease in self.cluster.lease_folder(PAINTER).glob("*"):
            with lease.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    problems.append(f"the lease {lease.name} is held")
        return problems

    def exchanges(self, flight: Flight) -> list[Exchange]:
        """What the store answered about this run."""
        return [one for one in list(self.proxy.exchanges) if f"/runs/{flight.run}/" in one.path]

    def _tasks(self, run_id: str) -> str:
        with contextlib.suppress(httpx.HTTPError):
            instances = self.cluster.task_instances(DAG, run_id)
            return ", ".join(f"{ti['task_id']} {ti['state']} (try {ti['try_number']})" for ti in instances)
        return "the api-server does not say more"
