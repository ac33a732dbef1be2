"""A run whose images are named by a template: planned, painted to a folder and to S3, reported, and done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from inpaint_ops.cli.main import main
from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, RunConflictError
from inpaint_ops.locations import Location
from inpaint_ops.planning import JobOptions, job_options
from inpaint_ops.records import Record
from inpaint_ops.runs import finish, prepare, prepare_retry
from inpaint_ops.supervisor import ShardRun
from tests.support.bench import Bench

pytestmark = pytest.mark.usefixtures("no_gallery")
KEPT = "{folder}/{stem}.{ext}"


@pytest.fixture
def make(tmp_path: Path, prefix: Location, request: pytest.FixtureRequest) -> Callable[..., Bench]:
    """A bench that writes to a folder, or to S3."""

    def bench(prompts: list[str], **options: Any) -> Bench:
        if prefix.bucket is not None:
            client = request.getfixturevalue("s3_client")
            options |= {"s3_client": lambda: client}
        return Bench(tmp_path, prompts, store=prefix.uri, **options)

    return bench


def images(bench: Bench) -> set[str]:
    found = bench.workspace.storage.list(bench.layout.images)
    return {info.location.key.removeprefix(bench.layout.images.key) for info in found}


def test_folders_are_kept_and_everything_finds_the_images_by_their_records(make: Callable[..., Bench]) -> None:
    bench = make(
        ["thumbnail: both", "ok", "fail"], sources=["a/sofa.png", "b/c/sofa.jpg", "b/x.png"], names=KEPT,
        check_image_bytes=2**20,
    )  # fmt: skip
    assert bench.shard_run().run().done == 2
    assert images(bench) == {"a/sofa.png", "b/c/sofa.png"}
    records = bench.records()
    output = records[1].output
    assert output is not None and output.name == "a/sofa.png"
    assert output.uri == bench.layout.images.join("a/sofa.png").uri
    assert [Path(one.uri).name for one in records[1].thumbnails] == ["sofa.png.256.webp", "sofa.png.1600.webp"]
    assert all("/thumbnails/a/sofa.png." in one.uri for one in records[1].thumbnails)
    again = bench.shard_run().run()
    assert (again.done, again.skipped) == (0, 3), "a second attempt finds what the first has done"
    summary = finish(bench.workspace, "run")
    assert (summary.counts.done, summary.counts.failed) == (2, 1)
    assert summary.images_checked == 2
    lines = bench.workspace.storage.get(bench.layout.results).splitlines()
    assert [Record.model_validate_json(line).output for line in lines][:2] == [output, records[2].output]


def test_without_a_template_names_and_records_are_as_they_were(make: Callable[..., Bench]) -> None:
    bench = make(["ok", "ok"], sources=["a/sofa.png", "b/sofa.png"])
    bench.shard_run().run()
    assert images(bench) == {"sofa.png", "sofa-2.png"}
    body = json.loads(bench.workspace.storage.get(bench.layout.record("00000", 1)))
    assert "name" not in body["output"]
    assert b'"names"' not in bench.workspace.storage.get(bench.layout.shard("00000"))


def test_a_retry_keeps_the_name_and_lies_beside_what_is_there(make: Callable[..., Bench]) -> None:
    bench = make(["ok", "fail"], sources=["a/one.png", "b/two.png"], names=KEPT)
    bench.shard_run().run()
    bench.workspace.storage.put(bench.layout.image("b/two", ".png"), b"what an attempt left behind")
    manifest = bench.tmp_path / "in" / "m.jsonl"
    corrected = bench.tmp_path / "in" / "other.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    corrected.write_text("".join(json.dumps(one | {"prompt": "ok", "id": one["image"][2:5]}) + "\n" for one in lines))
    again = prepare_retry(bench.workspace, str(corrected), "run", "one,two", bench.job)
    assert again.retry is not None, again.notes
    (shard,) = again.retry.shards
    rows = bench.workspace.shard_rows(bench.plan, shard.name)
    assert [row.names for row in rows] == [("a/one",), ("b/two",)]
    run = ShardRun(
        bench.workspace.storage, bench.layout, shard.name, rows, bench.job, bench.settings,
        worker_command=bench.command(),
    )  # fmt: skip
    assert run.run().done == 2
    assert images(bench) == {"a/one.png", "b/two.png", "b/two~1.png"}
    summary = finish(bench.workspace, "run")
    assert (summary.counts.done, summary.verdict) == (2, "VALID"), summary.reasons


def test_a_row_whose_name_is_none_is_rejected_and_the_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok", "ok"], sources=["a/ok.png", "nul/b.png", "c/d~2.png"], names=KEPT)
    assert bench.plan.rejected_rows == (2, 3)
    lines = bench.workspace.storage.get(bench.layout.rejected).splitlines()
    errors = [json.loads(line)["_error"] for line in lines]
    assert errors[0].startswith("row 2: image: 'nul/b.png' would be the name of its image ({folder}/{stem}.{ext})")
    assert "rename the source" in errors[0] and errors[1].startswith("row 3: image: ")
    bench.shard_run().run()
    again = prepare_retry(bench.workspace, str(tmp_path / "in" / "m.jsonl"), "run", "rejected", bench.job)
    assert again.retry is None and any("row 2: image: " in note for note in again.notes)


def test_one_name_for_two_rows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names: rows 1 and 3 would both be called 'sofa\.png'"):
        Bench(tmp_path, ["ok"] * 3, sources=["a/sofa.png", "a/x.png", "b/sofa.png"], names="{stem}.{ext}")
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True
    with pytest.raises(ConfigError, match=r"rows 1 and 2 would be called 'a/sofa\.png' and 'A/Sofa\.png'"):
        Bench(tmp_path, ["ok"] * 2, sources=["a/sofa.png", "A/Sofa.png"], names=KEPT)


def test_the_template_is_a_choice_that_two_runs_of_one_name_must_agree_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], names=KEPT)
    with pytest.raises(RunConflictError, match="names = "):
        prepare(bench.workspace, str(tmp_path / "in" / "m.jsonl"), "run", JobOptions(model="scripted"))
    assert job_options(Settings(names="{row}.{ext}")).names == "{row}.{ext}"
    assert job_options(Settings(names="")).names is None
    with pytest.raises(ConfigError, match=r"names: '\{nom\}\.\{ext\}' names \{nom\}: there are \{id\}"):
        job_options(Settings(), names="{nom}.{ext}")


def test_a_record_that_names_another_rows_image_does_not_count(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"], sources=["a/one.png", "b/two.png"], names=KEPT)
    bench.shard_run().run()
    records = bench.records()
    other, output = records[2].output, records[1].output
    assert other is not None and output is not None
    place = bench.layout.record("00000", 1)
    for lie in (other, output.model_copy(update={"name": None}), output.model_copy(update={"name": "../a/one.png"})):
        forged = records[1].model_copy(update={"output": lie})
        bench.workspace.storage.put(place, forged.model_dump_json().encode())
        summary = finish(bench.workspace, "run")
        assert (summary.counts.done, summary.verdict) == (1, "INVALID")


@pytest.mark.parametrize(
    ("template", "found"),
    [(KEPT, {"a/one.0.png", "a/one.1.png"}), ("{k}/{stem}.{ext}", {"0/one.png", "1/one.png"})],
)
def test_each_variant_of_a_row_has_a_name_of_its_own(
    make: Callable[..., Bench], template: str, found: set[str]
) -> None:
    bench = make(["ok"], sources=["a/one.png"], names=template, variants=2, check_image_bytes=2**20)
    assert bench.shard_run().run().done == 1
    assert images(bench) == found
    record = bench.records()[1]
    assert {output.name for _, output in record.outputs()} == found
    assert bench.shard_run().run().skipped == 1
    summary = finish(bench.workspace, "run")
    assert (summary.counts.done, summary.images_checked) == (1, 2)


def test_variants_of_two_rows_with_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows 1 and 2 would both be called 'one\.0\.png'"):
        Bench(tmp_path, ["ok"] * 2, sources=["one.png", "x/one.png"], names="{stem}.{ext}", variants=2)


def test_a_delivery_has_the_folders_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "ok"], sources=["a/one.png", "b/two.png"], names=KEPT)
    bench.shard_run().run()
    finish(bench.workspace, "run")
    command = ["deliver", "run", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "given"), "--no-contact-sheet"]
    delivered = CliRunner().invoke(main, command)
    assert delivered.exit_code == 0, delivered.output
    found = {str(path.relative_to(tmp_path / "given")) for path in (tmp_path / "given").rglob("*.png")}
    assert found == {"a/one.png", "b/two.png"}


def test_the_command_says_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    job = tmp_path / "job.jsonl"
    job.write_text(
        "".join(json.dumps({"image": f"{a}/x.png", "mask": f"{a}/x.png", "prompt": "x"}) + "\n" for a in "ab")
    )
    command = ["plan", str(job), "--out", str(tmp_path / "out"), "--model", "tiny-random", "--names"]
    refused = CliRunner().invoke(main, [*command, "{stem}.{ext}"])
    assert refused.exit_code == 2
    assert "names: rows 1 and 2 would both be called 'x.png'" in refused.output
    planned = CliRunner().invoke(main, [*command, KEPT])
    assert planned.exit_code == 0, planned.output
