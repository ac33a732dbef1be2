"""What the pages are told of child runs: asked for, refused, gone, failed, of a child, final; and what triggers one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from inpaint_ops.browse import redone
from inpaint_ops.errors import ConfigError
from inpaint_ops.planning import job_options
from inpaint_ops.records import LoraChoice
from inpaint_ops.reviewing import RedoOptions, finals, prepare_redo
from inpaint_ops.runs import Workspace, finish, keep_refusal, prepare, refusal
from inpaint_ops.storage.stored import Leftovers
from inpaint_ops_airflow.ui.redoing import child_conf
from tests.support.bench import Bench
from tests.support.child_runs import paint, say
from tests.support.pages import app, signed_in

__all__ = ["app"]

pytestmark = pytest.mark.usefixtures("no_gallery")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A finished run with rows 0 and 1 done and row 2 failed."""
    found = Bench(tmp_path, ["a", "b", "fail"])
    found.shard_run().run()
    finish(found.workspace, "run")
    return found


@pytest.fixture
def workspace(bench: Bench) -> Workspace:
    return bench.workspace


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with signed_in(app) as found:
        yield found


def rows(client: TestClient, row: int = 1, run: str = "run") -> list[dict[str, Any]]:
    reply = client.get(f"/api/runs/{run}/rows/{row}/redone")
    assert reply.status_code == 200, reply.text
    return list(reply.json()["rows"])


def test_a_child_that_has_not_begun_was_refused_or_is_gone(
    client: TestClient, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"})
    assert [(one["run_state"], one["status"], one["row"]) for one in rows(client)] == [("asked", "", None)]
    assert client.get("/api/runs/run/children").json()[0]["state"] == "asked"
    monkeypatch.setattr(redone, "BEGINS_WITHIN", timedelta(0))  # an hour later
    (one,) = rows(client)
    assert (one["run_state"], one["problem"]) == ("gone", "it was never triggered, or it was removed")
    keep_refusal(bench.workspace, refusal(ConfigError("no such model"), run=child.run, manifest=child.manifest.uri))
    (one,) = rows(client)
    assert (one["run_state"], one["problem"]) == ("refused", "no such model")
    (state,) = client.get("/api/runs/run/children").json()
    assert (state["state"], state["problem"]) == ("refused", "no such model")


def test_a_row_that_failed_again_says_why_and_a_run_that_failed_is_counted(client: TestClient, bench: Bench) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"2"})
    paint(bench, child)
    finish(bench.workspace, child.run)
    (one,) = rows(client, 3)
    assert (one["status"], one["is_final"], one["attempt"] != "") == ("failed", False, True)
    assert one["problem"]
    (state,) = client.get("/api/runs/run/children").json()
    assert (state["state"], state["verdict"], state["rows"], state["done"], state["failed"]) == (
        "finished", "INVALID", 1, 0, 1,
    )  # fmt: skip


def test_the_final_image_is_the_same_as_a_delivery_has_whoever_is_asked(client: TestClient, bench: Bench) -> None:
    """Of the row itself, a child and a child's child, in each order of acceptance."""
    child = prepare_redo(bench.workspace, "run", RedoOptions(variants=2), ids={"0"})
    paint(bench, child)
    below = prepare_redo(bench.workspace, child.run, RedoOptions(), ids={"0-redo-2"})
    paint(bench, below)
    for info in (child, below):
        finish(bench.workspace, info.run)
    seen = rows(client)
    assert [(one["run"], one["id"], one["depth"], one["parent_id"]) for one in seen] == [
        (child.run, "0", 1, "0"), (child.run, "0-redo-2", 1, "0"), (below.run, "0-redo-2", 2, "0-redo-2"),
    ]  # fmt: skip
    assert not any(one["is_final"] for one in seen)
    for run, row in ((below.run, "0-redo-2"), (child.run, "0"), ("run", "0"), (child.run, "0-redo-2")):
        say(bench.workspace, run, row, "accept")
        client.app.state.views._runs.clear()  # type: ignore[attr-defined]  # pages look at marks every two seconds
        shown = [(one["run"], one["id"]) for one in rows(client) if one["is_final"]] or [("run", "0")]
        delivered = [(one.run, one.record.id) for record, one in finals(bench.workspace, "run", Leftovers())]
        assert shown == delivered == [(run, row)]


def test_a_circle_and_what_others_wrote_there_stop_nobody(client: TestClient, bench: Bench) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"})
    paint(bench, child)
    body = bench.workspace.storage.get(child.manifest).replace(b'"run":"run"', f'"run":"{child.run}"'.encode())
    bench.workspace.storage.put(bench.workspace.layout(child.run).redo("run"), body)
    bench.workspace.storage.put(bench.layout.redo("strange"), b"\xff[[[")
    assert [one["run"] for one in rows(client)] == [child.run]
    assert client.get("/api/runs/run/children").status_code == 200


def test_a_child_knows_its_parent_and_shows_it_where_that_is_gone(client: TestClient, bench: Bench) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"}, by="ann")
    paint(bench, child)
    assert client.get(f"/api/runs/{child.run}/reviews").json()["parent"] == "run"
    assert client.get("/api/runs/run/reviews").json()["parent"] is None
    for info in list(bench.workspace.storage.list(bench.layout.root)):
        bench.workspace.storage.delete(info.location)
    assert client.get(f"/api/runs/{child.run}/reviews").json()["parent"] == "run"
    for _ in range(50):  # the records of a run that goes on are read as they are found
        reply = client.get(f"/api/runs/{child.run}/rows/1")
        if reply.status_code == 200:
            break
    of = reply.json()["record"]["extra"]["redo_of"]
    assert (of["run"], of["id"], of["by"]) == ("run", "0", "ann")


def test_who_asks_again_for_the_same_marks_is_told_which_run_does_them(client: TestClient, bench: Bench) -> None:
    say(bench.workspace, "run", "0", "redo")
    say(bench.workspace, "run", "1", "redo")
    first = client.post("/api/runs/run/redo", json={}).json()
    assert (first["run"], first["rows"], first["asked_before"]) == ("run-redo-1", 2, {})
    again = client.post("/api/runs/run/redo", json={"variants": 3})
    assert again.status_code == 422
    assert again.json()["detail"].startswith("all 2 rows to be done again: triggered already as run-redo-1.")
    say(bench.workspace, "run", "1", "redo")
    third = client.post("/api/runs/run/redo", json={}).json()
    assert (third["run"], third["rows"], third["asked_before"]) == ("run-redo-2", 1, {"run-redo-1": 1})


def test_a_child_is_painted_as_its_parent_was_and_is_named_by_ids(bench: Bench) -> None:
    """What the DAG makes of the conf is the parent's job, but for what belongs to one run: names, variants, samples."""
    job = bench.job.model_copy(
        update={
            "scheduler": "ddim", "blend": "feather", "guidance_scale": 3.0, "strength": 0.7, "fill": "noise",
            "loras": (
                LoraChoice(name="brand", place="/models/brand.safetensors", weight=0.8),
                LoraChoice(name="look", place="s3://models/x.safetensors", weight=-1e-05),
                LoraChoice(name="my own", place="/models/my own.safetensors"),
            ),
            "names": "{folder}/{stem}.{ext}", "variants": 3, "pick": "best", "sample": 2,
        }
    )  # fmt: skip

    class View:
        plan = bench.plan.model_copy(update={"job": job})

    conf = child_conf(View(), "m.jsonl", names=None)  # type: ignore[arg-type]
    chosen = {name: value for name, value in conf.items() if name != "manifest"}
    made = job_options(bench.settings, **chosen)
    own = {"names": "{id}.{ext}", "variants": 1, "pick": "first", "sample": None, "device": made.device}
    assert made == job.model_copy(update=own)
    plain = View()
    plain.plan = bench.plan
    assert "names" not in child_conf(plain, "m.jsonl", names=None)  # type: ignore[arg-type]
    assert child_conf(plain, "m.jsonl", names="{stem}.{ext}")["names"] == "{id}.{ext}"  # type: ignore[arg-type]


def test_a_template_that_tells_no_rows_of_one_source_apart_refuses_no_child(bench: Bench) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(variants=3), ids={"0"})
    refused = bench.job.model_copy(update={"names": "{stem}.{ext}"})
    with pytest.raises(ConfigError, match="both be called"):
        prepare(bench.workspace, child.manifest.uri, child.run, refused)
    by_id = bench.job.model_copy(update={"names": "{id}.{ext}"})
    assert prepare(bench.workspace, child.manifest.uri, child.run, by_id).rows == 3
