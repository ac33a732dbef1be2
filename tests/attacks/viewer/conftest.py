"""The pages under Airflow's own simple auth manager, for somebody who may look; only its database is left out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.common.db.common import _get_session
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import FastAPI

from inpaint_ops.browse import RunViews
from inpaint_ops.config import Settings
from inpaint_ops.runs import Workspace
from inpaint_ops_airflow.ui.app import create_app


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


@pytest.fixture
def views(workspace: Workspace) -> RunViews:
    return RunViews(workspace, keep=False)


@pytest.fixture
def app(views: RunViews, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", SimpleAuthManager())
    monkeypatch.setattr(DagModel, "get_team_name", lambda dag_id, **_: None)
    monkeypatch.setattr("inpaint_ops_airflow.ui.pictures.WAIT_SECONDS", 600.0)  # for a machine that is busy
    made = create_app(views)
    made.dependency_overrides[_get_session] = lambda: None
    made.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="someone", role="viewer")
    return made
