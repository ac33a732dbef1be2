"""What the list says of Airflow's DAG runs: queued with their place, running, stopped, by tables of Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.common.db.common import _get_session
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.tasklog import LogTemplate
from airflow.models.xcom import XComModel
from fastapi import FastAPI
from sqlalchemy import create_engine, insert, update
from sqlalchemy.orm import Session

from inpaint_ops.browse import RunViews
from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, InpaintOpsError, ManifestError, RunConflictError, StorageUnavailableError
from inpaint_ops.runs import Workspace, keep_refusal, refusal
from inpaint_ops_airflow.ui.requests import SHOWN, requests_of
from tests.support.pages import app, sign_in
from tests.support.synthetic_run import make_plan, put_finished_run, put_plan

__all__ = ["app"]

NOW = datetime.now(UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


@pytest.fixture
def session() -> Iterator[Session]:
    """Airflow's own tables of DAG runs, task instances, XComs, and templates of logs, which an insert asks for."""
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False})
    with engine.connect() as connection:
        for table in (DagRun.__table__, TaskInstance.__table__, XComModel.__table__, LogTemplate.__table__):
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            connection.exec_driver_sql(f"CREATE TABLE {table.name} ({columns})")
        with Session(connection) as found:
            yield found


def put_dag_run(
    session: Session, run: str, state: str, *, minutes: int = 0, by: str | None = "ann", **conf: Any
) -> str:
    run_id = f"page__{run}"
    conf = {"run": run, "manifest": "s3://x/night.jsonl"} | conf
    row = {"dag_id": "inpaint_manifest", "run_id": run_id, "state": state, "conf": conf, "triggering_user_name": by,
           "run_after": NOW - timedelta(minutes=minutes)}  # fmt: skip
    session.execute(insert(DagRun.__table__).values(**row))
    return run_id


def put_tasks(session: Session, run_id: str, states: list[str | None]) -> None:
    for index, state in enumerate(states):
        row = {"dag_id": "inpaint_manifest", "run_id": run_id, "task_id": "inpaint", "map_index": index, "state": state}
        session.execute(insert(TaskInstance.__table__).values(**row))


def test_those_that_run_come_first_and_the_others_have_their_place(session: Session) -> None:
    put_dag_run(session, "third", "queued", minutes=1)
    put_dag_run(session, "second", "queued", minutes=5)
    going = put_dag_run(session, "first", "running", minutes=3)
    put_dag_run(session, "over", "success", minutes=2)
    put_tasks(session, going, ["success", "success", "running", "scheduled", None])
    found = requests_of(session)
    assert [(one.dag_run.run, one.doing) for one in found.active] == [
        ("first", "2 done, 1 painting, 2 waiting for a slot of the pool gpu of 5 tasks"),
        ("second", "place 1 in the queue"),
        ("third", "place 2 in the queue"),
    ]


def test_a_thousand_that_wait_are_counted_and_not_listed(session: Session) -> None:
    for number in range(SHOWN + 30):
        put_dag_run(session, f"r{number}", "queued", minutes=number)
    found = requests_of(session)
    assert (len(found.active), found.more) == (SHOWN, 30)


def fragment(app: FastAPI, session: Session, role: str = "user") -> str:
    app.dependency_overrides[_get_session] = lambda: session
    with sign_in(app, role) as client:
        client.get("/")  # which reads the list of runs
        reply = client.get("/fragments/requests")
    assert reply.status_code == 200, reply.text
    return reply.text


def test_whoever_may_trigger_has_the_buttons(app: FastAPI, session: Session, workspace: Workspace) -> None:
    put_finished_run(workspace, "over", 3)
    put_plan(workspace, make_plan("broken", 3, shard_rows=3))
    put_dag_run(session, "waits", "queued")
    put_dag_run(session, "broken", "failed")
    put_dag_run(session, "over", "failed")  # its report is there: it did not pass its checks
    put_dag_run(session, "old", "failed", minutes=60 * 24 * 30)
    page = fragment(app, session)
    assert page.count('data-request="cancel"') == 1
    assert page.count('data-request="resume"') == 1
    assert 'data-id="page__broken"' in page
    assert "<button" not in fragment(app, session, "viewer")


def test_a_stopped_run_is_offered_once_and_not_while_it_goes_on(session: Session) -> None:
    for number, run in enumerate(("a", "b")):
        put_dag_run(session, run, "failed", minutes=10 + number, steps=3)
    session.execute(update(DagRun.__table__).where(DagRun.run_id == "page__a").values(run_id="page__a__0"))
    put_dag_run(session, "a", "failed", minutes=5, steps=4)
    found = requests_of(session).stopped
    assert [(one.dag_run.run, one.again["conf"].get("steps")) for one in found] == [("a", 4), ("b", 3)]
    assert found[0].again == requests_of(session).stopped[0].again, "asked for twice, it is one DAG run"
    session.execute(update(DagRun.__table__).where(DagRun.run_id == "page__b").values(run_id="page__b__0"))
    put_dag_run(session, "b", "running")
    assert [one.dag_run.run for one in requests_of(session).stopped] == ["a"]


def put_refusal(session: Session, run_id: str, error: InpaintOpsError, run: str) -> None:
    """What the task `plan` leaves in Airflow where it refuses a job."""
    value = refusal(error, run=run, manifest="s3://x/night.jsonl", request=run_id).model_dump(mode="json")
    row = {"dag_id": "inpaint_manifest", "run_id": run_id, "task_id": "plan", "key": "refused", "map_index": -1}
    session.execute(insert(XComModel.__table__).values(**row, dag_run_id=1, timestamp=NOW, value=value))


def test_a_job_that_was_refused_for_its_name_is_told_why_and_not_offered_to_resume(
    app: FastAPI, session: Session, workspace: Workspace
) -> None:
    put_plan(workspace, make_plan("other", 3, shard_rows=3))
    run_id = put_dag_run(session, "../night", "failed")
    put_refusal(session, run_id, ConfigError("run name '../night': use letters, <b>digits</b>"), "../night")
    page = fragment(app, session)
    assert "Resume" not in page
    assert "Stopped before their report" not in page
    assert "run name &#39;../night&#39;: use letters, &lt;b&gt;digits&lt;/b&gt;" in page
    assert "What to do:" in page
    assert "/dag-runs/inpaint_manifest/page__../night" in page


def test_a_name_that_is_taken_leaves_the_run_of_that_name_to_be_resumed(
    app: FastAPI, session: Session, workspace: Workspace
) -> None:
    put_plan(workspace, make_plan("night", 3, shard_rows=3))
    put_dag_run(session, "night", "failed", minutes=60, steps=3)
    session.execute(update(DagRun.__table__).values(run_id="page__night__0"))
    taken = put_dag_run(session, "night", "failed", minutes=5, steps=7)
    put_refusal(session, taken, RunConflictError("'night' is of another manifest"), "night")
    found = requests_of(session)
    assert [one.again["conf"]["steps"] for one in found.stopped] == [3], "not what was refused"
    assert [one.dag_run.run_id for one in found.refused] == [taken]
    page = fragment(app, session)
    assert page.count('data-request="resume"') == 1
    assert 'data-id="page__night__0"' in page
    assert "is of another manifest" in page


def test_a_job_that_failed_for_a_while_may_be_resumed(session: Session) -> None:
    run_id = put_dag_run(session, "night", "failed")
    put_refusal(session, run_id, StorageUnavailableError("the store did not answer"), "night")
    found = requests_of(session)
    assert ([one.dag_run.run for one in found.stopped], found.refused) == (["night"], ())


def test_a_refusal_is_told_once_and_no_longer_when_its_run_has_been_planned(
    app: FastAPI, session: Session, workspace: Workspace
) -> None:
    error = ManifestError("the columns are foo and bar")
    run_id = put_dag_run(session, "night", "failed")
    put_refusal(session, run_id, error, "night")
    assert "the columns are foo" in fragment(app, session)
    keep_refusal(workspace, refusal(error, run="night", manifest="s3://x/night.jsonl", request=run_id))
    app.state.views = RunViews(workspace, keep=False)
    assert "the columns are foo" not in fragment(app, session), "the list of runs has it"
    put_plan(workspace, make_plan("night", 3, shard_rows=3, created=datetime.now(UTC) + timedelta(hours=1)))
    app.state.views = RunViews(workspace, keep=False)
    assert "the columns are foo" not in fragment(app, session), "it was mended"


def test_names_of_others_are_text(app: FastAPI, session: Session) -> None:
    put_dag_run(session, "<img src=x>", "queued", by='"><script>alert(1)</script>', manifest="<b>")
    page = fragment(app, session)
    assert "<script>" not in page
    assert "<img" not in page
    assert "<b>" not in page


def test_without_airflows_database_nothing_is_listed(app: FastAPI) -> None:
    with sign_in(app, "user") as client:
        assert client.get("/fragments/requests").text.strip() == ""
