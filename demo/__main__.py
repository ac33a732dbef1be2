"""`python -m demo run`: the main job, for real, nothing left running. `python -m demo up`: left for a person."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

from demo.airflow_stack import REPOSITORY, USER, AirflowStack
from demo.object_store import ObjectStoreServer
from demo.photos import make_demo
from inpaint_ops.config import load_settings
from inpaint_ops.device import visible_devices
from inpaint_ops.records import RunSummary
from inpaint_ops.runs import Workspace, summary_lines

HOME = REPOSITORY / ".demo"
BUCKET = "inpaint"
GPU_SLOTS = max(1, len(visible_devices()))
"""One slot per GPU; one on a machine without a GPU."""

DAGS = ("inpaint_manifest", "inpaint_inbox", "model_cache")
UP_PORT = int(os.environ.get("PORT", "8080"))
"""Where `up` has Airflow."""
PAGES = "/inpaint"
"""Where the pages are, below Airflow's address."""


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def environment_of(store: ObjectStoreServer) -> dict[str, str]:
    """What every component of the demo's Airflow runs with."""
    return store.env | {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "INPAINT_STORE": f"s3://{BUCKET}/",
        "INPAINT_MODEL": "demo",
        "INPAINT_DELIVERY_PREFIXES": f"s3://{BUCKET}/delivered/",
        "INPAINT_SHARD_ROWS": "5",
        "INPAINT_FAILURE_THRESHOLD": "0.25",
        "INPAINT_SCRATCH": str(HOME / "scratch"),
        "HF_HOME": str(HOME / "model_cache"),
    }


def _workspace() -> Workspace:
    return Workspace.open(load_settings())


def _upload_demo(workspace: Workspace) -> str:
    """Photos first, the manifest last: the inbox never shows a manifest whose images are still on their way."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    inbox = workspace.places.inbox
    manifest = make_demo(
        lambda key, data: workspace.storage.put(inbox.join(f"demo-{stamp}/{key}"), data), quality="good"
    )
    lines = manifest.replace(b'"photos/', f'"demo-{stamp}/photos/'.encode()).replace(
        b'"masks/', f'"demo-{stamp}/masks/'.encode()
    )
    location = inbox.join(f"demo-{stamp}.jsonl")
    workspace.storage.put(location, lines, content_type="application/jsonl")
    return location.uri


def run() -> int:
    """The demo. Returns the exit code."""
    started = time.monotonic()
    HOME.mkdir(exist_ok=True)
    with ObjectStoreServer(HOME / "store", BUCKET) as store:
        environment = environment_of(store)
        os.environ.update(environment)
        _say(f"object storage (SeaweedFS) at {store.endpoint}")
        workspace = _workspace()
        manifest = _upload_demo(workspace)
        _say(f"put {manifest}: 10 rows, one of them wrong and one without its image")
        with AirflowStack(HOME / "airflow", environment, gpu_slots=GPU_SLOTS) as airflow:
            _say(f"Airflow at {airflow.url}")
            airflow.wait_for_dags(*DAGS)
            for dag in DAGS:
                airflow.unpause(dag)
            inbox_run = airflow.trigger("inpaint_inbox")
            _say(f"triggered inpaint_inbox ({inbox_run})")
            run_id = _wait_for_claim(airflow, manifest)
            _say(f"the inbox claimed it: inpaint_manifest run {run_id}")
            state = _follow(airflow, workspace, run_id)
            name = run_id.removeprefix("inbox__")
            code = _summarise(workspace, name, state)
    _say(f"everything is stopped; {time.monotonic() - started:.0f} s")
    _say(f"to see this run in a browser: `make up`, then http://127.0.0.1:{UP_PORT}{PAGES}/runs/{name}/")
    return code


def _wait_for_claim(airflow: AirflowStack, manifest: str, timeout: float = 120) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        runs = airflow.api("GET", "/dags/inpaint_manifest/dagRuns", order_by="-run_after", limit=20)["dag_runs"]
        for run_ in runs:
            if run_["conf"].get("manifest") == manifest:
                return str(run_["dag_run_id"])
        time.sleep(0.5)
    raise TimeoutError(f"{manifest} was not claimed within {timeout:.0f} s:\n{airflow.log_tail('scheduler')}")


def _follow(airflow: AirflowStack, workspace: Workspace, run_id: str) -> str:
    """Show progress from the records as they land."""
    records = workspace.layout(run_id.removeprefix("inbox__")).records
    shown = ""
    while True:
        state = airflow.run_state("inpaint_manifest", run_id)
        ended = sum(1 for _ in workspace.storage.list(records))
        tasks = ", ".join(
            f"{task['task_id']}{'' if task['map_index'] < 0 else '[' + str(task['map_index']) + ']'} {task['state']}"
            for task in airflow.task_instances("inpaint_manifest", run_id)
            if task["state"]
        )
        line = f"{state}: {ended}/10 rows ended; {tasks}"
        if line != shown:
            _say(line)
            shown = line
        if state in ("success", "failed"):
            return state
        time.sleep(1)


def _summarise(workspace: Workspace, name: str, state: str) -> int:
    layout = workspace.layout(name)
    results = HOME / "results" / name
    results.mkdir(parents=True, exist_ok=True)
    for info in workspace.storage.list(layout.root):
        relative = info.location.key.removeprefix(layout.root.key)
        if not relative.startswith(("records/", "shards/", "thumbnails/", "workers/")):
            path = results / relative
            path.parent.mkdir(exist_ok=True)
            workspace.storage.download(info.location, path)
    if not (results / "run.json").exists():
        _say(f"the run ended as {state} without a summary; look into {HOME / 'airflow' / 'logs'}")
        return 1
    summary = RunSummary.model_validate_json((results / "run.json").read_text())
    counts = summary.counts
    print()
    for line in summary_lines(workspace, summary):
        print(f"  {line}")
    print(f"  report  {results / 'report.html'}")
    print(f"  images  {results / 'images'}")
    print(f"  run     {results / 'run.json'}")
    print(f"  rerun   {results / 'failed.jsonl'}")
    print()
    good = state == "success" and (counts.done, counts.failed, counts.rejected) == (8, 1, 1)
    return 0 if good else 1


def up() -> int:
    """Storage and Airflow for a person, until Ctrl-C."""
    HOME.mkdir(exist_ok=True)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with ObjectStoreServer(HOME / "store", BUCKET) as store:
        environment = environment_of(store)
        os.environ.update(environment)
        _upload_demo(_workspace())
        with AirflowStack(HOME / "airflow", environment, port=UP_PORT, gpu_slots=GPU_SLOTS) as airflow:
            airflow.wait_for_dags(*DAGS)
            for dag in DAGS:
                airflow.unpause(dag)
            print(f"\n  Airflow   {airflow.url}   user {USER}, password {airflow.password}")
            print(f"  pages     {airflow.url}{PAGES}/")
            print(f"  storage   {store.endpoint}   bucket {BUCKET}, credentials in {HOME / 'store.env'}")
            print(f"  inbox     s3://{BUCKET}/inbox/ holds the demo's manifest; trigger inpaint_inbox, or wait")
            print("  Ctrl-C ends everything\n", flush=True)
            credentials = HOME / "store.env"
            with open(os.open(credentials, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.writelines(f"{key}={value}\n" for key, value in store.env.items())
            done.wait()
            credentials.unlink(missing_ok=True)
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", choices=["run", "up"])
    command: str = parser.parse_args().command
    if command == "up":
        return up()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run()


if __name__ == "__main__":
    sys.exit(main())
