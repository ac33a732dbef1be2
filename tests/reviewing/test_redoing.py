"""Rows painted again in child runs, and which image is final in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.errors import ConfigError, ObjectExistsError
from inpaint_ops.reviewing import RedoOptions, children, finals, prepare_redo
from inpaint_ops.reviewing.redoing import variant_id
from inpaint_ops.runs import prepare
from inpaint_ops.storage.stored import Leftovers
from tests.support.bench import Bench
from tests.support.child_runs import paint, say


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    found = Bench(tmp_path, ["a", "b", "fail"])
    found.shard_run().run()
    return found


def final(bench: Bench, run: str = "run") -> dict[str, tuple[str, str]]:
    return {record.id: (one.run, one.record.id) for record, one in finals(bench.workspace, run, Leftovers())}


def test_the_image_that_was_accepted_last_is_final_wherever_it_was_painted(bench: Bench) -> None:
    say(bench.workspace, "run", "0", "redo")
    say(bench.workspace, "run", "1", "accept")
    assert final(bench) == {"1": ("run", "1")}
    child = prepare_redo(bench.workspace, "run", RedoOptions(variants=2))
    assert (child.rows, children(bench.workspace, bench.layout)) == (2, [child.run])
    assert final(bench) == {"1": ("run", "1")}  # it was not triggered yet
    paint(bench, child)
    say(bench.workspace, child.run, "0", "reject")
    say(bench.workspace, child.run, "0-redo-2", "redo")
    grandchild = prepare_redo(bench.workspace, child.run, RedoOptions())
    paint(bench, grandchild)
    assert final(bench) == {"1": ("run", "1")}
    say(bench.workspace, grandchild.run, "0-redo-2", "accept")
    assert final(bench) == {"1": ("run", "1"), "0": (grandchild.run, "0-redo-2")}
    say(bench.workspace, child.run, "0", "accept")
    assert final(bench)["0"] == (child.run, "0")
    bench.workspace.storage.put(bench.workspace.layout(grandchild.run).redo("run"), b"")  # a circle, by somebody else
    bench.workspace.storage.put(bench.layout.redos.join("%2E%2E.jsonl"), b"")
    assert final(bench)["0"] == (child.run, "0")


def test_a_child_that_is_of_another_run_is_not_taken_for_one(bench: Bench) -> None:
    """Whoever may write to the store may name any run as a child; its rows say which run they redo."""
    say(bench.workspace, "run", "0", "redo")
    child = prepare_redo(bench.workspace, "run", RedoOptions())
    paint(bench, child)
    say(bench.workspace, child.run, "0", "accept")
    bench.workspace.storage.put(bench.workspace.layout("other").redo(child.run), b"")
    prepare(bench.workspace, str(bench.tmp_path / "in" / "m.jsonl"), "other", bench.job)
    assert final(bench, "other") == {}


def test_rows_keep_what_no_choice_changes() -> None:
    written = {"id": "a", "image": "i", "mask": "m", "prompt": "p", "prompt_2": "q", "quality": "best", "blend": "hard"}
    assert RedoOptions().of(written) == written
    without_quality = {name: value for name, value in written.items() if name != "quality"}
    assert RedoOptions(steps=9).of(written) == without_quality | {"steps": 9}
    assert RedoOptions(prompt="x").of(written) == {k: v for k, v in written.items() if k != "prompt_2"} | {
        "prompt": "x"
    }
    assert RedoOptions(mask_blur=2).of(written) == written | {"mask_blur": 2.0, "blend": "feather"}
    assert RedoOptions(mask_blur=0).of(written) == written | {"mask_blur": 0.0}


def test_an_id_that_is_too_long_for_variants_is_one_line() -> None:
    assert variant_id("x" * 120, 1) == "x" * 120
    with pytest.raises(ConfigError, match="too long to have variants"):
        variant_id("x" * 120, 2)


def test_a_childs_name_is_taken_once(bench: Bench) -> None:
    prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"}, child="mine")
    with pytest.raises(ObjectExistsError):
        prepare_redo(bench.workspace, "run", RedoOptions(), ids={"1"}, child="mine")
    with pytest.raises(ConfigError):
        prepare_redo(bench.workspace, "run", RedoOptions(), ids={"1"}, child="../mine")
