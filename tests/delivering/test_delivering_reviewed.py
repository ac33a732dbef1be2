"""A delivery of what reviewers accepted: of the run itself, or of a child run that did a row again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpaint_ops.delivering import Delivery, deliver
from inpaint_ops.locations import parse
from inpaint_ops.reviewing import RedoOptions, prepare_redo
from inpaint_ops.runs import Workspace, finish
from tests.support.bench import Bench
from tests.support.child_runs import paint, say

pytestmark = pytest.mark.usefixtures("no_gallery")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A run with rows 0 and 1 done and row 2 failed."""
    found = Bench(tmp_path, ["a", "b", "fail"])
    found.shard_run().run()
    finish(found.workspace, "run")
    return found


def delivered(bench: Bench, **options: object) -> tuple[Delivery, Path]:
    to = bench.tmp_path / "delivered"
    workspace = Workspace.open(
        bench.settings, store=bench.workspace.store.uri, also_readable=[str(bench.tmp_path)],
        also_writable=[parse(str(to))],
    )  # fmt: skip
    return deliver(workspace, "run", parse(str(to)), contact_sheet=None, **options), to  # type: ignore[arg-type]


def lines(folder: Path) -> dict[str, dict[str, object]]:
    return {one["id"]: one for one in map(json.loads, (folder / "contents.jsonl").read_text().splitlines())}


def test_only_what_was_accepted_is_delivered_if_asked(bench: Bench) -> None:
    made, _ = delivered(bench, only="accepted")
    assert (made.chosen, made.delivered, made.is_whole) == (0, 0, True)
    say(bench.workspace, "run", "1", "accept")
    say(bench.workspace, "run", "0", "reject")
    made, out = delivered(bench, only="accepted")
    assert (made.chosen, made.delivered, made.is_whole) == (1, 1, True)
    assert {name: (one["file"], one.get("error")) for name, one in lines(out).items()} == {
        "0": (None, "not accepted"), "1": ("1.png", None), "2": (None, "ImageError"),
    }  # fmt: skip
    assert sorted(path.name for path in out.glob("*.png")) == ["1.png"]


def test_the_image_of_a_child_run_that_was_accepted_takes_the_rows_name(bench: Bench) -> None:
    say(bench.workspace, "run", "0", "redo")
    child = prepare_redo(bench.workspace, "run", RedoOptions(variants=2))
    paint(bench, child)
    made, out = delivered(bench)
    assert (made.delivered, made.redone) == (2, 0), "nothing of the child is accepted yet"
    say(bench.workspace, child.run, "0-redo-2", "accept")
    made, out = delivered(bench, replace=True)
    assert (made.delivered, made.redone) == (2, 1)
    child_image = bench.workspace.storage.get(bench.workspace.layout(child.run).image("0-redo-2", ".png"))
    assert (out / "0.png").read_bytes() == child_image
    assert child_image != bench.workspace.storage.get(bench.layout.image("0", ".png"))
    assert (lines(out)["0"]["run"], lines(out)["0"]["file"]) == (child.run, "0.png")
    assert "run" not in lines(out)["1"]
    say(bench.workspace, "run", "0", "accept")
    made, out = delivered(bench, replace=True)
    assert made.redone == 0, "the one that was accepted last is final"
