"""Rows painted again in child runs, and which image is final in the end."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from inpaint_ops.cli import main
from inpaint_ops.errors import ConfigError, ObjectExistsError
from inpaint_ops.reviewing import Redo, RedoOptions, child_runs, finals, lineage, parent_of, prepare_redo
from inpaint_ops.reviewing.redoing import variant_id
from inpaint_ops.runs import keep_refusal, prepare, refusal
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
    assert (child.rows, [one.run for one in child_runs(bench.workspace, bench.layout)]) == (2, [child.run])
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


def test_of_two_who_ask_at_once_one_paints_a_row_and_it_is_painted_again_when_asked_anew(bench: Bench) -> None:
    say(bench.workspace, "run", "0", "redo")
    say(bench.workspace, "run", "1", "redo")
    start, made, refused = threading.Barrier(4), list[Redo](), list[str]()

    def ask() -> None:
        start.wait()
        try:
            made.append(prepare_redo(bench.workspace, "run", RedoOptions()))
        except ConfigError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(one.run, one.rows) for one in made] == [("run-redo-1", 2)]
    assert (
        refused
        == [
            "all 2 rows to be done again: triggered already as run-redo-1. "
            "To paint one once more, mark it as redo again, or paint it by itself"
        ]
        * 3
    )
    say(bench.workspace, "run", "1", "redo")
    again = prepare_redo(bench.workspace, "run", RedoOptions())
    assert (again.run, again.rows, again.asked_before) == ("run-redo-2", 1, {"run-redo-1": 1})
    alone = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"1"})
    seeds = {
        json.loads(line)["seed"]
        for one in (made[0], again, alone)
        for line in bench.workspace.storage.get(one.manifest).splitlines()
        if json.loads(line)["id"] == "1"
    }
    assert len(seeds) == 3, "what is painted once more is another image"


def test_rows_of_a_child_that_was_refused_or_never_triggered_are_asked_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(bench.workspace, "run", "0", "redo")
    first = prepare_redo(bench.workspace, "run", RedoOptions())
    with pytest.raises(ConfigError, match="triggered already as run-redo-1"):
        prepare_redo(bench.workspace, "run", RedoOptions())
    assert keep_refusal(bench.workspace, refusal(ConfigError("no"), run=first.run, manifest=first.manifest.uri))
    second = prepare_redo(bench.workspace, "run", RedoOptions())
    assert second.run == "run-redo-2"
    monkeypatch.setattr(lineage, "BEGINS_WITHIN", timedelta(0))  # an hour later
    assert prepare_redo(bench.workspace, "run", RedoOptions()).run == "run-redo-3"


def test_a_name_that_another_run_has_is_passed_over(bench: Bench) -> None:
    prepare(bench.workspace, str(bench.tmp_path / "in" / "m.jsonl"), "run-redo-1", bench.job)
    assert prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"}).run == "run-redo-2"


def test_a_run_knows_its_parent_by_its_manifest_alone(bench: Bench) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"})
    paint(bench, child)
    for info in list(bench.workspace.storage.list(bench.layout.root)):  # the parent is removed
        bench.workspace.storage.delete(info.location)
    plan = bench.workspace.plan(child.run)
    assert plan is not None
    assert parent_of(bench.workspace, plan) == "run"
    again = prepare_redo(bench.workspace, child.run, RedoOptions(), ids={"0"})
    paint(bench, again)
    say(bench.workspace, again.run, "0", "accept")
    assert final(bench, child.run) == {"0": (again.run, "0")}
    named = plan.model_copy(update={"manifest": bench.workspace.layout("run").redo("other").uri})
    assert parent_of(bench.workspace, named) is None, "a run that was planned from another run's manifest is no child"


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe", b"[" * 100_000, b'{"extra": {"redo_of": 7}}\n[]\n7\n"x"\nnull', b'{"id": 1, "extra": null}',
        b'{"id": "x", "extra": {"redo_of": {"run": "run", "id": ["0"]}}}', b"x" * (3 * 2**20),
    ],
)  # fmt: skip
def test_whatever_lies_among_the_childrens_manifests_stops_nobody(bench: Bench, body: bytes) -> None:
    say(bench.workspace, "run", "0", "redo")
    bench.workspace.storage.put(bench.layout.redo("strange"), body)
    bench.workspace.storage.put(bench.layout.redos.join("no-ending"), body)
    assert prepare_redo(bench.workspace, "run", RedoOptions()).rows == 1


def test_a_childs_images_number_what_was_asked_for(bench: Bench) -> None:
    """A row that had variants of its own is done again as single rows: each of them can be marked and picked."""
    written = {"id": "a", "image": "i", "mask": "m", "prompt": "p", "variants": 4}
    assert "variants" not in RedoOptions(variants=2).of(written)


def test_the_command_shows_the_lineage_in_both_directions(bench: Bench) -> None:
    child = prepare_redo(bench.workspace, "run", RedoOptions(), ids={"0"})
    paint(bench, child)

    def told(run: str, *options: str) -> str:
        found = CliRunner().invoke(main, ["review", run, "--out", bench.workspace.store.uri, *options])
        assert found.exit_code == 0, found.output
        return found.stdout

    assert told("run").splitlines()[1:] == ["  painted again in: run-redo-1"]
    assert told(child.run).splitlines()[1:] == ["  does rows of run again"]
    assert json.loads(told("run", "--json"))["children"] == [child.run]
    assert json.loads(told(child.run, "--json"))["parent"] == "run"
