"""Of a row with variants, the one that a reviewer accepts is its final image: exported, imported, delivered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from inpaint_ops.cli.main import main
from inpaint_ops.delivering import deliver
from inpaint_ops.layout import variant_name
from inpaint_ops.locations import parse
from inpaint_ops.records import Record
from inpaint_ops.reviewing import Mark, Reviews, finals
from inpaint_ops.runs import Workspace, finish
from inpaint_ops.storage.stored import Leftovers
from tests.support.bench import Bench

pytestmark = pytest.mark.usefixtures("no_gallery")


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Rows `0` and `1`, of three variants each."""
    bench = Bench(tmp_path_factory.mktemp("picking"), ["a", "b"], variants=3)
    bench.shard_run().run()
    assert finish(bench.workspace, "run").counts.done == 2
    return bench


@pytest.fixture
def bench(painted: Bench) -> Bench:
    for info in list(painted.workspace.storage.list(painted.layout.reviews)):
        painted.workspace.storage.delete(info.location)
    return painted


def review(bench: Bench, *options: object) -> Result:
    command = ["review", "run", "--out", bench.workspace.store.uri, *map(str, options)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def final(bench: Bench) -> dict[str, Record]:
    return {record.id: one.record for record, one in finals(bench.workspace, "run", Leftovers())}


def image(bench: Bench, row: str, variant: int) -> bytes:
    return bench.workspace.storage.get(bench.layout.image(variant_name(row, variant), ".png"))


def delivered(bench: Bench, folder: Path, **options: Any) -> set[str]:
    workspace = Workspace.open(bench.settings, store=bench.workspace.store.uri, also_writable=[parse(str(folder))])
    deliver(workspace, "run", parse(str(folder)), contact_sheet=False, **options)
    return {path.name for path in folder.glob("*.png")}


def test_the_variant_that_a_reviewer_accepts_is_the_rows_image(bench: Bench, tmp_path: Path) -> None:
    assert delivered(bench, tmp_path / "before") == {"0.0.png", "1.0.png"}
    done = review(bench, "--accept", "0.2,1", "--reviewer", "ann")
    assert done.exit_code == 0, done.output
    found = final(bench)
    assert [(found[row].pick.variant, found[row].pick.by) for row in "01"] == [(2, "review"), (0, "first")]  # type: ignore[union-attr]
    assert found["0"].output is not None
    assert found["0"].output.uri.endswith("/0.2.png")
    assert delivered(bench, tmp_path / "after") == {"0.2.png", "1.0.png"}
    assert (tmp_path / "after" / "0.2.png").read_bytes() == image(bench, "0", 2)
    assert delivered(bench, tmp_path / "accepted", only="accepted") == {"0.2.png", "1.0.png"}
    review(bench, "--accept", "0", "--reviewer", "bob")
    assert final(bench)["0"].pick.variant == 0, "the latest verdict counts"  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_an_export_says_which_and_is_read_back(bench: Bench, tmp_path: Path, kind: str) -> None:
    review(bench, "--accept", "0.1", "--reject", "1", "--reviewer", "ann")
    lines = [json.loads(line) for line in review(bench, "--export", "final").stdout.splitlines()]
    assert [(line["id"], line["variant"], line["uri"].rpartition("/")[2]) for line in lines] == [("0", 1, "0.1.png")]
    assert review(bench, "--export", kind, "-o", tmp_path / f"reviews.{kind}").exit_code == 0
    exported = (tmp_path / f"reviews.{kind}").read_text()
    assert "/0.1.png" in exported, "the image that was accepted"
    assert "/0.0.png" not in exported
    review(bench, "--clear", "0,1", "--reviewer", "ann")
    assert final(bench) == {}
    assert review(bench, "--import", tmp_path / f"reviews.{kind}", "--reviewer", "bob").exit_code == 0
    assert final(bench)["0"].pick.variant == 1  # type: ignore[union-attr]


def test_what_is_no_variant_is_one_line_and_a_forged_mark_accepts_nothing(bench: Bench, tmp_path: Path) -> None:
    for wrong in ("0.3", "0.x", "2.0"):
        done = review(bench, "--accept", wrong)
        assert done.exit_code == 2
        assert f"has no row with the id {wrong!r}" in done.output
    assert review(bench, "--reject", "0.1").exit_code == 2
    (tmp_path / "m.csv").write_text("id,mark,variant\n0,reject,1\n0,accept,99\n")
    done = review(bench, "--import", tmp_path / "m.csv")
    assert done.exit_code == 3
    assert "a variant is named by mark accept alone" in done.output
    assert "write the number of one of the row's variants" in done.output
    attempt = bench.records()[1].attempt
    Reviews(bench.workspace.storage, bench.layout).append(
        "eve", [Mark(id="0", mark="accept", variant=9, attempt=attempt)]
    )
    left = Leftovers()
    assert list(finals(bench.workspace, "run", left)) == []
    assert left.lines() == ("run run, row 1: variant 9 is accepted and has no image: it was left out.",)
