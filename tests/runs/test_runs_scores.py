"""Whole runs whose images are scored by models of the user's: records, tables, report, and what is refused before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from inpaint_ops.browse import RunView
from inpaint_ops.browse.table import RowQuery
from inpaint_ops.cli import main
from inpaint_ops.config import Settings
from inpaint_ops.errors import ModelError, RunConflictError
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.runs import Workspace, finish, paint, prepare
from tests.support import clip_models, onnx_files
from tests.support.pictures import file_of, mask_file, smooth

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip`, whose score is 0.31, `other`, whose is 0.2, and `lpips.onnx`."""
    root = tmp_path_factory.mktemp("models")
    clip_models.write(root / "clip", cosine=0.31)
    clip_models.write(root / "other", cosine=0.2)
    (root / "lpips.onnx").write_bytes(onnx_files.lpips())
    return root


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> str:
    folder.mkdir()
    (folder / "photo.png").write_bytes(file_of(smooth(64, 64)))
    (folder / "mask.png").write_bytes(mask_file(64, 64, (16, 16, 48, 48)))
    same = {"image": "photo.png", "mask": "mask.png", "prompt": "a sofa", "steps": 2}
    (folder / "m.jsonl").write_text("".join(json.dumps(same | row) + "\n" for row in rows))
    return str(folder / "m.jsonl")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(
        Settings(scratch=tmp_path / "s"), store=str(tmp_path / "out"), also_readable=[str(tmp_path / "in")]
    )


def records_of(workspace: Workspace, run: str = "run") -> dict[str, Record]:
    lines = workspace.storage.get(workspace.layout(run).results).splitlines()
    return {record.id: record for record in map(Record.model_validate_json, lines)}


def test_a_run_by_the_command_scores_each_image_and_says_by_which_models(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"id": "one", "variants": 2}, {"id": "long", "prompt": "words, words " * 40},
        {"id": "bare", "prompt": "", "variants": 2},
    ]  # fmt: skip
    manifest = write_manifest(tmp_path / "in", rows)
    monkeypatch.setenv("INPAINT_SCRATCH", str(tmp_path / "s"))
    monkeypatch.setenv("INPAINT_LPIPS_MODEL", str(models / "lpips.onnx"))
    command = ["run", manifest, "--out", str(tmp_path / "out"), "--run", "run", "--model", "tiny-random"]
    command += ["--device", "cpu", "--pick", "clip"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2 and "pick clip: there is no model to score by" in refused.output
    result = CliRunner().invoke(main, [*command, "--clip-model", str(models / "clip")])
    assert result.exit_code == 0, result.output
    digest = hashlib.sha256((models / "clip/model.safetensors").read_bytes()).hexdigest()[:16]
    assert f"  clip: median 0.31, from 0.31 (p5) to 0.31 (p95), of 2 rows, by clip {digest}" in result.output
    assert "1 image misses a score" not in result.output and "2 images miss a score" in result.output

    workspace = Workspace.open(Settings(scratch=tmp_path / "s"), store=str(tmp_path / "out"))
    found = records_of(workspace)
    measures = found["one"].measures
    assert measures is not None and measures.clip == pytest.approx(0.31, abs=1e-6)
    assert measures.models["clip"] == f"clip {digest}" and measures.models["lpips"].startswith("lpips.onnx ")
    assert measures.lpips is not None and measures.lpips > 0.01 and not measures.score_problem
    assert any("the prompt's beginning: the model reads 77 tokens" in line for line in found["long"].conversions)
    bare = found["bare"].measures
    assert bare is not None and bare.clip is None and bare.lpips is not None
    assert bare.score_problem == "clip: its prompt is empty" and set(bare.models) == {"lpips"}
    assert [one.measures and one.measures.lpips is not None for one in found["bare"].variants] == [True, True]
    picks = [found[name].pick for name in ("one", "bare", "long")]
    assert [pick and pick.by for pick in picks] == ["clip", "best", None]

    summary = RunSummary.model_validate_json(workspace.storage.get(workspace.layout("run").summary))
    assert summary.measures["clip"].count == 2 and summary.measures["clip"].models == (f"clip {digest}",)
    ledger = {entry.name: entry for entry in summary.ledger}
    assert (
        ledger["clip_model"].effective == f"SHA-256 {digest}" and "run by transformers" in ledger["clip_model"].reason
    )
    assert ledger["lpips_model"].measured["seconds_per_image"] > 0
    assert summary.load is not None and summary.load.scores > 0
    report = workspace.storage.get(workspace.layout("run").report).decode()
    assert f"CLIP score, picture to prompt (clip {digest})" in report and "LPIPS, picture to source" in report
    table = pq.read_table(str(tmp_path / "out/runs/run/timings.parquet"))
    assert set(table["clip_model"].to_pylist()) == {f"clip {digest}", None}

    view = RunView.open(workspace, "run")
    assert view is not None
    lowest = view.page(RowQuery(measure="clip", order="lowest", least=0.3), 1, 48)
    assert lowest.total == 2
    labels = [spread.label for spread in view.records().table.spreads if spread.count]
    assert f"CLIP score, picture to prompt (clip {digest})" in labels


def test_without_models_there_are_no_scores(workspace: Workspace, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "in", [{"id": "one"}])
    plan = prepare(workspace, manifest, "run", JobOptions(model="tiny-random", device="cpu"))
    paint(workspace, "run", plan.shards[0].name)
    summary = finish(workspace, "run")
    line = workspace.storage.get(workspace.layout("run").results).decode()
    assert '"measures":{' in line and "clip" not in json.loads(line)["measures"] and "lpips" not in summary.measures
    assert not [entry for entry in summary.ledger if "clip" in entry.name]


def test_scores_of_different_models_flag_nothing_and_the_run_says_so(
    workspace: Workspace, models: Path, tmp_path: Path
) -> None:
    """The folder is another one by the time that the second shard is painted."""
    (tmp_path / "clip").symlink_to(models / "clip")
    manifest = write_manifest(tmp_path / "in", [{"id": f"r{number}"} for number in range(2)])
    job = JobOptions(model="tiny-random", device="cpu", clip_model=str(tmp_path / "clip"), shard_rows=1)
    plan = prepare(workspace, manifest, "run", job, find_model="here")
    paint(workspace, "run", plan.shards[0].name)
    (tmp_path / "clip").unlink()
    (tmp_path / "clip").symlink_to(models / "other")
    paint(workspace, "run", plan.shards[1].name)
    summary = finish(workspace, "run")
    spread = summary.measures["clip"]
    assert len(spread.models) == 2 and (spread.low, spread.high) == (None, None)
    assert any("rows were scored by different models" in line for line in summary.warnings)
    view = RunView.open(workspace, "run")
    assert view is not None and not view.records().table.flag_counts.get("clip_low")
    with pytest.raises(RunConflictError, match="clip_model"):
        prepare(workspace, manifest, "run", job.model_copy(update={"clip_model": None}))


@pytest.mark.parametrize("field", ["clip_model", "lpips_model"])
def test_a_model_that_is_none_stops_the_run_before_it_is_planned_or_else_before_a_row(
    workspace: Workspace, models: Path, tmp_path: Path, field: str
) -> None:
    manifest = write_manifest(tmp_path / "in", [{"id": "one"}])
    job = JobOptions(model="tiny-random", device="cpu")
    for name, why in {"none.onnx": "there is no such", "weights.pt": "holds pickled weights"}.items():
        wrong = job.model_copy(update={field: str(tmp_path / name)})
        with pytest.raises(ModelError, match=why) as caught:
            prepare(workspace, manifest, "run", wrong, find_model="here")
        assert "\n" not in str(caught.value)
    elsewhere = job.model_copy(update={field: str(tmp_path / "none.onnx")})
    notes = prepare(workspace, manifest, "elsewhere", elsewhere, find_model="anywhere").warnings
    assert any("the machines that paint may have it" in line for line in notes)
    with pytest.raises(ModelError, match="there is no such"):
        paint(workspace, "elsewhere", prepare(workspace, manifest, "elsewhere", elsewhere).shards[0].name)

    if field == "clip_model":
        broken = clip_models.write(tmp_path / "broken", vocabulary=200)
    else:
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(onnx_files.lpips(offset=1))
    wrong = job.model_copy(update={field: str(broken)})
    plan = prepare(workspace, manifest, "late", wrong, find_model="here")
    with pytest.raises(ModelError, match="broken"):
        paint(workspace, "late", plan.shards[0].name)
    records = workspace.layout("late").root.join("records/")
    assert not list(workspace.storage.list(records)), "no row has ended"
