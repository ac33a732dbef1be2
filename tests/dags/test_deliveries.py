"""The DAG that delivers: its form, and its task's own function on a real S3 server, without an Airflow around it."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, DamagedObjectError, InpaintOpsError
from inpaint_ops.locations import Location, parse
from inpaint_ops.runs import Workspace
from inpaint_ops_airflow.deliveries import Told, deliver_run
from tests.support.delivered import PAINTED, RUN, checked, put_run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ.setdefault("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    sys.path[:0] = [str(REPOSITORY / "dags")]
    import inpaint_deliver

    return inpaint_deliver.inpaint_deliver()


def params(dag: Any, **conf: Any) -> dict[str, Any]:
    merged = copy.deepcopy(dag.params)
    merged.update(conf)
    return dict(merged.validate())


GOOD = {"run": RUN, "to": "s3://client/from-us/night/"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": ""},
        {"to": ""},
        {"to": 7},
        {"only": "all"},
        {"sheet": "pdf"},
        {"also": ["everything"]},
        {"also": "patch"},
        {"replace": "yes"},
    ],
)
def test_the_form_refuses_what_cannot_work(dag: Any, wrong: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    params(dag, **GOOD)
    with pytest.raises(ParamValidationError):
        params(dag, **{**GOOD, **wrong})


def test_one_delivery_runs_at_a_time_and_is_tried_again(dag: Any) -> None:
    task = dag.task_dict["deliver"]
    assert (dag.max_active_runs, task.retries, task.execution_timeout.total_seconds()) == (1, 3, 12 * 3600)


@pytest.fixture
def workspace(s3_prefix: Location, aws_environment: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A store with a finished run, as the environment of a task names it, and a prefix beside it to deliver to."""
    monkeypatch.setenv("INPAINT_STORE", s3_prefix.uri)
    monkeypatch.setenv("INPAINT_DELIVERY_PREFIXES", f"s3://elsewhere/, {s3_prefix.parent.uri}handed-on/")
    monkeypatch.delenv("INPAINT_S3_CONN_ID", raising=False)
    made = Workspace.open(Settings())
    put_run(made)
    return made


def delivered(workspace: Workspace, dag: Any, **conf: Any) -> Told:
    told: list[dict[str, Any]] = []
    to = f"{workspace.store.parent.uri}handed-on/night"
    deliver_run(params(dag, **({"run": RUN, "to": to} | conf)), told.append)
    (one,) = told
    return Told.model_validate(json.loads(json.dumps(one)))  # as Airflow keeps it


def fetched(prefix: Location, folder: Path) -> set[str]:
    """Everything below a prefix, on this disk."""
    reading = Workspace.open(Settings(), store=prefix.uri).storage
    names = set()
    for info in reading.list(prefix):
        name = info.location.key[len(prefix.key) :]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        reading.download(info.location, folder / name)
        names.add(name)
    return names


def test_a_run_is_copied_by_the_store_and_its_digests_hold(
    workspace: Workspace, dag: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = delivered(workspace, dag, sheet="full")
    assert (told.rows, told.chosen, told.delivered, told.left_out, told.problem) == (9, 9, 7, 0, "")
    names = fetched(parse(f"{workspace.store.parent.uri}handed-on/night/"), tmp_path)
    assert names >= PAINTED | {"contents.jsonl", "SHA256SUMS", "delivery.json", "contact-sheet/0001.html"}
    assert checked(tmp_path) == names - {"SHA256SUMS"}
    said = capsys.readouterr().out
    assert "7 of 9 rows have their image in" in said
    assert "there already: 0; copied by the store itself: 7" in said
    assert delivered(workspace, dag, sheet="full").delivered == 7
    assert "there already: 7; copied by the store itself: 0" in capsys.readouterr().out


def test_an_image_that_is_gone_is_told_and_fails_the_task_once_all_else_is_there(
    workspace: Workspace, dag: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.storage.delete(workspace.layout(RUN).image("row-00003", ".png"))
    told: list[dict[str, Any]] = []
    to = f"{workspace.store.parent.uri}handed-on/less/"
    with pytest.raises(
        DamagedObjectError, match=r"^1 file could not be delivered: contents\.jsonl in .*less/ names it"
    ):
        deliver_run(params(dag, run=RUN, to=to, sheet="none"), told.append)
    assert (told[0]["delivered"], told[0]["left_out"]) == (6, 1)
    assert "left out: row-00003: there is no object" in capsys.readouterr().out
    assert fetched(parse(to), tmp_path) >= PAINTED - {"row-00003.png"} | {"SHA256SUMS"}


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"to": "s3://inpaint-elsewhere/night/"}, "INPAINT_DELIVERY_PREFIXES"),
        ({"to": "{beside}handed-on-too/night/"}, "INPAINT_DELIVERY_PREFIXES"),
        ({"to": "{beside}handed-on/../runs/"}, "'..'"),
        ({"to": "{beside}handed-on/night.zip"}, "ZIP"),
        ({"run": "../night"}, "run name '../night'"),
        ({"run": "nowhere"}, "there is no run 'nowhere'"),
    ],
)
def test_what_is_not_allowed_or_not_there_is_refused_and_nothing_is_written(
    workspace: Workspace, dag: Any, conf: dict[str, Any], words: str
) -> None:
    beside = workspace.store.parent
    everything = Workspace.open(Settings(), store=beside.uri).storage
    before = {info.location: info.etag for info in everything.list(beside)}
    told: list[dict[str, Any]] = []
    wanted = {"run": RUN, "to": f"{beside.uri}handed-on/night/"} | conf
    wanted["to"] = wanted["to"].format(beside=beside.uri)
    with pytest.raises(InpaintOpsError) as caught:
        deliver_run(params(dag, **wanted), told.append)
    assert words in str(caught.value)
    assert caught.value.permanent
    assert words in told[0]["problem"]
    assert {info.location: info.etag for info in everything.list(beside)} == before


def test_a_place_of_the_store_itself_is_refused_though_the_setting_has_it(
    workspace: Workspace, dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INPAINT_DELIVERY_PREFIXES", workspace.store.uri)
    with pytest.raises(ConfigError, match="where the store keeps its runs"):
        delivered(workspace, dag, to=f"{workspace.store.uri}runs/other/")
    assert delivered(workspace, dag, to=f"{workspace.store.uri}delivered/", sheet="none").delivered == 7


def test_another_runs_delivery_is_left_unless_the_form_says_replace(workspace: Workspace, dag: Any) -> None:
    to = parse(f"{workspace.store.parent.uri}handed-on/night/")
    Workspace.open(Settings(), store=to.uri).storage.put(to.join("delivery.json"), b'{"run": "other"}')
    with pytest.raises(ConfigError, match="another run's delivery"):
        delivered(workspace, dag, sheet="none")
    assert delivered(workspace, dag, sheet="none", replace=True).delivered == 7
