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
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx
import psutil

from tests.faults.cluster_flight import PAINTER, PATIENCE, Flight, Site
from tests.support.airflow import DAG

IN_A_TASK = ("loading", "before image", "after image", "before record", "after record")
IN_A_RUN = ("planning", *IN_A_TASK, "reporting")
"""Moments; each is a request of the run that the proxy in front of the store sees (see `Site.at_a_moment`)."""


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
        note_errors(flights, site.fly({flight.run: partial(fly, flight) for flight in flights}))
        trials = [flight for flight in flights if flight.struck_at is not None or flight is first]
        site.look(trials)
        return trials


def note_errors(flights: Sequence[Flight], errors: Mapping[str, BaseException]) -> None:
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
