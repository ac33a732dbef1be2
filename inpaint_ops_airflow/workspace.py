"""The workspace of this Airflow, from its connection and its environment, and the name of a DAG run's run in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from inpaint_ops.config import Settings
    from inpaint_ops.locations import Location
    from inpaint_ops.runs import Workspace

CONNECTION_VARIABLE = "INPAINT_S3_CONN_ID"
"""Names the Airflow connection for storage; unset: the AWS SDK's own settings."""

INSTALLATION = "inpaint_ops_installation"
"""The Airflow variable that identifies this Airflow among others that look at the same store."""


def installation() -> str:
    """What this Airflow signs its claims with: made once, and kept in an Airflow variable."""
    from uuid import uuid4

    from airflow.sdk import Variable

    name = Variable.get(INSTALLATION, default=None)
    if name is None:
        name = uuid4().hex
        Variable.set(INSTALLATION, name)
    return str(name)


def open_workspace(*, also_writable: Iterable[Location] = ()) -> Workspace:
    """The workspace of this installation: rows may read from the store, the inbox and INPAINT_ALLOWED_PREFIXES.

    What is named in `also_writable` may be written beside the store.
    """
    from inpaint_ops.config import load_settings
    from inpaint_ops.runs import Workspace

    settings = load_settings()
    connection = os.environ.get(CONNECTION_VARIABLE, "")
    client = (lambda: _client(connection, settings)) if connection else None
    return Workspace.open(settings, also_writable=also_writable, s3_client=client)


def _client(connection: str, settings: Settings) -> S3Client:
    """Our own client (its timeouts, retries and pool) with the connection's credentials and endpoint."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from inpaint_ops.storage.s3_client import make_s3_client

    hook = S3Hook(aws_conn_id=connection)
    endpoint = hook.conn_config.get_service_endpoint_url("s3")
    return make_s3_client(
        hook.get_session(),
        endpoint_url=endpoint,
        attempts=settings.storage_tries,
        requester_pays=settings.requester_pays,
    )


def without_airflow() -> dict[str, str]:
    """The environment of a process that opens the same workspace without Airflow: credentials as they are now.

    They are the connection's, or of its role, and good for minutes at least.
    """
    environment = dict(os.environ)
    connection = environment.pop(CONNECTION_VARIABLE, "")
    if not connection:
        return environment
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook(aws_conn_id=connection)
    session, endpoint = hook.get_session(), hook.conn_config.get_service_endpoint_url("s3")
    found = session.get_credentials()
    frozen = found.get_frozen_credentials() if found is not None else None
    named = {
        "AWS_ACCESS_KEY_ID": frozen and frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen and frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen and frozen.token,
        "AWS_DEFAULT_REGION": session.region_name,
        "AWS_REGION": session.region_name,
        "AWS_ENDPOINT_URL_S3": endpoint,
    }
    for name in (*named, "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        environment.pop(name, None)
    return environment | {name: value for name, value in named.items() if value}


def run_name(params: Mapping[str, Any], run_id: str) -> str:
    """The run's name in the store: the same for every attempt and every clearing of a DAG run, and for the pages."""
    from pathlib import PurePosixPath

    from inpaint_ops.layout import run_name_from

    given: str | None = params.get("run")
    return given or run_name_from(f"{PurePosixPath(params['manifest']).stem}-{run_id}")
