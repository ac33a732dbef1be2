"""The faults that only a cluster can meet: tasks, supervisors, machines, the scheduler, the broker, the database.

A real Airflow with Celery over PostgreSQL and Valkey, its compose file's settings but for `FAST`, and machines. It is
started once, and flies rounds of `WIDTH` DAG runs at a time, each of a small job of its own:

- A `TaskFault` strikes each run's own task, at that run's own seeded moment: every run is a trial.
- An `Outage` strikes the cluster once, at a moment of the round's first run. Every run that was in flight then is a
  trial: its first task had come to the store, and it had not ended. A run that was not in flight is not counted.
- The two of one manifest (`TwoTriggers`, `ReplacedManifest`) are trials of their own, beside others.

What ends is started again at once, as compose's `restart: unless-stopped` does it; nothing else helps a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import httpx
import psutil

from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from tests.faults.evidence import Findings, look_at_store, look_at_traffic
from tests.faults.job import BATCH, STEPS, Home, Job, put_job
from tests.faults.trial import Outcome
from tests.support.airflow import DAG
from tests.support.cluster import SLOTS, ClusterSite
from tests.support.fault_proxy import Exchange, FaultProxy
from tests.support.machines import Broker, Cluster, Database

ROWS, WIDTH = 4, SLOTS
PAINTER = "painter"

PATIENCE = 600.0
"""Seconds after which a DAG run that has not ended counts as hung."""

IN_A_TASK = ("loading", "before image", "after image", "before record", "after record")
IN_A_RUN = ("planning", *IN_A_TASK, "reporting")
"""Moments; each is a request of the run that the proxy in front of the store sees (see `Site.at_a_moment`)."""


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


@dataclass(frozen=True)
class TaskFault:
    """Strikes a run's own task. `strike` is given its process, and says whether the request that it has just sent goes
    on. A trial takes `slots` of the painting machine.
    """

    name: str
    means: str
    strike: Callable[[psutil.Process], bool]
    slots: int = 1
    shown_by: str = ""

    def fly(self, site: Site, flight: Flight) -> None:
        """One trial up to the DAG run's end."""

        def act(moment: str) -> bool:
            try:
                task = site.task(flight)
            except LookupError:  # it is over already: the trial says that the fault never happened
                return True
            return self.strike(task) if flight.strike(moment) else True

        site.at_a_moment(flight, IN_A_TASK, act)
        flight.run_id = site.trigger(flight)
        site.wait(flight)


@dataclass(frozen=True)
class Outage:
    """Strikes the cluster, and with it every run that is in flight."""

    name: str
    means: str
    strike: Callable[[Site], bool]
    moments: Sequence[str] = IN_A_RUN
    shown_by: str = ""

    def fly(self, site: Site, flights: Sequence[Flight]) -> list[Flight]:
        """One round up to the DAG runs' ends; returns those that were in flight."""
        first = flights[0]

        def act(moment: str) -> bool:
            struck = [flight for flight in flights[1:] if site.in_flight(flight)]
            if not first.strike(moment):
                return True
            for flight in struck:
                flight.strike("in flight")
            return self.strike(site)

        def fly(flight: Flight) -> None:
            flight.run_id = site.trigger(flight)
            site.wait(flight)

        site.at_a_moment(first, self.moments, act)
        _note_errors(flights, site.fly({flight.run: partial(fly, flight) for flight in flights}))
        trials = [flight for flight in flights if flight.struck_at is not None or flight is first]
        site.look(trials)
        return trials


def _note_errors(flights: Sequence[Flight], errors: Mapping[str, BaseException]) -> None:
    for flight in flights:
        if (error := errors.get(flight.run)) is not None:
            flight.findings.add(f"{type(error).__name__}: {error}")


# -- the faults ---------------------------------------------------------------------------------------------------


def _kill_task(task: psutil.Process) -> bool:
    task.kill()
    psutil.wait_procs([task], timeout=120)
    return False


def _kill_supervisor(task: psutil.Process) -> bool:
    supervisor = task.parent()
    assert supervisor is not None
    supervisor.kill()
    psutil.wait_procs([supervisor, task], timeout=120)
    return False


def _terminate_task(task: psutil.Process) -> bool:
    task.terminate()
    return True


def _kill_machine(site: Site) -> bool:
    site.cluster.kill_machine(PAINTER)
    site.to_start.append(lambda: site.cluster.start_machine(PAINTER))
    return False


def _drain(site: Site) -> bool:
    os.killpg(site.cluster.processes[PAINTER].pid, signal.SIGTERM)
    return True


def _stop_warm(site: Site) -> bool:
    site.cluster.processes[PAINTER].terminate()
    return True


def _kill_scheduler(site: Site) -> bool:
    os.killpg(site.cluster.processes["scheduler"].pid, signal.SIGKILL)
    return True


def _kill_broker(site: Site) -> bool:
    site.broker.kill(signal.SIGKILL)
    site.to_start.append(site.broker.restart)
    return True


def _kill_database(site: Site) -> bool:
    site.database.kill(signal.SIGQUIT)
    site.to_start.append(site.database.restart)
    return True


# -- two triggers of one run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoTriggers:
    """Two DAG runs at once that have the same name in the store."""

    name: str = "two runs of one name"
    means: str = "the same manifest and run name, triggered twice at once"
    slots: int = 2
    shown_by: str = "tests/faults/test_faults.py::test_every_promise_holds_after[two-runs-at-once]"

    def fly(self, site: Site, flight: Flight) -> None:
        """One trial up to the end of both."""
        again = replace(flight)
        flight.run_id = site.trigger(flight)
        again.run_id = site.trigger(flight, f"{flight.run}-again")
        flight.strike("at once")
        site.wait(flight)
        site.wait(again)
        flight.ended_at = again.ended_at
        if again.state != "success":
            flight.findings.add(f"the second DAG run ended as {again.state}")


@dataclass(frozen=True)
class ReplacedManifest:
    """Another manifest under the same URI while the run is in flight, and the run triggered again."""

    name: str = "manifest replaced"
    means: str = "another manifest under the same URI while its run is in flight, and the same run triggered again"
    slots: int = 1
    shown_by: str = "tests/faults/test_faults.py::test_every_promise_holds_after[manifest-replaced-under-a-run]"

    def fly(self, site: Site, flight: Flight) -> None:
        """One trial up to the end of the run and of the trigger that is refused."""
        loading, refused = threading.Event(), threading.Event()
        site.proxy.barrier("GET", f"/jobs/{flight.run}/in/1.png", after=loading.set)
        for nth in range(1, 13):  # the run's images wait for the refusal; each try of a client for less than it would
            site.proxy.barrier("PUT", f"/runs/{flight.run}/images/", nth, before=lambda: refused.wait(20))
        flight.run_id = site.trigger(flight)
        if not loading.wait(PATIENCE):
            raise TimeoutError("the run did not begin")
        row = {"image": "2.png", "mask": "2-mask.png", "prompt": "another sofa", "seed": 2}
        site.direct.put(flight.job.manifest, json.dumps(row).encode())
        again = replace(flight)
        again.run_id = site.trigger(flight, f"{flight.run}-again")
        site.wait(again)
        if not any("/records/" in one.path and one.method == "PUT" for one in site.exchanges(flight)):
            flight.strike("loading")
        refused.set()
        site.wait(flight)
        self._look_at_refusal(site, again, flight)

    def _look_at_refusal(self, site: Site, again: Flight, flight: Flight) -> None:
        if again.state != "failed":
            flight.findings.add(f"the refused DAG run ended as {again.state}")
        instances = {ti["task_id"]: ti for ti in site.cluster.task_instances(DAG, again.run_id)}
        log = _log_when(site, instances["plan"], "RunConflictError")
        if "is of another manifest" not in log or instances["plan"]["try_number"] != 1:
            flight.findings.add(f"the refusal is not one clear line at the first try: {log[-500:]}")
        summaries = [one for one in site.exchanges(flight) if one.method == "PUT" and one.path.endswith("/run.json")]
        if len(summaries) != 1:
            flight.findings.add(f"run.json was written {len(summaries)} times: the refused DAG run wrote it as well")


def _log_when(site: Site, instance: dict[str, Any], words: str) -> str:
    """A task's log, once it has these words: it follows the state, when the try's process ends."""
    deadline = time.monotonic() + 120
    text = ""
    while words not in text and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            text = site.cluster.task_log(DAG, instance)
        time.sleep(0.2)
    return text


Apart = TaskFault | TwoTriggers | ReplacedManifest
"""Trials that do not touch each other: several in one round, of several faults."""

CLUSTER_FAULTS: tuple[Apart | Outage, ...] = (
    TaskFault(
        "Airflow task killed",
        "SIGKILL of the task's own process, the worker's supervisor",
        _kill_task,
        shown_by="tests/dags/test_airflow.py::test_a_task_killed_half_way_is_retried_and_does_only_what_is_missing",
    ),
    TaskFault("Airflow supervisor killed", "SIGKILL of Airflow's supervisor of the task", _kill_supervisor),
    TaskFault("Airflow task told to stop", "SIGTERM of the task's own process", _terminate_task),
    TwoTriggers(),
    ReplacedManifest(),
    Outage(
        "Celery worker killed",
        "SIGKILL of a Celery worker's parent, and of its container with it",
        _kill_machine,
        IN_A_TASK,
        shown_by="tests/dags/test_cluster.py::test_every_row_ends_once_though_a_machine_is_killed_half_way",
    ),
    Outage("node drained", "SIGTERM of a Celery worker and its tasks' supervisors", _drain, IN_A_TASK),
    Outage("node stopped warm", "SIGTERM of a Celery worker's parent alone", _stop_warm, IN_A_TASK),
    Outage("scheduler killed", "SIGKILL of the scheduler", _kill_scheduler),
    Outage("broker killed", "SIGKILL of Valkey", _kill_broker),
    Outage("database killed", "SIGQUIT of PostgreSQL: its immediate shutdown", _kill_database),
)


# -- running them -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def painting(base: ClusterSite) -> Iterator[Site]:
    """The cluster with one machine of `WIDTH` slots that paints; it goes again, and all else is up."""
    base.cluster.add_machine(PAINTER, "gpu", concurrency=WIDTH, gpus=WIDTH, INPAINT_LEASE_TIMEOUT="60")
    site = Site(base.cluster, base.database, base.broker, base.proxy, base.direct, base.root)
    try:
        yield site
    finally:
        site.keep_up()
        base.cluster.kill_machine(PAINTER)


def run_cluster_trials(
    faults: Sequence[Apart | Outage],
    trials: int,
    base: ClusterSite,
    report: Callable[[Outcome], None],
    *,
    first: int = 1,
) -> None:
    """Put each of `faults` to so many trials, the `first` of that number, on this cluster; `report` each outcome.

    A trial that fails, or a round that cannot be flown, does not stop the others.
    """
    with painting(base) as site:
        apart = [fault for fault in faults if not isinstance(fault, Outage)]
        for round_ in _packed([(fault, seed) for seed in range(first, first + trials) for fault in apart]):
            flights = [site.prepare(fault.name, seed) for fault, seed in round_]
            _report(flights, partial(_fly_apart, site, [fault for fault, _ in round_], flights), report)
        for fault in faults:
            flown, seed = 0, first
            while isinstance(fault, Outage) and flown < trials:
                flights = [site.prepare(fault.name, seed + more) for more in range(min(WIDTH, trials - flown))]
                flown += _report(flights, partial(fault.fly, site, flights), report)
                seed += len(flights)


def _packed(trials: Sequence[tuple[Apart, int]]) -> Iterator[list[tuple[Apart, int]]]:
    """Rounds of what the painting machine can take at once."""
    waiting = list(trials)
    while waiting:
        round_: list[tuple[Apart, int]] = []
        for trial in list(waiting):
            if sum(fault.slots for fault, _ in (*round_, trial)) <= WIDTH:
                round_.append(trial)
                waiting.remove(trial)
        yield round_


def _fly_apart(site: Site, faults: Sequence[Apart], flights: Sequence[Flight]) -> list[Flight]:
    pairs = list(zip(faults, flights, strict=True))
    _note_errors(flights, site.fly({flight.run: partial(fault.fly, site, flight) for fault, flight in pairs}))
    # Both of two runs of one name may paint a row at the same time; what counts is what the store took.
    taken = {
        flight.run: [one for one in site.exchanges(flight) if one.status == 200]
        for fault, flight in pairs
        if isinstance(fault, TwoTriggers)
    }
    site.look(flights, taken)
    return list(flights)


def _report(flights: Sequence[Flight], fly: Callable[[], Sequence[Flight]], report: Callable[[Outcome], None]) -> int:
    """Fly a round; returns how many trials it was."""
    try:
        trials = fly()
    except Exception as error:
        trials = flights
        _note_errors(trials, {flight.run: error for flight in trials})
    for flight in trials:
        report(flight.outcome())
    return len(trials)
