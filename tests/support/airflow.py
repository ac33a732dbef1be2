"""The one real Airflow of a test session, and what its tests ask of it.

It runs behind a path prefix as behind a proxy, finds its store by a connection, and reaches that store through a fault
proxy, so that a test can hold a run at a request of its choice. Tests use run names and folders of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.airflow_stack import USER, AirflowStack
from demo.object_store import ObjectStoreServer
from demo.photos import make_demo
from inpaint_ops.config import Settings
from inpaint_ops.locations import has_scheme, parse
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.fault_proxy import FaultProxy
from tests.support.order import ends_with_its_group
from tests.support.warm import Host
from tests.support.webhook import Webhook

DAG = "inpaint_manifest"
STORE = "s3://inpaint/airflow/"
INBOX = f"{STORE}inbox {{{{ 7**37 }}}}/"
DELIVERED = "s3://inpaint/handed on {{ 7**37 }}/"
JOBS = "jobs {{ 7**37 }}/"
"""Every manifest's URI holds a template, so each test here sees to it that none is rendered on its way."""
RENDERED = str(7**37)
"""What the template would become: too long to stand in a log by chance, as a part of a time or an id."""

STEPS = 2
PREFIX = "/airflow"
STRANGER = "stranger"
"""A user of Airflow without any role."""
LOOKER = "looker"
"""One who may look, and trigger nothing."""


@dataclass(frozen=True)
class Site:
    """An Airflow with the pages; the store as its tasks see it (`proxy`), and directly (`workspace`); a webhook."""

    stack: AirflowStack
    workspace: Workspace
    proxy: FaultProxy
    webhook: Webhook

    @property
    def url(self) -> str:
        """Airflow's own address, prefix included."""
        return self.stack.url

    @property
    def pages(self) -> str:
        """Where our pages begin."""
        return f"{self.url}/inpaint"


@pytest.fixture(scope="session")
def site(
    object_store: ObjectStoreServer,
    shared_warm_host: Host,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """Airflow, healthy and with its DAGs running; started once per session, ended with the last test of its group."""
    with ExitStack() as stack:
        ends_with_its_group(request.config, "site", stack.close)
        yield stack.enter_context(_started(object_store, shared_warm_host, tmp_path_factory.mktemp("airflow")))


@contextmanager
def _started(object_store: ObjectStoreServer, warm_host: Host, home: Path) -> Iterator[Site]:
    client = make_s3_client(object_store.session(), endpoint_url=object_store.endpoint)
    workspace = Workspace.open(Settings(), store=STORE, s3_client=lambda: client)
    with FaultProxy(object_store.endpoint) as proxy, Webhook() as webhook:
        connection = {
            "conn_type": "aws",
            "login": object_store.access_key,
            "password": object_store.secret_key,
            "extra": {"endpoint_url": proxy.url, "region_name": "us-east-1"},
        }
        environment = {
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",  # no DAG's file changes meanwhile
            "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "600",  # for a callback after a success, on a busy machine
            "AIRFLOW_CONN_INPAINT_S3": json.dumps(connection),  # the demo uses the SDK's own settings
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin,{STRANGER}:,{LOOKER}:viewer",
            "AIRFLOW_CONN_INPAINT_HOOK": json.dumps({"conn_type": "http", "host": webhook.url}),
            "INPAINT_NOTIFY": "webhook:inpaint_hook",
            "INPAINT_S3_CONN_ID": "inpaint_s3",
            "INPAINT_STORE": STORE,
            "INPAINT_WARM_HOST": warm_host.socket,  # workers by exec: the cluster's
            "INPAINT_INBOX": INBOX,
            "INPAINT_DELIVERY_PREFIXES": DELIVERED,
            "INPAINT_MODEL": "demo",
            "INPAINT_SHARD_ROWS": "5",
            "INPAINT_FAILURE_THRESHOLD": "0.25",
            "INPAINT_PREFLIGHT_SECONDS": "300",
            "INPAINT_SCRATCH": str(home / "scratch"),
            "INPAINT_RETRY_SECONDS": "1",
            "INPAINT_PROGRESS_INTERVAL": "1",
            "INPAINT_INBOX_SCHEDULE": "@yearly",
            "INPAINT_STANDING_SCHEDULE": "@yearly",
            "OMP_NUM_THREADS": "1",
        }
        stack = AirflowStack(home / "home", environment, prefix=PREFIX)
        try:
            stack.start()
            dags = (DAG, "inpaint_inbox", "inpaint_standing", "inpaint_deliver", "model_cache")
            stack.wait_for_dags(*dags)
            for dag in dags:
                stack.unpause(dag)
            yield Site(stack, workspace, proxy, webhook)
        finally:
            stack.stop()


def put_manifest(
    workspace: Workspace, name: str, rows: list[dict[str, Any]] | None = None, *, folder: str = JOBS
) -> str:
    """The demo's photos beside a manifest: all ten rows, or `rows` over its photos. Few steps: the demo model's fills
    are the same for any number.

    `folder` is a URI, or lies below the workspace's store.

    Only what lies in the folder INBOX is claimed by whoever looks into the inbox.
    """
    where = parse(folder) if has_scheme(folder) else workspace.store.join(folder).as_prefix()
    manifest = make_demo(lambda key, data: workspace.storage.put(where.join(key), data) and None)
    found = [json.loads(line) for line in manifest.splitlines()] if rows is None else rows
    lines = (json.dumps(row if "quality" in row else {"steps": STEPS} | row) + "\n" for row in found)
    return workspace.storage.put(where.join(name), "".join(lines).encode()).location.uri


def records(workspace: Workspace, run: str) -> dict[int, Record]:
    """A run's records by row; each row has one."""
    found = [
        Record.model_validate_json(workspace.storage.get(info.location))
        for info in workspace.storage.list(workspace.layout(run).records)
    ]
    assert len({record.row for record in found}) == len(found), "one record per row"
    return {record.row: record for record in found}
