"""Rows with several images, through whole runs: seeds, names, records, counts, the pick, and what a report says."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inpaint_ops.config import Settings
from inpaint_ops.delivering.contents import Row, image_to_deliver
from inpaint_ops.errors import ConfigError, RunConflictError
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Record, RunSummary, WorkerReport, fit_score
from inpaint_ops.runs import Workspace, finish, paint, prepare, prepare_retry
from inpaint_ops.runs.finishing import summary_lines
from inpaint_ops.variants import seed_of_variant
from tests.support.pictures import file_of, mask_file, smooth

pytestmark = pytest.mark.usefixtures("forked_workers")

JOB = JobOptions(model="tiny-random", device="cpu", steps=3)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "photo.png").write_bytes(file_of(smooth(64, 64)))
    (folder / "mask.png").write_bytes(mask_file(64, 64, (16, 16, 48, 48)))
    return Workspace.open(Settings(scratch=tmp_path / "s"), store=str(tmp_path / "out"), also_readable=[str(folder)])


def manifest(workspace: Workspace, *rows: dict[str, Any], name: str = "m.jsonl") -> str:
    path = Path(workspace.store.key).parent / "in" / name
    places = {"image": "photo.png", "mask": "mask.png", "prompt": "x", "seed": 1}
    path.write_text("".join(json.dumps(places | row) + "\n" for row in rows))
    return str(path)


def run(workspace: Workspace, rows: list[dict[str, Any]], job: JobOptions, name: str = "run") -> RunSummary:
    plan = prepare(workspace, manifest(workspace, *rows), name, job)
    for shard in plan.shards:
        paint(workspace, name, shard.name)
    return finish(workspace, name)


def results(workspace: Workspace, name: str = "run") -> dict[str, Record]:
    lines = workspace.storage.get(workspace.layout(name).results).splitlines()
    return {record.id: record for record in map(Record.model_validate_json, lines)}


def keys(workspace: Workspace, below: str, name: str = "run") -> set[str]:
    prefix = workspace.layout(name).root.join(below)
    return {info.location.key[len(prefix.key) :] for info in workspace.storage.list(prefix)}


def pixels(uri: str) -> np.ndarray:
    with Image.open(uri.removeprefix("file://")) as image:
        return np.asarray(image.convert("RGB"))


def test_a_row_with_variants_is_one_row_with_several_images(workspace: Workspace) -> None:
    rows = [{"id": "one"}, {"id": "three", "variants": 3}, {"id": "also one", "variants": 1}]
    summary = run(workspace, rows, JOB)
    assert (summary.verdict, summary.counts.rows, summary.counts.done, summary.images) == ("VALID", 3, 3, 5)
    assert not [line for line in summary.warnings if "left out" in line or "record" in line]
    assert keys(workspace, "images/") == {"one.png", "also one.png", "three.0.png", "three.1.png", "three.2.png"}
    assert keys(workspace, "variants/") == {f"00000/0000002.{k}.json" for k in range(3)}
    assert keys(workspace, "records/") == {f"00000/000000{n}.json" for n in (1, 2, 3)}
    assert len(keys(workspace, "thumbnails/")) == 5 * len(results(workspace)["one"].thumbnails)

    found = results(workspace)
    assert found["one"].variants == found["also one"].variants == () and found["one"].pick is None
    three = found["three"]
    assert [one.variant for one in three.variants] == [0, 1, 2]
    assert [one.seed for one in three.variants] == [seed_of_variant(1, k) for k in range(3)] and three.seed == 1
    assert three.pick is not None and (three.pick.variant, three.pick.by) == (0, "first")
    delivered = image_to_deliver(Row(three, three), workspace.layout("run"), workspace.layout("run"))
    assert delivered is not None and delivered.name == "three.0.png"
    assert three.output == three.variants[0].output and three.measures == three.variants[0].measures
    pictures = [pixels(one.output.uri) for one in three.variants if one.output]
    assert np.array_equal(pictures[0], pixels(found["one"].output.uri)), "variant 0 is what the row is without"
    before = pixels(str(Path(workspace.store.key).parent / "in" / "photo.png"))
    outside = np.ones((64, 64), bool)
    outside[16:48, 16:48] = False
    assert all(np.array_equal(one[outside], before[outside]) for one in pictures)
    assert all((a != b).any() for at, a in enumerate(pictures) for b in pictures[:at])
    for one in three.variants:
        assert one.score == fit_score(one.measures) and one.score is not None and one.batch and one.timings.denoise
    assert three.timings.upload == pytest.approx(sum(one.timings.upload or 0 for one in three.variants))
    for k in range(3):
        own = Record.model_validate_json(workspace.storage.get(workspace.layout("run").variant_record("00000", 2, k)))
        assert (own.variant, own.seed, own.output) == (k, three.variants[k].seed, three.variants[k].output)

    table = pq.read_table(BytesIO(workspace.storage.get(workspace.layout("run").timings)))
    assert table.num_rows == 3
    trace = json.loads(workspace.storage.get(workspace.layout("run").trace))
    assert len([one for one in trace["traceEvents"] if one["name"] == "upload"]) == 5
    assert summary.pace is not None and summary.pace.images == 5 and summary.pace.steps == 2


def test_a_second_run_of_the_same_adds_nothing(workspace: Workspace) -> None:
    rows = [{"id": "a"}, {"id": "b"}]
    job = JOB.model_copy(update={"variants": 2})
    run(workspace, rows, job)
    before = {info.location.key: info.etag for info in workspace.storage.list(workspace.layout("run").root)}
    paint(workspace, "run", "00000")
    after = {info.location.key: info.etag for info in workspace.storage.list(workspace.layout("run").root)}
    changed = {key for key in after if after[key] != before.get(key)}
    assert all("/progress/" in key or "/compacted/" in key for key in changed), changed
    with pytest.raises(RunConflictError, match="variants = 2"):
        prepare(workspace, manifest(workspace, *rows), "run", job.model_copy(update={"variants": 3}))


def test_batches_hold_variants_of_one_row(workspace: Workspace) -> None:
    summary = run(
        workspace, [{"id": "a", "variants": 4}], JOB.model_copy(update={"tuning_overrides": {"batch_size": 4}})
    )
    assert summary.counts.done == 1
    [record] = results(workspace).values()
    assert {one.batch.size for one in record.variants if one.batch} == {4}
    assert len({one.batch.id for one in record.variants if one.batch}) == 1


def test_one_variant_that_fails_is_no_failed_row_and_is_said(workspace: Workspace) -> None:
    """Of its four images one is unlike the source by less than the threshold, whichever that is."""
    run(workspace, [{"id": "a", "variants": 4}], JOB, "first")
    changes = sorted(one.change or 0 for one in results(workspace, "first")["a"].variants)
    threshold = (changes[0] + changes[1]) / 2
    assert changes[0] < threshold < changes[1]
    strict = Workspace.open(
        workspace.settings.model_copy(update={"unchanged_threshold": threshold}), store=workspace.store.uri,
        also_readable=[str(Path(workspace.store.key).parent / "in")],
    )  # fmt: skip
    summary = run(strict, [{"id": "a", "variants": 4}], JOB, "second")
    assert (summary.verdict, summary.counts.done, summary.counts.failed, summary.images) == ("VALID", 1, 0, 3)
    assert any("1 variant of 1 done row have no image" in line for line in summary.warnings)
    record = results(strict, "second")["a"]
    [failed] = [one for one in record.variants if one.status == "failed"]
    assert failed.error is not None and failed.error.type == "UnchangedError" and failed.output is None
    assert record.pick is not None and record.pick.variant != failed.variant and record.output is not None

    all_fail = Workspace.open(
        workspace.settings.model_copy(update={"unchanged_threshold": 254.0}), store=workspace.store.uri,
        also_readable=[str(Path(workspace.store.key).parent / "in")],
    )  # fmt: skip
    summary = run(all_fail, [{"id": "a", "variants": 2}], JOB, "third")
    assert (summary.counts.done, summary.counts.failed, summary.images) == (0, 1, 0)
    record = results(all_fail, "third")["a"]
    assert record.pick is None and record.error == record.variants[0].error
    assert json.loads(workspace.storage.get(workspace.layout("third").failed))["variants"] == 2


def test_pick_best_takes_the_variant_of_the_best_score(workspace: Workspace) -> None:
    run(
        workspace,
        [{"id": f"r{n}", "variants": 4, "seed": n} for n in (6, 7, 9)],
        JOB.model_copy(update={"pick": "best"}),
    )
    picked = []
    for record in results(workspace).values():
        scores = [one.score for one in record.variants]
        assert record.pick is not None and record.pick.by == "best" and all(scores)
        assert scores[record.pick.variant] == max(one for one in scores if one is not None)
        assert record.output == record.variants[record.pick.variant].output
        assert record.seed == record.variants[record.pick.variant].seed
        picked.append(record.pick.variant)
    assert set(picked) != {0}, "the score decides, not the order"


def test_retries_do_all_variants_again_beside_the_old_ones(workspace: Workspace) -> None:
    rows = [{"id": "a", "variants": 2}, {"id": "a.5"}]
    run(workspace, rows, JOB)
    corrected = manifest(workspace, {"id": "a", "variants": 2, "seed": 8}, name="corrected.jsonl")
    again = prepare_retry(workspace, corrected, "run", "a", JOB)
    assert again.retry is not None
    for shard in again.retry.shards:
        paint(workspace, "run", shard.name)
    summary = finish(workspace, "run")
    assert (summary.verdict, summary.counts.done, summary.retries[0].done) == ("VALID", 2, 1)
    record = results(workspace)["a"]
    assert [one.output.uri.rpartition("/")[2] for one in record.variants if one.output] == ["a.0~1.png", "a.1~1.png"]
    assert [one.seed for one in record.variants] == [8, seed_of_variant(8, 1)]
    assert record.earlier[0].output is not None and record.earlier[0].output.uri.endswith("/a.0.png")
    other = manifest(workspace, {"id": "a", "variants": 6}, name="more.jsonl")
    with pytest.raises(ConfigError, match=r"row 1: variants: 'a.5', one of its images, is the id of row 2"):
        prepare_retry(workspace, other, "run", "a", JOB)


def test_a_name_that_a_variant_would_take_from_another_row_is_refused_before_anything_is_painted(
    workspace: Workspace,
) -> None:
    rows = [{"id": "a"}, {"id": "A.1", "variants": 1}, {"id": "b"}, {"id": "b.3"}, {"id": "c.0", "variants": 2}]
    plan = prepare(workspace, manifest(workspace, *rows), "run", JOB.model_copy(update={"variants": 2}))
    assert plan.rejected_rows == (1,)
    [line] = workspace.storage.get(workspace.layout("run").rejected).splitlines()
    assert json.loads(line)["_error"] == (
        "row 1: variants: 'a.1', one of its images, is the id of row 2: give one of the two rows another id"
    )


def test_the_forecast_counts_variants(workspace: Workspace) -> None:
    run(workspace, [{"id": "a"}, {"id": "b"}], JOB, "first")
    one = prepare(workspace, manifest(workspace, {"id": "a"}, {"id": "b"}), "one", JOB).forecast
    four = prepare(workspace, manifest(workspace, {"id": "a", "variants": 4}, {"id": "b", "variants": 4}), "four", JOB)
    assert one is not None and four.forecast is not None
    assert one.gpu_seconds and four.forecast.gpu_seconds and one.cold_start is not None
    assert one.cold_start == four.forecast.cold_start, "the same texts"
    assert four.forecast.gpu_seconds - one.cold_start == pytest.approx(4 * (one.gpu_seconds - one.cold_start))
    assert sum(shard.rows for shard in four.shards) == 2


def test_a_run_says_what_its_variants_and_texts_cost(workspace: Workspace) -> None:
    long = "a wide room with a small lamp and " * 20
    summary = run(workspace, [{"id": "a", "variants": 3}, {"id": "b", "prompt": long}], JOB)
    found = {one.choice: one for one in summary.choices}
    assert set(found) == {"prompts", "variants"}
    assert (found["variants"].count, summary.pace is not None) == (2, True)
    assert summary.pace is not None and found["variants"].seconds == pytest.approx(
        2 * (summary.pace.steps * summary.pace.step_seconds + summary.pace.other_seconds)
    )
    assert found["prompts"].count == 6, "x, the empty text, and four chunks of the tiny model's own tokenizer"
    assert found["prompts"].seconds and found["prompts"].seconds > 0
    lines = summary_lines(workspace, summary)
    assert any("4 images of 2 rows" in line for line in lines)
    assert any("2 images beyond the first, of 1 row with variants" in line for line in lines)
    assert any("6 chunks of 77 tokens encoded, of 3 texts: " in line for line in lines)
    page = workspace.storage.get(workspace.layout("run").report).decode()
    assert "What the choices cost" in page and "images beyond the first" in page


def test_workers_report_images(workspace: Workspace) -> None:
    run(workspace, [{"id": "a", "variants": 3}], JOB)
    [name] = keys(workspace, "workers/")
    body = workspace.storage.get(workspace.layout("run").root.join(f"workers/{name}"))
    assert WorkerReport.model_validate_json(body).painted == 3


def test_a_row_counts_as_done_only_with_all_images_that_its_record_names(workspace: Workspace) -> None:
    run(workspace, [{"id": "a", "variants": 2}, {"id": "b"}], JOB)
    layout, storage = workspace.layout("run"), workspace.storage
    place = layout.record("00000", 1)
    body = storage.get(place)
    stolen = json.loads(body)
    stolen["variants"][1]["output"]["uri"] = layout.image("b", ".png").uri
    fewer = json.loads(body)
    fewer["variants"] = fewer["variants"][:1]
    for forged, why in (
        (stolen, "its image is not where the run's images lie"),
        (fewer, "it lists 1 variants, and the row has 2"),
    ):
        storage.put(place, json.dumps(forged).encode())
        summary = finish(workspace, "run")
        assert (summary.counts.done, summary.counts.missing) == (1, 1)
        assert any(why in line for line in summary.warnings), summary.warnings
    storage.put(place, body)
    assert finish(workspace, "run").verdict == "VALID"

    image = layout.image("a.1", ".png")
    kept = storage.get(image)
    storage.put(image, kept[:-1] + b"?")
    summary = finish(workspace, "run")
    assert any("row 1 does not count as done: its image is not the one of its record" in x for x in summary.warnings)
    storage.put(image, kept + b"more")
    assert any("its image has" in line for line in finish(workspace, "run").warnings)
    result = paint(workspace, "run", "00000")
    assert (result.done, result.skipped) == (1, 1), "an attempt paints what is not what its record says"
