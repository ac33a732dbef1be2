"""The one real cluster of a test session: PostgreSQL, a broker, Airflow with Celery, a machine for plans and reports.

Who needs it adds the machines that paint, and takes them away afterwards. It is set as the compose file sets it, but
for `FAST`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.airflow import DAG
from tests.support.fault_proxy import FaultProxy
from tests.support.machines import Broker, Cluster, Database
from tests.support.order import ends_with_its_group
from tests.support.queues import Queue, queue_server
from tests.support.statsd import StatsdListener

INBOX = "inpaint_inbox"
HOUSEKEEPING = "inpaint_housekeeping"
SLOTS = 3
"""Of the pool of painting tasks."""

FAST = {
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "90",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "INPAINT_RETRY_SECONDS": "1",
}
"""How soon Airflow looks for what died, in seconds; in place of the compose file's 5, 45, 10, 75, 15, 60 and 10, and of
Airflow's own 30. The times to recover that the suites print depend on these; that a run recovers does not. Heartbeats
alone have longer than there: a task that lives is not to be taken for dead when this machine keeps the api-server
waiting for half a minute, as a heartbeat that found no answer is sent again after up to 16 seconds."""


@dataclass(frozen=True)
class ClusterSite:
    """The cluster and its parts; the store through a proxy (`proxy`, as all machines see it) and directly."""

    cluster: Cluster
    database: Database
    broker: Broker
    proxy: FaultProxy
    metrics: StatsdListener
    direct: Storage
    root: Location
    arrivals: Queue


@contextlib.contextmanager
def started(server: ObjectStoreServer, folder: Path) -> Iterator[ClusterSite]:
    """Start a cluster with its files in `folder`, which is made; all of it ends with the block."""
    folder.mkdir(exist_ok=True)
    root = Location(server.bucket, "cluster/")
    direct = Storage(writable=[root], s3_client=lambda: make_s3_client(server.session(), endpoint_url=server.endpoint))
    with (
        StatsdListener() as metrics,
        FaultProxy(server.endpoint) as proxy,
        Database() as database,
        Broker() as broker,
        queue_server(folder / "queue.log") as arrivals,
    ):
        environment = FAST | metrics.environment | {
            "INPAINT_STORE": root.uri,
            "INPAINT_MODEL": "tiny-random",
            "INPAINT_DEADLINE_HOURS": "0.01",
            "INPAINT_PREFETCH": "4",
            "INPAINT_PROGRESS_INTERVAL": "2",
            "INPAINT_INBOX_SCHEDULE": "@yearly",
            "INPAINT_STANDING_SCHEDULE": "@yearly",
            "INPAINT_ARRIVALS_QUEUE": arrivals.url,
            "INPAINT_ARRIVALS_QUIET": "0.5",
            "HF_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        cluster = Cluster(
            folder / "home",
            database=database,
            broker=broker,
            store=server.env | {"AWS_ENDPOINT_URL": proxy.url},
            environment=environment,
            gpu_slots=SLOTS,
        )
        pulling = subprocess.Popen(
            [sys.executable, "-m", "inpaint_ops.cli", "models", "pull", "tiny-random"],
            env=os.environ | {"HF_HOME": str(folder / "cache")},
            stdout=subprocess.DEVNULL,
        )
        try:
            cluster.start()
            cluster.add_machine("cpu-1", "default", concurrency=SLOTS, gpus=0)
            cluster.wait_for_dags(DAG, HOUSEKEEPING, INBOX)
            for dag in (DAG, HOUSEKEEPING, INBOX):
                cluster.unpause(dag)
            if pulling.wait(600) != 0:
                raise RuntimeError("tiny-random could not be built")
            yield ClusterSite(cluster, database, broker, proxy, metrics, direct, root, arrivals)
        finally:
            pulling.kill()
            cluster.stop()


@pytest.fixture(scope="session")
def cluster_site(
    object_store: ObjectStoreServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ClusterSite]:
    """The cluster, started once per session, ended with the last test of its group."""
    with contextlib.ExitStack() as stack:
        ends_with_its_group(request.config, "cluster_site", stack.close)
        yield stack.enter_context(started(object_store, tmp_path_factory.mktemp("cluster")))
