"""Many machines for real: PostgreSQL, a broker, CeleryExecutor, and machines that join, share and are killed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import psutil
import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.device import Lease
from inpaint_ops.records import Record, RunSummary, WorkerReport
from inpaint_ops.runs import Workspace
from tests.support.airflow import DAG, put_manifest, records
from tests.support.cluster import HOUSEKEEPING, INBOX, ClusterSite
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.machines import Cluster, can_rename_hosts, gpu_uuid
from tests.support.statsd import Heard, StatsdListener
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(
        not can_rename_hosts(), reason="machines need UTS namespaces: be root, or allow user namespaces"
    ),
    pytest.mark.cluster,
]

ROWS, SHARD_ROWS = 20, 5


@pytest.fixture(scope="module")
def workspace(cluster_site: ClusterSite) -> Workspace:
    return Workspace(Settings(), cluster_site.root, cluster_site.direct)


@pytest.fixture(scope="module")
def metrics(cluster_site: ClusterSite) -> StatsdListener:
    return cluster_site.metrics


@pytest.fixture(scope="module")
def cluster(cluster_site: ClusterSite) -> Iterator[Cluster]:
    """The cluster with machines that paint: one GPU each, and three seconds of waiting for it."""
    stack = cluster_site.cluster
    for name in ("gpu-1", "gpu-2"):
        stack.add_machine(name, "gpu", INPAINT_LEASE_TIMEOUT="3")
    yield stack
    for name in {"gpu-1", "gpu-2", "gpu-3"} & stack.processes.keys():
        stack.kill_machine(name)


@dataclass
class Night:
    """A run during which one machine joined and another one died."""

    run_id: str
    killed: str
    at: datetime
    records_at_death: dict[int, Record]
    before_join: dict[int, Record]
    metrics: Heard


def hosts(found: dict[int, Record]) -> dict[str, list[Record]]:
    by_host: dict[str, list[Record]] = {}
    for record in found.values():
        assert record.worker is not None
        by_host.setdefault(record.worker.host, []).append(record)
    return by_host


class HalfWay:
    """Holds every shard half-way: the records of its first two rows pass, and those of the others wait.

    A request that waits is ended before its client gives it up, and the client sends it again.
    """

    def __init__(self, proxy: FaultProxy) -> None:
        self._released = threading.Event()
        self._dead: list[int] = []
        self._rules = [
            proxy.on(Fault.DELAY, method="PUT", path=f"/{row:07d}.json", times=10**6, seconds=0.0,
                     before=partial(self._wait, row))
            for row in range(1, ROWS + 1) if (row - 1) % SHARD_ROWS >= 2
        ]  # fmt: skip

    def _wait(self, row: int) -> bool:
        """Whether the request goes on; one of a machine that was killed meanwhile does not."""
        before = not self._released.is_set()
        return self._released.wait(20) and not (before and (row - 1) // SHARD_ROWS in self._dead)

    def release(self, *dead: int) -> None:
        """Let all go on but what a machine that is dead now has sent for the shards `dead`, counted from 0."""
        self._dead += dead
        self._released.set()
        for rule in self._rules:
            rule.times = 0


@pytest.fixture(scope="module")
def night(
    cluster: Cluster, cluster_site: ClusterSite, workspace: Workspace, metrics: StatsdListener,
    say: Callable[[str], None],
) -> Night:  # fmt: skip
    rows = [
        {"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "prompt": "a cup", "id": f"cup-{index}", "steps": 2}
        for index in range(ROWS)
    ]
    manifest = put_manifest(workspace, "night.jsonl", rows)
    started, heard = time.monotonic(), len(metrics.samples)
    held = HalfWay(cluster_site.proxy)
    run_id = cluster.trigger(DAG, {"manifest": manifest, "run": "night", "shard_rows": SHARD_ROWS, "batch_size": 1})
    wait_until(lambda: len(records(workspace, "night")) == 4, pause=0.2)
    before_join = records(workspace, "night")
    cluster.add_machine("gpu-3", "gpu", INPAINT_LEASE_TIMEOUT="3")
    wait_until(lambda: len(records(workspace, "night")) == 6, pause=0.2)
    cluster.kill_machine("gpu-1")
    at = datetime.now(UTC)
    at_death = records(workspace, "night")
    held.release(*{(record.row - 1) // SHARD_ROWS for record in hosts(at_death)["gpu-1"]})
    state = cluster.wait_for_run(DAG, run_id)
    assert state == "success", cluster.task_instances(DAG, run_id)
    say(f"cluster: {ROWS} rows in {ROWS // SHARD_ROWS} shards, a machine killed, in {time.monotonic() - started:.0f} s")
    return Night(run_id, "gpu-1", at, at_death, before_join, Heard(metrics.samples[heard:]))


def test_every_row_ends_once_though_a_machine_is_killed_half_way(night: Night, workspace: Workspace) -> None:
    everything = records(workspace, "night")
    assert sorted(everything) == list(range(1, ROWS + 1))
    assert {record.status for record in everything.values()} == {"done"}
    assert len({record.id for record in everything.values()}) == ROWS
    assert {row: everything[row] for row in night.records_at_death} == night.records_at_death
    summary = RunSummary.model_validate_json(workspace.storage.get(workspace.layout("night").summary))
    assert (summary.verdict, summary.counts.done) == ("VALID", ROWS)


def test_both_machines_took_part_and_one_that_joined_half_way_took_work(night: Night, workspace: Workspace) -> None:
    by_host = hosts(records(workspace, "night"))
    assert set(by_host) == {"gpu-1", "gpu-2", "gpu-3"}
    assert set(hosts(night.before_join)) == {"gpu-1", "gpu-2"}
    assert 0 < len(night.before_join) < ROWS


def test_the_dead_machines_shard_starts_elsewhere(
    night: Night, workspace: Workspace, say: Callable[[str], None]
) -> None:
    everything = records(workspace, "night")
    dead = {record.attempt for record in hosts(night.records_at_death)[night.killed]}
    half = {row: record for row, record in everything.items() if record.attempt in dead}
    shards = {(row - 1) // SHARD_ROWS for row in half}
    later = [r for r in everything.values() if (r.row - 1) // SHARD_ROWS in shards and r.attempt not in dead]
    assert later, "it was killed with a shard half-way"
    assert night.killed not in {record.worker.host for record in later if record.worker}
    moved = min(record.worker.started_at for record in later if record.worker) - night.at
    assert moved.total_seconds() > 0
    say(f"cluster: the dead machine's shard had a worker elsewhere {moved.total_seconds():.0f} s after the kill")


def test_each_task_instance_had_a_worker_process_of_its_own(
    night: Night, cluster: Cluster, workspace: Workspace
) -> None:
    processes: dict[str, set[tuple[str, int, datetime]]] = {}
    for record in records(workspace, "night").values():
        assert record.worker is not None
        processes.setdefault(record.attempt, set()).add(
            (record.worker.host, record.worker.pid, record.worker.started_at)
        )
    assert len(processes) == ROWS // SHARD_ROWS + 1, "one attempt a shard, and one more where a machine died"
    assert all(len(each) == 1 for each in processes.values())
    assert len(set().union(*processes.values())) == len(processes)
    reports = worker_reports(workspace, "night")
    assert len(reports) == ROWS // SHARD_ROWS, "the killed one could not leave its own"
    assert {report.exit for report in reports} == {"clean"}
    instances = [ti for ti in cluster.task_instances(DAG, night.run_id) if ti["task_id"] == "inpaint"]
    tasks = {(ti["hostname"], ti["pid"]) for ti in instances}
    assert len(tasks) == len(instances), "and each task instance a process of its own above it"
    assert tasks.isdisjoint((host, pid) for each in processes.values() for host, pid, _ in each)


def worker_reports(workspace: Workspace, run: str) -> list[WorkerReport]:
    return [
        WorkerReport.model_validate_json(workspace.storage.get(info.location))
        for info in workspace.storage.list(workspace.layout(run).workers)
    ]


def test_never_two_workers_on_one_gpu(night: Night, workspace: Workspace) -> None:
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    for report in worker_reports(workspace, "night"):
        spans.setdefault(report.worker.host, []).append((report.worker.started_at, report.finished_at))
    for host, of_host in spans.items():
        for (_, end), (start, _) in pairwise(sorted(of_host)):
            assert end <= start, f"two workers at once on the one GPU of {host}"
    painted: dict[str, dict[int, list[Record]]] = {}
    for record in records(workspace, "night").values():
        assert record.worker is not None
        painted.setdefault(record.worker.host, {}).setdefault(record.worker.pid, []).append(record)
    for host, workers in painted.items():
        assert len(workers) >= 1
        times = sorted((min(r.started_at for r in of), max(r.finished_at for r in of)) for of in workers.values())
        for (_, end), (start, _) in pairwise(times):
            assert end <= start, f"two workers painted at once on the one GPU of {host}"


def test_a_machine_knows_neither_the_database_nor_the_stores_secret(
    night: Night, cluster: Cluster, object_store: ObjectStoreServer
) -> None:
    environment = psutil.Process(cluster.processes["gpu-2"].pid).environ()
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in environment
    assert not [name for name, value in environment.items() if object_store.secret_key in value]
    everything = "\n".join(cluster.task_log(DAG, ti) for ti in cluster.task_instances(DAG, night.run_id))
    assert re.search(r"5/5 rows", everything), "read by the api-server from the store, where the machine put them"
    assert object_store.secret_key not in everything


def test_the_run_can_be_scraped(night: Night, workspace: Workspace) -> None:
    metrics = night.metrics
    everything = records(workspace, "night")
    lost = [record for record in night.records_at_death.values() if record.attempt in half_attempts(night, everything)]
    images = metrics.total("airflow.inpaint_ops_images_total", status="done")
    assert images == ROWS - len(lost), "each image is counted once; a machine that dies takes its last count with it"
    stages = metrics.tags("airflow.inpaint_ops_stage_duration_seconds", "stage")
    assert {"download", "denoise", "upload"} <= stages
    seconds = metrics.total("airflow.inpaint_ops_stage_duration_seconds", stage="denoise") / 1000
    expected = sum(r.timings.denoise or 0 for r in everything.values() if r not in lost)
    assert seconds == pytest.approx(expected, rel=0.01)
    assert metrics.tags("airflow.inpaint_ops_gpu_peak_memory_bytes", "host") == {"gpu-2", "gpu-3"} | {
        record.worker.host for record in everything.values() if record.worker and record not in lost
    }
    assert metrics.tags("airflow.pool.running_slots", "pool_name") >= {"gpu"}


def half_attempts(night: Night, everything: dict[int, Record]) -> set[str]:
    """The try that was under way on the machine when it died: its shard has records of another try as well."""
    dead = {record.attempt for record in hosts(night.records_at_death)[night.killed]}
    return {
        attempt
        for attempt in dead
        if any(
            other.attempt != attempt and other.attempt.partition("-")[0] == attempt.partition("-")[0]
            for other in everything.values()
        )
    }


def test_a_task_that_finds_no_free_gpu_waits_says_so_and_leaves_it_to_a_retry(
    night: Night, cluster: Cluster, workspace: Workspace
) -> None:
    rows = [{"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "prompt": "a cup", "id": "cup", "steps": 2}]
    manifest = put_manifest(workspace, "busy.jsonl", rows)
    held = [Lease.acquire([gpu_uuid(name)], cluster.lease_folder(name), 30) for name in ("gpu-2", "gpu-3")]
    try:
        run_id = cluster.trigger(DAG, {"manifest": manifest, "run": "busy"})

        def first_try() -> dict[str, Any] | None:
            """The first try, once it is over: the next one begins a second later, and there are four."""
            painting = (ti for ti in cluster.task_instances(DAG, run_id) if ti["task_id"] == "inpaint")
            over = (ti for ti in painting if ti["state"] == "up_for_retry" or ti["try_number"] > 1)
            return next((ti | {"try_number": 1} for ti in over), None)

        instance = wait_until(first_try, pause=0.2)
    finally:
        for lease in held:
            lease.release()
    # The log follows the state: it is put into the store when the try's process ends.
    text = wait_until(lambda: "waiting for" in (log := cluster.task_log(DAG, instance)) and log)
    assert re.search(r"waiting for a device: held are GPU-gpu-[23]-0 by pid \d+ on ", text)
    assert "DeviceBusyError: no free device after 3 s" in text, "a transient error: Airflow tries again"
    assert cluster.wait_for_run(DAG, run_id) == "success"
    (record,) = records(workspace, "busy").values()
    assert record.status == "done"


def test_a_run_that_misses_its_deadline_is_told(night: Night, cluster: Cluster, metrics: StatsdListener) -> None:
    wait_until(lambda: "has missed its deadline" in cluster.log_tail("triggerer", 100_000))
    assert metrics.total("airflow.deadline_alerts.deadline_missed", dag_id=DAG) >= 1


def test_housekeeping_shows_what_would_go_and_runs_on_both_queues(
    night: Night, cluster: Cluster, workspace: Workspace
) -> None:
    before = records(workspace, "night")
    run_id = cluster.trigger(HOUSEKEEPING)
    assert cluster.wait_for_run(HOUSEKEEPING, run_id) == "success"
    tasks = {ti["task_id"]: ti for ti in cluster.task_instances(HOUSEKEEPING, run_id)}
    assert tasks["store"]["hostname"] == "cpu-1"
    assert tasks["model_cache"]["hostname"] in ("gpu-2", "gpu-3")
    assert records(workspace, "night") == before


def test_what_comes_into_the_inbox_starts_a_run_when_the_store_tells_of_it(
    cluster: Cluster, cluster_site: ClusterSite, workspace: Workspace
) -> None:
    """By the triggerer, with the credentials of the store's connection; the DAG's own schedule is once a year."""
    rows = [{"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "prompt": "a cup", "id": "cup", "steps": 2}]
    manifest = put_manifest(workspace, "arrived.jsonl", rows, folder=workspace.places.inbox.uri)
    cluster_site.arrivals.tell(manifest.removeprefix("s3://"))

    def started() -> str | None:
        runs = cluster.api("GET", f"/dags/{DAG}/dagRuns", limit=100)["dag_runs"]
        return next((run["dag_run_id"] for run in runs if run["conf"].get("manifest") == manifest), None)

    assert cluster.wait_for_run(DAG, wait_until(started, pause=0.5)) == "success"
    (look,) = cluster.api("GET", f"/dags/{INBOX}/dagRuns", limit=100)["dag_runs"]
    assert look["run_type"] == "asset_triggered"
    assert cluster_site.arrivals.left() == 0
