"""A key for each role, with exactly the rights of its policy in `deploy/iam/`, on a real S3 server that enforces it.

The server (SeaweedFS 4.48) evaluates the files as they are: actions, resources and the condition on a prefix.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from demo.object_store import ObjectStoreServer
from inpaint_ops.browse import RunQuery, RunViews
from inpaint_ops.config import Settings
from inpaint_ops.delivering import Delivery, deliver, permitted_place
from inpaint_ops.errors import AccessDeniedError, ConfigError, InpaintOpsError
from inpaint_ops.housekeeping import in_the_store, retention, sweep
from inpaint_ops.inbox import claim_all
from inpaint_ops.layout import gallery_name
from inpaint_ops.metrics import Measurement, measured_shard
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import RunSummary, now
from inpaint_ops.reviewing import Mark, RedoOptions, Reviews, prepare_redo, read_views, save_view
from inpaint_ops.runs import Workspace, finish, keep_refusal, make_plan, paint, prepare, refusal
from inpaint_ops.standing import look, note_triggered
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.submitting import Finding, parse_request, read_preset, save_preset, write_manifest
from inpaint_ops.submitting import look_at as look_at_job
from inpaint_ops.submitting.preflight import PARTS
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.iam_policies import POLICIES, ROLES, Call, actions, call_of, grants, listed, policy, without
from tests.support.warm import Host

STORE = "s3://inpaint/"
JOB = JobOptions(model="tiny-random", steps=2)
CHOICES = {"failure_threshold": 0.5, "variants": 2, "side_products": ("mask",)}


LESS = {f"{role} less {action}": without(role, action) for role in ROLES for action in actions(role)}


def picture(colour: bool = True) -> bytes:
    pixels = np.zeros((48, 48), np.uint8)
    pixels[8:30, 8:30] = 255
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (48, 48, 3)).astype(np.uint8))
    buffer = io.BytesIO()
    (image if colour else Image.fromarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Cast:
    """The server, and a way in for each role: through a proxy of its own, which sees each call."""

    server: ObjectStoreServer
    proxies: dict[str, FaultProxy]
    warm_host: Host
    """What workers are forked from: their start plays no part here."""

    def client(self, role: str) -> Any:
        session = boto3.session.Session(*self.server.role_keys[role], region_name="us-east-1")
        endpoint = self.proxies[role].url if role in self.proxies else self.server.endpoint
        return make_s3_client(session, endpoint_url=endpoint, attempts=3)

    def workspace(self, role: str) -> Workspace:
        settings = Settings(warm_host=self.warm_host.socket)
        return Workspace.open(settings, store=STORE, s3_client=partial(self.client, role))

    def command(self, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line with the role's key in its environment."""
        access, secret = self.server.role_keys[role]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "INPAINT_"))}
        environment |= self.server.env | {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        if role in self.proxies:
            environment["AWS_ENDPOINT_URL"] = self.proxies[role].url
        return subprocess.run(
            [sys.executable, "-m", "inpaint_ops.cli", *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def calls(self, role: str) -> set[Call]:
        return {call_of(method, path) for method, path in self.proxies[role].requests}


@contextmanager
def casting(folder: Path, warm_host: Host) -> Iterator[Cast]:
    """A server of its own for each of those who look at everything that lies in it."""
    policies = {role: (POLICIES / f"{role}.json").read_text() for role in ROLES}
    policies |= {name: json.dumps(less) for name, less in LESS.items()}
    with ExitStack() as stack:
        server = stack.enter_context(ObjectStoreServer(folder / "data", policies=policies))
        yield Cast(server, {role: stack.enter_context(FaultProxy(server.endpoint)) for role in ROLES}, warm_host)


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory, shared_warm_host: Host) -> Iterator[Cast]:
    with casting(tmp_path_factory.mktemp("iam"), shared_warm_host) as those:
        yield those


@dataclass(frozen=True)
class Night:
    """What came of it: the good run, the runs that the pages listed, what housekeeping removed, and what it left."""

    cast: Cast
    summary: RunSummary
    listed: set[str]
    removed: dict[str, int]
    left: list[str]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, shared_warm_host: Host) -> Iterator[Night]:
    with casting(tmp_path_factory.mktemp("night"), shared_warm_host) as cast:
        yield whole_job(cast)


def whole_job(cast: Cast) -> Night:
    """The whole job, each step with the key of its role; replies are lost on the way, so that keys are read back."""
    submitter = cast.client("submit")
    for name, body in (("photos/a", picture()), ("photos/b", picture()), ("masks/a", picture(False))):
        submitter.put_object(Bucket="inpaint", Key=f"inbox/{name}.png", Body=body)
    submitter.put_object(Bucket="inpaint", Key="inbox/masks/b.png", Body=picture(False))
    job = f"{STORE}inbox/job.jsonl"
    written = cast.command(
        "submit", "manifest", f"{STORE}inbox/photos", f"{STORE}inbox/masks", "--prompt", "a cup", "-o", job
    )
    assert written.returncode == 0, written.stderr
    checked = cast.command("submit", "validate", job, "--out", STORE, "--check-objects")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rows = submitter.get_object(Bucket="inpaint", Key="inbox/job.jsonl")["Body"].read() + b'{"image": "../x"}\n'
    submitter.put_object(Bucket="inpaint", Key="inbox/job.jsonl", Body=rows)

    tasks = cast.workspace("tasks")
    for place in ("claims/", "plan.json", "records/rejected"):
        cast.proxies["tasks"].on(Fault.LOST_REPLY, method="PUT", path=place)
    (claim,) = claim_all(tasks, "this-airflow")
    assert claim_all(tasks, "this-airflow") == [claim]
    plan = prepare(tasks, claim.manifest, claim.run, JOB.model_copy(update=CHOICES))

    for place in ("images/", "variants/", "records/0"):
        cast.proxies["paint"].on(Fault.LOST_REPLY, method="PUT", path=place)
    painter = cast.workspace("paint")
    measured: list[Measurement] = []
    for shard in plan.shards:
        with measured_shard(painter, claim.run, shard.name, measured.append):
            paint(painter, claim.run, shard.name)
    assert paint(painter, claim.run, plan.shards[0].name).skipped, "by the compacted records"
    assert measured
    summary = finish(tasks, claim.run)
    make_plan(tasks, claim.manifest, "next", JOB)  # with what the first run taught

    stopped = prepare(tasks, claim.manifest, "stopped", JOB.model_copy(update={"model": "nobody/nothing"}))
    with pytest.raises(InpaintOpsError, match="nobody/nothing"):
        paint(painter, "stopped", stopped.shards[0].name)
    assert "nobody/nothing" in "".join(finish(tasks, "stopped").reasons)

    stand(cast, "tasks")
    assert keep_refusal(tasks, refusal(ConfigError("steps: 0"), run="refused", manifest=job))

    look_at(cast, "pages", summary.run)
    redo = prepare_redo(cast.workspace("pages"), summary.run, RedoOptions(variants=2), ids={"a", "b"})
    assert make_plan(tasks, redo.manifest.uri, redo.run, JOB)[0].rows == 4
    assert make_plan(tasks, submit_from_the_page(cast, "pages"), "submitted", JOB)[0].rows == 2
    first, again = (hand_on(cast, "deliver", summary.run) for _ in range(2))
    assert (first.delivered, first.read, first.beside, first.left_out) == (2, 0, 2, ())
    assert (again.delivered, again.there) == (2, 2)
    page = RunViews(cast.workspace("pages"), keep=False).catalogue.page(RunQuery())
    # what housekeeping is for: a claim of the dead, an upload that nobody ended, and both runs, much later
    submitter.put_object(Bucket="inpaint", Key="inbox/dead.jsonl", Body=b"{}")
    claim_all(tasks, "a-dead-airflow")
    owner = cast.server.client()
    owner.delete_object(Bucket="inpaint", Key="inbox/dead.jsonl")
    owner.create_multipart_upload(Bucket="inpaint", Key="inbox/half.png")
    owner.put_object(Bucket="inpaint", Key=f"linked/{claim.run}/{gallery_name(now())}/SHA256SUMS", Body=b"x")
    removed = clean_up(cast, "housekeeping")
    left = [item["Key"] for item in owner.list_objects_v2(Bucket="inpaint")["Contents"]]
    return Night(cast, summary, {entry.run for entry in page.entries}, removed, left)


def stand(cast: Cast, role: str) -> None:
    """Three nights of a standing job over the inbox: its run failed, it starts the rows again, nothing is new."""
    entry = (
        f"{{schedule: '@daily', images: {STORE}inbox/photos/, masks: {STORE}inbox/masks/, options: {{prompt: a cup}}}}"
    )
    cast.server.client().put_object(Bucket="inpaint", Key="jobs/nightly.yaml", Body=entry.encode())
    tasks = cast.workspace(role)
    (start,) = look(tasks, role, now() + timedelta(days=1), lambda run: False).starts
    note_triggered(tasks, start.mark)
    prepare(tasks, start.conf["manifest"], start.run, JOB.model_copy(update={"model": "nobody/nothing"}))
    finish(tasks, start.run)
    (again,) = look(tasks, role, now() + timedelta(days=2), lambda run: False).starts
    note_triggered(tasks, again.mark)
    assert not look(tasks, role, now() + timedelta(days=3), lambda run: run == again.run).starts


def look_at(cast: Cast, role: str, run: str) -> None:
    """What the pages in Airflow show of a run, and a mark that they take."""
    workspace = cast.workspace(role)
    for row in ("a", "b"):
        Reviews(workspace.storage, workspace.layout(run)).append("ann", [Mark(id=row, mark="accept")])
    assert save_view(workspace, "ann", "failed rows", "status=failed") == read_views(workspace, "ann")
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    from inpaint_ops_airflow.ui.access import may_deliver, may_read_runs
    from inpaint_ops_airflow.ui.app import create_app

    app = create_app(RunViews(workspace, keep=False))
    app.dependency_overrides[may_read_runs.dependency] = lambda: None
    app.dependency_overrides[may_deliver.dependency] = lambda: True
    with TestClient(app) as client, pytest.MonkeyPatch.context() as patched:
        patched.setattr("inpaint_ops_airflow.ui.pictures.WAIT_SECONDS", 600.0)  # for a machine that is busy
        api = f"/api/runs/{run}"
        paths = (
            "/", f"/runs/{run}/", f"/runs/{run}/report.html", "/runs/stopped/", f"{api}/rows",
            f"{api}/rows/1/pictures/source", f"{api}/rows/1/files/result", f"{api}/files/failed.jsonl",
        )  # fmt: skip
        for path in paths:
            reply = client.get(path)
            if reply.status_code == 502:
                raise AccessDeniedError(reply.json()["detail"])
            assert reply.status_code == 200, (path, reply.text[:500])


def submit_from_the_page(cast: Cast, role: str) -> str:
    """A job of two prefixes, looked at and asked for twice, with a preset that is saved twice; its manifest's URI."""
    workspace = cast.workspace(role)
    options = {"model": JOB.model, "prompt": "a cup"}
    etag = save_preset(workspace, "cups", options, by="ann", etag=None)
    save_preset(workspace, "cups", read_preset(workspace, "cups")[0].options, by="ann", etag=etag)
    folders = {"images": f"{STORE}inbox/photos/", "masks": f"{STORE}inbox/masks/"}
    found: list[Finding] = []
    request = parse_request(folders | {"options": options})
    look_at_job(workspace, request, "submitted", found.append)
    assert [one.state for one in found] == ["good"] * len(PARTS), found
    first, again = (write_manifest(workspace, request, "submitted") for _ in range(2))
    assert first == again
    return first[0]


def hand_on(cast: Cast, role: str, run: str) -> Delivery:
    """A delivery as the task of `inpaint_deliver` makes it."""
    settings = Settings(delivery_prefixes=(f"{STORE}delivered/",))
    place = permitted_place(settings, f"{STORE}delivered/{run}/")
    workspace = Workspace.open(settings, store=STORE, also_writable=[place], s3_client=partial(cast.client, role))
    return deliver(workspace, run, place, also=("mask",))


def clean_up(cast: Cast, role: str) -> dict[str, int]:
    found = in_the_store(cast.workspace(role), retention(), now() + timedelta(days=100))
    return sweep(found, dry_run=False)


def test_the_whole_job_works_with_a_key_for_each_role(night: Night) -> None:
    counts = night.summary.counts
    assert (night.summary.verdict, counts.done, counts.rejected, counts.missing) == ("VALID", 2, 1, 0)
    listed = {run for run in night.listed if not run.startswith("nightly-")}
    assert listed == {night.summary.run, "stopped", "refused"}
    assert night.removed.items() >= {"run": 4, "claim": 1, "upload": 1, "failed": 0}.items()
    assert not [key for key in night.left if key.startswith("runs/")]


@pytest.mark.parametrize("role", ROLES)
def test_every_call_is_covered_and_every_right_is_used(night: Night, role: str) -> None:
    """Least privilege, both ways: of the calls that the proxies saw, and of each pair of action and resource."""
    calls = night.cast.calls(role)
    statements = policy(role)["Statement"]
    assert not [call for call in calls if not any(grants(statement, call) for statement in statements)]
    for statement in statements:
        for action in listed(statement["Action"]):
            for resource in listed(statement["Resource"]):
                alone = statement | {"Action": action, "Resource": resource}
                assert any(grants(alone, call) for call in calls), f"{role}: nothing needs {action} on {resource}"


REFUSED = {
    "submit": {"read": ["runs/r/report.html"], "write": ["claims/c.json", "runs/r/plan.json"], "list": ["runs/"],
               "delete": ["inbox/job.jsonl"]},
    "tasks": {"write": ["runs/r/images/a.png", "runs/r/records/00000/0000001.json", "inbox/job.jsonl"],
              "delete": ["claims/c.json", "runs/r/plan.json"]},
    "paint": {"write": ["runs/r/plan.json", "runs/r/run.json", "claims/c.json", "inbox/job.jsonl",
                        "runs/r/records/rejected/0000001.json"],
              "delete": ["runs/r/images/a.png"], "read": ["claims/c.json", "history/h/r.json"]},
    "pages": {"write": ["runs/r/run.json", "runs/r/records/00000/0000001.json", "runs/r/images/a.png"],
              "delete": ["runs/r/run.json", "runs/r/reviews/ann.jsonl"],
              "read": ["claims/c.json"]},
    "deliver": {"write": ["runs/r/run.json", "runs/r/images/a.png", "inbox/job.jsonl", "runs/r/reviews/ann.jsonl"],
                "delete": ["delivered/r/a.png", "runs/r/images/a.png"],
                "read": ["claims/c.json", "history/h/r.json", "jobs/nightly.yaml"]},
    "housekeeping": {"write": ["runs/r/plan.json"], "read": ["runs/r/images/a.png"], "delete": ["inbox/job.jsonl"]},
}  # fmt: skip
"""What each role must not do, and on which keys."""


@pytest.mark.parametrize(
    ("role", "verb", "key"),
    [(role, verb, key) for role, verbs in REFUSED.items() for verb, keys in verbs.items() for key in keys],
)
def test_what_a_role_need_not_do_is_refused(cast: Cast, role: str, verb: str, key: str) -> None:
    cast.server.client().put_object(Bucket="inpaint", Key=key if verb != "list" else "runs/r/x", Body=b"there")
    storage = cast.workspace(role).storage
    attempts: dict[str, Callable[[], object]] = {
        "read": lambda: storage.get(f"{STORE}{key}"),
        "write": lambda: storage.put(f"{STORE}{key}", b"forged"),
        "delete": lambda: storage.delete(f"{STORE}{key}"),
        "list": lambda: list(storage.list(f"{STORE}{key}")),
    }
    rights = {"read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject", "list": "s3:ListBucket"}
    with pytest.raises(AccessDeniedError, match=f"allow these credentials {rights[verb]} "):
        attempts[verb]()


@pytest.mark.parametrize("role", ROLES)
def test_another_bucket_is_closed_to_every_role(cast: Cast, role: str) -> None:
    owner = cast.server.client()
    if "other" not in {bucket["Name"] for bucket in owner.list_buckets()["Buckets"]}:
        owner.create_bucket(Bucket="other")
    owner.put_object(Bucket="other", Key="inbox/a.png", Body=b"x")
    storage = Workspace.open(
        Settings(), store=STORE, also_readable=["s3://other/"], s3_client=partial(cast.client, role)
    ).storage
    with pytest.raises(AccessDeniedError):
        storage.get("s3://other/inbox/a.png")
    with pytest.raises(AccessDeniedError):
        list(storage.list("s3://other/inbox/"))


def work(cast: Cast, key: str, run: str) -> None:
    """The step of the role that the key belongs to; raises what the user would be told."""
    role = key.partition(" ")[0]
    job = f"{STORE}inbox/less.jsonl"
    if role == "submit":
        said = cast.command(
            key, "manifest", f"{STORE}inbox/photos", f"{STORE}inbox/masks", "--prompt", "a cup", "-o", job
        )
        if said.returncode == 0:
            said = cast.command(key, "validate", job, "--out", STORE, "--check-objects")
        if said.returncode != 0:
            (line,) = said.stderr.splitlines() or said.stdout.splitlines()[:1]
            raise AccessDeniedError(line)
    elif role == "tasks":
        claim_all(cast.workspace(key), key)
        prepare(cast.workspace(key), job, run, JOB)
    elif role == "paint":
        paint(cast.workspace(key), run, "00000")
    elif role == "pages":
        look_at(cast, key, run)
    elif role == "deliver":
        finish(cast.workspace("tasks"), run)
        hand_on(cast, key, run)
    elif counts := clean_up(cast, key):
        assert counts["failed"] == 0


@pytest.mark.parametrize("less", LESS)
def test_less_than_that_fails_in_one_line_that_names_the_right(
    cast: Cast, less: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each role without each of its rights in turn."""
    role, missing = less.split(" less ")
    owner = cast.server.client()
    for name, body in (("photos/a", picture()), ("masks/a", picture(False))):
        owner.put_object(Bucket="inpaint", Key=f"inbox/{name}.png", Body=body)
    row = b'{"image": "photos/a.png", "mask": "masks/a.png", "prompt": "a cup"}\n'
    owner.put_object(Bucket="inpaint", Key="inbox/less.jsonl", Body=row)
    run = re.sub(r"\W+", "-", less)
    if role != "tasks":
        prepare(cast.workspace("tasks"), f"{STORE}inbox/less.jsonl", run, JOB)
    if role == "housekeeping":
        owner.create_multipart_upload(Bucket="inpaint", Key="inbox/half.png")
    try:
        work(cast, less, run)
    except AccessDeniedError as error:
        said = str(error)
    except AssertionError:
        assert role == "housekeeping", "it goes on with what it may remove, and says what it may not"
        said = next(message for message in caplog.messages if " stays: " in message)
    else:
        pytest.fail(f"{role} works without {missing}: it is not needed")
    assert "\n" not in said
    assert re.search(rf"\b403\b.*{missing}\b", said), said
