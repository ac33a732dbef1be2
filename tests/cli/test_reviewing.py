"""`inpaint-ops review`: marks from a shell, and exports that the program itself reads."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from inpaint_ops.cli import main
from inpaint_ops.layout import RunLayout
from inpaint_ops.planning import parameters
from inpaint_ops.reviewing import Mark, Reviews
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.storage import Storage
from tests.support.bench import Bench

IDS = ("0", "1", "2", "3")
FAILED = "4"


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A run of five rows, of which the last failed: planned by the program, painted by a worker that has no model."""
    bench = Bench(tmp_path_factory.mktemp("review"), ["a", "b", "c", "d", "fail"])
    bench.shard_run().run()
    assert sorted(bench.statuses()) == ["done"] * 4 + ["failed"]
    return bench


@pytest.fixture
def bench(painted: Bench) -> Iterator[Bench]:
    yield painted
    for info in list(painted.workspace.storage.list(painted.layout.reviews)):
        painted.workspace.storage.delete(info.location)


def review(bench: Bench, *options: object) -> Result:
    command = ["review", "run", "--out", bench.workspace.store.uri, *map(str, options)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def reading(bench: Bench, folder: Path) -> Workspace:
    """The bench's store, for manifests in `folder`."""
    return Workspace.open(
        bench.settings, store=bench.workspace.store.uri, also_readable=[str(bench.tmp_path / "in"), str(folder)]
    )


def said(bench: Bench) -> dict[str, dict[str, tuple[Any, ...]]]:
    reviews = Reviews(bench.workspace.storage, bench.layout)
    reviews.refresh()
    return {
        name: {row: (one.verdict, one.rating, one.reason, one.note) for row, one in opinions.items()}
        for name, opinions in reviews.opinions.items()
    }


class TestMarking:
    def test_rows_are_marked_and_counted(self, bench: Bench) -> None:
        done = review(bench, "--accept", "0,1", "--redo", "2", "--reason", "six fingers", "--reviewer", "ann")
        assert done.exit_code == 0
        assert done.stdout == (
            "run: 3 of 4 reviewed (2 accepted, 0 rejected, 1 to be done again); 1 row has no image\n"
        )  # fmt: skip
        assert said(bench) == {"ann": {
            "0": ("accept", None, "six fingers", ""), "1": ("accept", None, "six fingers", ""),
            "2": ("redo", None, "six fingers", ""),
        }}  # fmt: skip
        assert (
            review(bench, "--clear", "0", "--clear", "1", "--reject", "2", "--rating", 2, "--reviewer", "ann").exit_code
            == 0
        )
        assert said(bench)["ann"].keys() == {"0", "1", "2"}  # a rating is said of each of them
        found = json.loads(review(bench, "--json").stdout)
        assert found == {
            "rows": 4, "reviewed": 1, "marks": {"accept": 0, "reject": 1, "redo": 0}, "disputed": 0, "outdated": 0,
            "run": "run", "marked": 0, "left_out": 0, "exported": None, "parent": None, "children": [],
        }  # fmt: skip

    def test_the_reviewer_is_the_user_of_the_machine(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "ben")
        assert review(bench, "--accept", "0").exit_code == 0
        assert set(said(bench)) == {"ben"}

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--accept", "7"], "run 'run' has no row with the id '7'"),
            (["--accept", FAILED], "'4' has no image to review: it failed"),
            (["--accept", "0", "--reject", "0"], "--reject names '0', which --accept names too: leave one out"),
            (["--accept", "0,,1"], "--accept has an empty part: give ids, with one comma between"),
            (["--note", "x"], "--reason, --note and --rating belong to rows"),
            (["--accept", "0", "--note", "a\nb"], "--note holds line breaks or control characters"),
            (["--accept", "0", "--note", "x" * 1001], "--note has 1,001 characters, and the limit is 1,000: shorten"),
            (["--accept", "0", "--reviewer", "a\x1b[31m"], "a reviewer's name has 1 to 100 characters"),
            (["-o", "x.jsonl"], "-o names a file to export to: give --export too"),
            (["--import", "nowhere.jsonl"], "there is no object"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_marked_is_one_line_and_marks_nothing(
        self, bench: Bench, options: list[str], line: str
    ) -> None:
        done = review(bench, *options)
        assert done.exit_code == 2
        assert done.stderr.startswith("inpaint-ops: ")
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert said(bench) == {}

    def test_a_run_that_is_not_there_is_one_line(self, bench: Bench) -> None:
        done = CliRunner().invoke(main, ["review", "nowhere", "--out", bench.workspace.store.uri])
        assert (done.exit_code, done.stderr) == (
            2, f"inpaint-ops: there is no run 'nowhere' in {bench.workspace.store.uri}: give the name of a run, or its "
            "store by --out\n",
        )  # fmt: skip

    def test_a_disagreement_is_counted_and_both_are_exported(self, bench: Bench) -> None:
        review(bench, "--accept", "0", "--reviewer", "ann")
        done = review(bench, "--reject", "0", "--reviewer", "ben")
        assert "1 of 4 reviewed (0 accepted, 1 rejected, 0 to be done again); 1 disputed" in done.stdout
        (line,) = review(bench, "--export", "jsonl").stdout.splitlines()
        found = json.loads(line)
        assert (found["id"], found["mark"], found["reviewer"], found["disputed"]) == ("0", "reject", "ben", True)
        assert [(one["reviewer"], one["mark"]) for one in found["reviews"]] == [("ann", "accept"), ("ben", "reject")]


class TestManifests:
    def test_the_accepted_rows_are_a_manifest_that_the_planner_takes(self, bench: Bench, tmp_path: Path) -> None:
        review(bench, "--accept", "0,2", "--reject", "1", "--reviewer", "ann")
        out = tmp_path / "accepted.jsonl"
        done = review(bench, "--export", "accepted", "-o", out)
        assert done.exit_code == 0
        plan = prepare(reading(bench, tmp_path), str(out), "again", bench.job)
        assert (plan.rows, plan.rejected) == (2, 0)
        rows = bench.workspace.shard_rows(plan, "00000")
        before = {row.id: row for row in bench.workspace.shard_rows(bench.plan, "00000")}
        for row in rows:  # the same work, seed included
            assert row.model_dump(exclude={"row"}) == before[row.id].model_dump(exclude={"row"})

    def test_the_rows_to_do_again_are_a_manifest_with_other_seeds(self, bench: Bench, tmp_path: Path) -> None:
        review(bench, "--redo", "1,3", "--reason", 'a seam, "left"', "--reviewer", "ann")
        out = tmp_path / "redo.jsonl"
        assert review(bench, "--export", "redo", "-o", out).exit_code == 0
        plan = prepare(reading(bench, tmp_path), str(out), "redone", bench.job)
        assert (plan.rows, plan.rejected) == (2, 0)
        records = {record.id: record for record in bench.records().values()}
        for row in bench.workspace.shard_rows(plan, "00000"):
            before = records[row.id]
            assert row.parameters.seed != before.seed
            assert parameters(row, bench.job).seed == row.seed
            assert row.extra["redo_of"] == {
                "run": "run", "id": row.id, "attempt": before.attempt, "seed": before.seed, "reason": 'a seam, "left"',
            }  # fmt: skip
        again = tmp_path / "again.jsonl"
        review(bench, "--export", "redo", "-o", again)
        assert again.read_bytes() == out.read_bytes()

    def test_rows_are_done_again_in_other_ways(self, bench: Bench, tmp_path: Path) -> None:
        review(bench, "--redo", "1", "--reviewer", "ann")
        options = (
            "--variants",
            3,
            "--prompt",
            "another",
            "--steps",
            9,
            "--strength",
            0.4,
            "--mask-dilate",
            2,
            "--mask-blur",
            1,
        )
        assert review(bench, "--export", "redo", *options, "-o", tmp_path / "redo.jsonl").exit_code == 0
        plan = prepare(reading(bench, tmp_path), str(tmp_path / "redo.jsonl"), "variants", bench.job)
        rows = bench.workspace.shard_rows(plan, "00000")
        assert [row.id for row in rows] == ["1", "1-redo-2", "1-redo-3"]
        assert len({row.parameters.seed for row in rows}) == 3
        assert {
            (row.prompt, row.parameters.steps, row.parameters.strength, row.mask_dilate, row.mask_blur) for row in rows
        } == {("another", 9, 0.4, 2, 1.0)}

    def test_a_way_to_do_rows_again_without_the_export_is_one_line(self, bench: Bench) -> None:
        done = review(bench, "--export", "accepted", "--mask-blur", 1)
        assert (done.exit_code, done.stderr) == (
            2, "inpaint-ops: --mask-blur says how rows are done again: give --export redo too\n",
        )  # fmt: skip

    def test_the_command_plans_the_export_in_the_runs_own_folder(self, bench: Bench) -> None:
        """As it does failed.jsonl: the sources may be read, which lie beside the run's own manifest."""
        review(bench, "--redo", "1", "--reviewer", "ann")
        out = f"{bench.layout.root.uri}redo.jsonl"
        assert review(bench, "--export", "redo", "-o", out).exit_code == 0
        command = [sys.executable, "-m", "inpaint_ops.cli", "validate", out, "--out", str(bench.tmp_path / "elsewhere")]
        done = subprocess.run(
            command, env=os.environ | {"INPAINT_MODEL": "tiny-random"}, capture_output=True, text=True
        )
        assert "1 rows: 1 accepted, 0 rejected" in done.stdout, done.stderr

    def test_nothing_accepted_is_an_empty_file(self, bench: Bench, tmp_path: Path) -> None:
        assert review(bench, "--export", "accepted", "-o", tmp_path / "none.jsonl").exit_code == 0
        assert (tmp_path / "none.jsonl").read_bytes() == b""


class TestImports:
    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_an_export_is_imported_by_another_reviewer(self, bench: Bench, tmp_path: Path, kind: str) -> None:
        review(bench, "--accept", "0", "--rating", 5, "--note", "=1+1, 'fine'", "--reviewer", "ann")
        review(bench, "--redo", "1", "--reason", "hands", "--reviewer", "ann")
        review(bench, "--export", kind, "-o", tmp_path / f"marks.{kind}")
        done = review(bench, "--import", tmp_path / f"marks.{kind}", "--reviewer", "ben", "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["marked"] == 2
        assert said(bench)["ben"] == said(bench)["ann"]

    def test_no_spreadsheet_takes_a_note_for_a_formula(self, bench: Bench) -> None:
        review(bench, "--accept", "0", "--note", "=HYPERLINK(1)", "--reviewer", "+ann")
        (row,) = csv.DictReader(io.StringIO(review(bench, "--export", "csv").stdout))
        assert (row["note"], row["reviewer"]) == ("'=HYPERLINK(1)", "'+ann")

    def test_bad_lines_are_named_and_the_others_taken(self, bench: Bench, tmp_path: Path) -> None:
        lines = [
            '{"id": "0", "mark": "accept"}', "no JSON", '{"id": "1", "marc": "accept"}', '{"id": "1", "mark": "fine"}',
            '{"id": "nowhere", "mark": "accept"}', '{"id": "1", "rating": 9}', '["id"]', "",
            json.dumps({"id": "1", "mark": "reject", "note": "n" * 1001}), '{"mark": "accept"}',
            '{"id": "2", "mark": "redo", "reason": "hands"}',
        ]  # fmt: skip
        (tmp_path / "marks.jsonl").write_text("\n".join(lines))
        done = review(bench, "--import", tmp_path / "marks.jsonl", "--reviewer", "ann")
        assert done.exit_code == 3
        assert set(said(bench)["ann"]) == {"0", "2"}
        assert done.stderr.splitlines() == [
            "left out: line 2 is no JSON (Expecting value: line 1 column 1 (char 0))",
            "left out: line 3: unknown field 'marc'; did you mean 'mark'?",
            "left out: line 4: mark: write accept, reject, redo or clear",
            "left out: line 6: rating: write 1 to 5, or 0 for none",
            'left out: line 7 is no JSON object: write {"id": ..., "mark": ...}',
            "left out: line 9: note: has more than 1,000 characters: shorten it",
            "left out: line 10: id: write the id of a row",
            "left out: run 'run' has no row with the id 'nowhere'",
        ]

    @pytest.mark.parametrize(
        ("body", "line"),
        [(b"\xff\xfe", "is not UTF-8: save it as UTF-8"), (b"name,mark\na,accept\n", "has no column id"),
         (b'id,mark\n"0,accept\n', "is no CSV near line")],
    )  # fmt: skip
    def test_a_file_that_is_no_table_is_one_line(self, bench: Bench, tmp_path: Path, body: bytes, line: str) -> None:
        (tmp_path / "marks.csv").write_bytes(body)
        done = review(bench, "--import", tmp_path / "marks.csv")
        assert done.exit_code == 2
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_marks_that_could_not_be_read_are_said_and_the_rest_counts(bench: Bench) -> None:
    where = bench.layout.review("ann")
    bench.workspace.storage.put(where, b"{broken\n" + Mark(id="0", mark="accept").line())
    done = review(bench)
    assert "1 of 4 reviewed" in done.stdout
    assert done.stderr.startswith(f"note: line 1 of {where} is damaged")


def test_a_reviewers_name_from_the_store_is_printed_safely(bench: Bench) -> None:
    """Whoever may write to the store may have called an object anything."""
    bench.workspace.storage.put(bench.layout.reviews.join("%1B%5B31m.jsonl"), Mark(id="0", mark="accept").line())
    done = review(bench, "--export", "csv")
    assert "\x1b" not in done.output
    assert "it is no reviewer's" in done.stderr


def test_another_run_of_the_same_store_is_left_alone(bench: Bench) -> None:
    review(bench, "--accept", "0", "--reviewer", "ann")
    storage: Storage = bench.workspace.storage
    assert list(storage.list(RunLayout(bench.workspace.store, "run2").reviews)) == []
