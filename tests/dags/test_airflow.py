"""The main job through a real Airflow: its api-server, scheduler and dag-processor, a real S3 server, real workers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sqlite3
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from demo.airflow_stack import AirflowStack
from demo.object_store import ObjectStoreServer
from inpaint_ops.inbox import claim_of
from inpaint_ops.locations import parse
from inpaint_ops.records import RunSummary, WorkerReport
from inpaint_ops.runs import Workspace
from tests.support.airflow import DAG, INBOX, JOBS, RENDERED, STORE, Site, put_manifest, records
from tests.support.fault_proxy import Fault
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def airflow(site: Site) -> AirflowStack:
    return site.stack


@pytest.fixture(scope="module")
def workspace(site: Site) -> Workspace:
    return site.workspace


def workers(airflow: AirflowStack) -> list[int]:
    """Living worker processes of this Airflow's tasks: they run in its scratch folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            where = str((folder / "cwd").readlink())
        except OSError:  # it is gone, or not ours
            continue
        if "-m inpaint_ops.worker" in command and where.startswith(str(airflow.home.parent)):
            found.append(int(folder.name))
    return found


def task_of(airflow: AirflowStack, run_id: str) -> psutil.Process:
    """The process of a run's one painting task, as Airflow calls it: one of an earlier run may not have ended yet."""
    (instance,) = [ti for ti in airflow.task_instances(DAG, run_id) if ti["task_id"] == "inpaint"]
    for process in psutil.Process(airflow.processes["scheduler"].pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if f"airflow worker -- {instance['id']}" in " ".join(process.cmdline()):
                return process
    raise LookupError(f"the task of {run_id} has no process now")


@pytest.fixture(scope="module")
def night(airflow: AirflowStack, workspace: Workspace) -> str:
    """A manifest in the inbox, claimed and run; returns the run's name.

    Beside it lie two with hostile names, and one whose claim is damaged.
    """
    manifest = put_manifest(workspace, "night.jsonl", folder=INBOX)
    for name in ("{{ conn.inpaint_s3.password }}.jsonl", "%(x)s.jsonl"):
        put_manifest(workspace, name, folder=INBOX)
    hurt = claim_of(workspace.storage.stat(put_manifest(workspace, "hurt.jsonl", folder=INBOX)), "")
    workspace.storage.put(workspace.places.claim(hurt.mark), b"")
    assert airflow.wait_for_run("inpaint_inbox", airflow.trigger("inpaint_inbox")) == "success"
    assert airflow.wait_for_run("inpaint_inbox", airflow.trigger("inpaint_inbox")) == "success"
    runs = airflow.api("GET", f"/dags/{DAG}/dagRuns")["dag_runs"]
    ours = [run for run in runs if run["conf"].get("manifest") == manifest]
    assert len(ours) == 1, "two looks into the inbox, one run"
    assert airflow.wait_for_run(DAG, ours[0]["dag_run_id"]) == "success", airflow.task_logs(DAG, ours[0]["dag_run_id"])
    return str(ours[0]["conf"]["run"])


def test_what_lies_in_the_inbox_is_never_rendered_and_holds_up_nobody_else(
    night: str, airflow: AirflowStack, workspace: Workspace, object_store: ObjectStoreServer
) -> None:
    runs = airflow.api("GET", f"/dags/{DAG}/dagRuns")["dag_runs"]
    assert not [run for run in runs if RENDERED in json.dumps(run) or object_store.secret_key in json.dumps(run)]
    assert [run["conf"]["manifest"] for run in runs if run["dag_run_id"].startswith("inbox__")] == [
        f"{INBOX}night.jsonl"
    ]
    looks = airflow.api("GET", "/dags/inpaint_inbox/dagRuns?order_by=run_after")["dag_runs"]
    first, second = (airflow.task_instances("inpaint_inbox", look["dag_run_id"]) for look in looks)
    assert [(ti["state"], ti["rendered_map_index"]) for ti in first if ti["task_id"] == "trigger"] == [
        ("success", night)
    ]
    assert [(ti["state"], ti["map_index"]) for ti in second if ti["task_id"] == "trigger"] == [("skipped", -1)]
    said = airflow.task_logs("inpaint_inbox", looks[0]["dag_run_id"])
    assert said.count("is not taken: its name") == 2 and "hurt.jsonl" in said and RENDERED not in said
    names = [info.location.name for info in workspace.storage.list(workspace.places.claims)]
    assert sorted(name.rpartition(".")[2] for name in names) == ["json", "json", "triggered"]


def test_a_manifest_in_the_inbox_becomes_images_and_a_report(night: str, workspace: Workspace) -> None:
    layout = workspace.layout(night)
    summary = RunSummary.model_validate_json(workspace.storage.get(layout.summary))
    assert summary.verdict == "VALID"
    assert (summary.counts.rows, summary.counts.done, summary.counts.failed, summary.counts.rejected) == (10, 8, 1, 1)
    assert sorted(records(workspace, night)) == list(range(1, 11))
    for place in (layout.report, layout.results, layout.failed, layout.timings, layout.trace):
        assert workspace.storage.stat(place).size > 0


def test_the_fill_goes_on_from_its_surroundings_and_the_rest_is_the_source(night: str, workspace: Workspace) -> None:
    record = records(workspace, night)[2]  # a patch on a suit: it goes, the suit goes on
    assert record.output and record.mask and record.source
    painted = pixels(workspace, record.mask, "L") > 127
    ring = (pixels(workspace, record.mask, "L", blur=8) > 0) & ~painted
    source, image = (pixels(workspace, uri, "RGB") for uri in (record.source, record.output.uri))
    assert (image[~painted] == source[~painted]).all()
    around = source[ring].mean(0)
    assert np.abs(image[painted].mean(0) - around).max() < 30 < np.abs(source[painted].mean(0) - around).max()
    assert image[painted].std(0).mean() < source[painted].std(0).mean() / 2


def pixels(workspace: Workspace, uri: str, mode: str, blur: int = 0) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(workspace.storage.get(parse(uri)))) as opened:
        return np.asarray(opened.convert(mode).filter(ImageFilter.GaussianBlur(blur)), np.float32)


def test_each_task_instance_painted_in_a_process_of_its_own_and_none_is_left(
    night: str, airflow: AirflowStack, workspace: Workspace
) -> None:
    reports = [
        WorkerReport.model_validate_json(workspace.storage.get(info.location))
        for info in workspace.storage.list(workspace.layout(night).workers)
    ]
    assert sorted(report.shard for report in reports) == ["00000", "00001"]
    assert len({report.worker.pid for report in reports}) == 2
    assert {report.exit for report in reports} == {"clean"}
    assert not workers(airflow)


def test_the_task_log_shows_progress_and_no_secret(
    night: str, airflow: AirflowStack, object_store: ObjectStoreServer
) -> None:
    logs = airflow.task_logs(DAG, f"inbox__{night}")
    assert re.search(r"shard 00000: 5/5 rows.* images/s", logs)
    assert "Logging error" not in logs
    assert object_store.secret_key not in logs


def test_mapped_tasks_are_named_after_their_shards(night: str, airflow: AirflowStack) -> None:
    instances = [ti for ti in airflow.task_instances(DAG, f"inbox__{night}") if ti["task_id"] == "inpaint"]
    assert sorted(ti["rendered_map_index"] for ti in instances) == ["shard 00000", "shard 00001"]
    assert {(ti["pool"], ti["queue"]) for ti in instances} == {("gpu", "gpu")}


def test_clearing_a_finished_run_adds_nothing(night: str, airflow: AirflowStack, workspace: Workspace) -> None:
    before = records(workspace, night)
    run_id = f"inbox__{night}"
    airflow.api("POST", f"/dags/{DAG}/dagRuns/{run_id}/clear", {"dry_run": False, "only_failed": False})
    assert airflow.wait_for_run(DAG, run_id) == "success"
    assert records(workspace, night) == before


def test_a_run_that_is_not_good_is_not_green(airflow: AirflowStack, workspace: Workspace) -> None:
    manifest = put_manifest(workspace, "red.jsonl")
    conf = {"manifest": manifest, "run": "red", "steps": 1, "row_limit": 9, "failure_threshold": 0.05}
    run_id = airflow.trigger(DAG, conf)
    assert airflow.wait_for_run(DAG, run_id) == "failed"
    states = {ti["task_id"]: (ti["state"], ti["try_number"]) for ti in airflow.task_instances(DAG, run_id)}
    assert states["report"] == ("failed", 1), "a verdict is permanent: it is not retried"
    assert states["inpaint"][0] == "success"
    summary = RunSummary.model_validate_json(workspace.storage.get(workspace.layout("red").summary))
    assert summary.verdict == "INVALID"
    before = record_keys(workspace, "red")
    airflow.api("POST", f"/dags/{DAG}/dagRuns/{run_id}/clear", {"dry_run": False, "only_failed": True})
    assert airflow.wait_for_run(DAG, run_id) == "failed", "it can be cleared, though its deadline is not over"
    again = {ti["task_id"]: (ti["state"], ti["try_number"]) for ti in airflow.task_instances(DAG, run_id)}
    assert again["report"] == ("failed", 2)
    assert record_keys(workspace, "red") == before


def record_keys(workspace: Workspace, run: str) -> dict[str, str]:
    """The records of a run, those of its retries too: their keys, and what they hold by its ETag."""
    return {info.location.key: info.etag for info in workspace.storage.list(workspace.layout(run).records)}


def test_failed_rows_are_done_again_in_their_run_once_per_request(airflow: AirflowStack, workspace: Workspace) -> None:
    rows = [{"id": name, "image": f"photos/{name}.jpg", "mask": "masks/coffee.png", "prompt": "a cup"}
            for name in ("coffee", "late")]  # fmt: skip
    manifest = put_manifest(workspace, "late.jsonl", rows)
    conf = {"manifest": manifest, "run": "late"}
    assert airflow.wait_for_run(DAG, airflow.trigger(DAG, {**conf, "steps": 2})) == "failed"
    before = record_keys(workspace, "late")
    refusals = {
        airflow.trigger(DAG, wrong): says
        for wrong, says in (
            ({**conf, "retry": "nobody"}, "has no row with the id 'nobody'"),
            ({**conf, "retry": "late,late"}, "names 'late' twice"),
            ({"manifest": manifest, "retry": "failed"}, "name it in `run`"),
            ({**conf, "retry": "failed", "steps": 5}, "was started with steps = 2, not 5"),
        )
    }
    for run_id, says in refusals.items():
        assert airflow.wait_for_run(DAG, run_id) == "failed"
        assert says in airflow.task_logs(DAG, run_id), says
    assert record_keys(workspace, "late") == before
    photo = workspace.storage.get(f"{STORE}{JOBS}photos/coffee.jpg")
    workspace.storage.put(f"{STORE}{JOBS}photos/late.jpg", photo)
    run_id = airflow.trigger(DAG, {**conf, "retry": "failed"})
    assert airflow.wait_for_run(DAG, run_id) == "success"
    painted = [ti for ti in airflow.task_instances(DAG, run_id) if ti["task_id"] == "inpaint"]
    assert [ti["rendered_map_index"].startswith("shard 00000r0001_") for ti in painted] == [True]
    after = record_keys(workspace, "late")
    assert before.items() <= after.items() and len(after) == len(before) + 1
    summary = RunSummary.model_validate_json(workspace.storage.get(workspace.layout("late").summary))
    assert (summary.verdict, summary.counts.done, [one.done for one in summary.retries]) == ("VALID", 2, [1])
    airflow.api("POST", f"/dags/{DAG}/dagRuns/{run_id}/clear", {"dry_run": False, "only_failed": False})
    assert airflow.wait_for_run(DAG, run_id) == "success"
    assert record_keys(workspace, "late") == after, "what is cleared was asked once"


def test_a_run_name_that_is_taken_is_refused_in_red_and_nothing_of_the_run_changes(
    night: str, airflow: AirflowStack, workspace: Workspace
) -> None:
    before = list(workspace.storage.list(workspace.layout(night).root))
    rows = [{"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "prompt": "another cup"}]
    run_id = airflow.trigger(DAG, {"manifest": put_manifest(workspace, "other.jsonl", rows), "run": night})
    assert airflow.wait_for_run(DAG, run_id) == "failed", "though the run of that name is good"
    assert f"run '{night}' is of another manifest" in airflow.task_logs(DAG, run_id)
    assert list(workspace.storage.list(workspace.layout(night).root)) == before


def test_a_permanent_error_of_the_plan_fails_at_once_and_the_run_is_red(
    airflow: AirflowStack, workspace: Workspace
) -> None:
    run_id = airflow.trigger(DAG, {"manifest": f"{STORE}{JOBS}nowhere.jsonl", "run": "nowhere"})
    assert airflow.wait_for_run(DAG, run_id) == "failed"
    plan = next(ti for ti in airflow.task_instances(DAG, run_id) if ti["task_id"] == "plan")
    assert (plan["state"], plan["try_number"]) == ("failed", 1)
    assert f"there is no object {STORE}{JOBS}nowhere.jsonl" in airflow.task_logs(DAG, run_id)


def test_a_task_killed_half_way_is_retried_and_does_only_what_is_missing(
    site: Site, airflow: AirflowStack, workspace: Workspace
) -> None:
    rows = [
        {"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "prompt": "a cup", "id": f"cup-{index}", "steps": 2}
        for index in range(12)
    ]
    killed = threading.Event()

    def held() -> bool:
        """The third record and all after it wait until their task is dead, and end there."""
        late = not killed.is_set()
        killed.wait(PATIENCE)
        return not late

    site.proxy.on(Fault.DELAY, method="PUT", path="/runs/killed/records/0", nth=3, times=1000, seconds=0, before=held)
    try:
        manifest = put_manifest(workspace, "killed.jsonl", rows)
        run_id = airflow.trigger(DAG, {"manifest": manifest, "run": "killed", "shard_rows": 12, "batch_size": 1})
        wait_until(lambda: len(records(workspace, "killed")) >= 2)
        task = task_of(airflow, run_id)
        assert workers(airflow)
        task.kill()
        wait_until(lambda: not workers(airflow))
        first = records(workspace, "killed")
    finally:
        killed.set()
    assert len(first) == 2, "it was killed half-way"
    assert airflow.wait_for_run(DAG, run_id) == "success", airflow.task_logs(DAG, run_id)
    everything = records(workspace, "killed")
    assert sorted(everything) == list(range(1, 13))
    assert {row: everything[row] for row in first} == first, "what was done was not done again"
    assert {record.status for record in everything.values()} == {"done"}
    assert len({record.attempt for record in everything.values()}) == 2


def test_a_standing_job_starts_a_run_for_what_is_new_and_a_wrong_entry_is_red(
    airflow: AirflowStack, workspace: Workspace
) -> None:
    row = {"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "prompt": "a cup", "seed": 1, "id": "first"}
    manifest = put_manifest(workspace, "standing.jsonl", [row])
    entry = f"schedule: '0 3 29 2 *'\nmanifest: {json.dumps(manifest)}\noptions: {{quality: good}}\n"
    workspace.storage.put(workspace.places.jobs.join("nightly.yaml"), entry.encode())

    def look(says: str, **conf: object) -> tuple[str, str]:
        """How a look ends, and its log, once that says so: what a task has printed may follow its success."""
        run_id = airflow.trigger("inpaint_standing", dict(conf))
        state = airflow.wait_for_run("inpaint_standing", run_id)
        return state, wait_until(
            lambda: says in (log := airflow.task_logs("inpaint_standing", run_id)) and log, pause=0.5
        )

    def started() -> list[str]:
        runs = airflow.api("GET", f"/dags/{DAG}/dagRuns?order_by=run_after")["dag_runs"]
        return [run["dag_run_id"] for run in runs if run["dag_run_id"].startswith("standing__nightly-")]

    state, log = look("1 row is new or changed, 0 taken before", job="nightly")
    assert state == "success" and RENDERED not in log
    (run_id,) = started()
    assert airflow.wait_for_run(DAG, run_id) == "success", airflow.task_logs(DAG, run_id)
    assert [record.id for record in records(workspace, run_id.removeprefix("standing__")).values()] == ["first"]
    state, _ = look("nothing is new: 1 row was taken before", job="nightly")
    assert state == "success" and started() == [run_id]

    put_manifest(workspace, "standing.jsonl", [row, row | {"id": "second", "seed": 2}])
    workspace.storage.put(workspace.places.jobs.join("wrong.yaml"), b"shedule: '@daily'")
    state, log = look("there is no such field")
    assert state == "failed" and "wrong.yaml" in log, "an entry that nobody can use"
    workspace.storage.delete(workspace.places.jobs.join("wrong.yaml"))
    state, _ = look("1 row is new or changed, 1 taken before", job="nightly")
    assert state == "success"
    last = started()[-1]
    assert airflow.wait_for_run(DAG, last) == "success", airflow.task_logs(DAG, last)
    assert [record.id for record in records(workspace, last.removeprefix("standing__")).values()] == ["second"]


def test_the_model_cache_dag_puts_a_model_into_the_cache(airflow: AirflowStack) -> None:
    run_id = airflow.trigger("model_cache", {"model": "tiny-random"})
    assert airflow.wait_for_run("model_cache", run_id) == "success", airflow.task_logs("model_cache", run_id)
    missing = airflow.trigger("model_cache", {"model": "/nowhere/at/all"})
    assert airflow.wait_for_run("model_cache", missing) == "failed"


def test_a_component_waits_for_a_write_of_another_one(airflow: AirflowStack) -> None:
    """By SQLite's default, the API would answer 500 to whoever has waited for 5 seconds."""
    writer = sqlite3.connect(airflow.home / "airflow.db", isolation_level=None, check_same_thread=False, timeout=120)
    writer.execute("begin immediate")
    release = threading.Timer(6, lambda: writer.execute("commit"))
    release.start()
    try:
        airflow.api("POST", "/variables", {"key": "written", "value": "in the end"})
    finally:
        release.join()
        writer.close()
