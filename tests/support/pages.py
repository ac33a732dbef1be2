"""The pages in Airflow, under its own simple auth manager."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.common.db.common import _get_session
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import FastAPI
from fastapi.testclient import TestClient

from inpaint_ops.browse import RunViews
from inpaint_ops.runs import Workspace
from inpaint_ops_airflow.ui.app import create_app


@pytest.fixture
def app(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The pages under Airflow's own simple auth manager; only its database is left out."""
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", SimpleAuthManager())
    monkeypatch.setattr(DagModel, "get_team_name", lambda dag_id, **_: None)
    for wait in ("WAIT_SECONDS", "_TOGETHER_SECONDS"):  # a machine that is busy
        monkeypatch.setattr(f"inpaint_ops_airflow.ui.pictures.{wait}", 600.0)
    made = create_app(RunViews(workspace, keep=False))
    made.dependency_overrides[_get_session] = lambda: None
    return made


def sign_in(app: FastAPI, role: str | None) -> TestClient:
    app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="someone", role=role)
    return TestClient(app, root_path="/airflow/inpaint", follow_redirects=False)


def signed_in(app: FastAPI, name: str = "ann", role: str = "user") -> TestClient:
    """A client of this user, who may trigger runs where no other role is named."""
    app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username=name, role=role)
    return TestClient(app, root_path="/airflow/inpaint", follow_redirects=False)
