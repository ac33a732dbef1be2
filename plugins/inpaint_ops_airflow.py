"""What the DAGs share: a workspace from Airflow's connection, our errors as Airflow's, and a task that dies cleanly.

Airflow's processes import this file, so it stays light: `inpaint_ops` is imported inside the functions, torch never.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inpaint_ops.runs import Workspace

CONNECTION_VARIABLE = "INPAINT_S3_CONN_ID"
"""Names the Airflow connection for storage; unset: the AWS SDK's own settings."""


def open_workspace() -> Workspace:
    """The workspace of this installation: rows may read from the store, the inbox and INPAINT_ALLOWED_PREFIXES."""
    from inpaint_ops.config import load_settings
    from inpaint_ops.runs import Workspace

    settings = load_settings()
    connection = os.environ.get(CONNECTION_VARIABLE, "")
    tries = settings.storage_tries
    return Workspace.open(settings, s3_client=(lambda: _client(connection, tries)) if connection else None)


def _client(connection: str, tries: int) -> Any:
    """Our own client (its timeouts, retries and pool) with the connection's credentials and endpoint."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from inpaint_ops.storage import make_s3_client

    hook = S3Hook(aws_conn_id=connection)
    endpoint = hook.conn_config.get_service_endpoint_url("s3")
    return make_s3_client(hook.get_session(), endpoint_url=endpoint, attempts=tries)


def run_name(params: Mapping[str, Any], run_id: str) -> str:
    """The run's name in the store: the same for every try and every clearing of a DAG run, and for the pages."""
    from pathlib import PurePosixPath

    from inpaint_ops.layout import run_name_from

    return params.get("run") or run_name_from(f"{PurePosixPath(params['manifest']).stem}-{run_id}")


@contextlib.contextmanager
def airflow_errors() -> Iterator[None]:
    """Our errors as Airflow's: a permanent one fails the task at once, a transient one leaves it its retries."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from inpaint_ops.errors import InpaintOpsError

    try:
        yield
    except InpaintOpsError as error:
        kind = AirflowFailException if error.permanent else AirflowException
        raise kind(f"{type(error).__name__}: {error}") from error


def die_with_parent() -> None:
    """Have the kernel kill this task when Airflow's supervisor of it dies, and unwind it on SIGTERM.

    Without the first, a task whose supervisor was killed runs on beside its own retry; without the second, Airflow's
    task runner answers SIGTERM by calling `on_kill` and goes on.
    """
    from inpaint_ops import worker

    worker.die_with_parent(os.getppid())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
