"""Whole runs with the models that studios have: what lands in the records, the summary and the plan."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from inpaint_ops.cli.doctor import diagnose
from inpaint_ops.config import Settings, load_settings
from inpaint_ops.errors import ModelError, RunConflictError
from inpaint_ops.model import random_weights
from inpaint_ops.planning import JobOptions, job_options
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.runs import Workspace, finish, paint, prepare
from tests.support import single_files
from tests.support.pictures import file_of, mask_file, smooth


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain.safetensors`, a model of 4 channels, and `vae.safetensors`."""
    root = tmp_path_factory.mktemp("files")
    single_files.write(single_files.plain(random_weights.instantiate("tiny-random")), root / "plain.safetensors")
    vae = random_weights.instantiate("tiny-random", seed=8).vae
    save_file(single_files.vae(vae), root / "vae.safetensors")
    return root


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "photo.png").write_bytes(file_of(smooth(64, 64)))
    (folder / "mask.png").write_bytes(mask_file(64, 64, (16, 16, 48, 48)))
    return Workspace.open(Settings(scratch=tmp_path / "s"), store=str(tmp_path / "out"), also_readable=[str(folder)])


def manifest(workspace: Workspace, *rows: dict[str, Any]) -> str:
    path = Path(workspace.store.key).parent / "in" / "m.jsonl"
    places = {"image": "photo.png", "mask": "mask.png", "prompt": "x", "steps": 2, "seed": 1}
    path.write_text("".join(json.dumps(places | row) + "\n" for row in rows))
    return str(path)


def run(workspace: Workspace, rows: list[dict[str, Any]], job: JobOptions) -> tuple[RunSummary, dict[str, Record]]:
    plan = prepare(workspace, manifest(workspace, *rows), "run", job, find_model="here")
    for shard in plan.shards:
        paint(workspace, "run", shard.name)
    summary = finish(workspace, "run")
    layout = workspace.layout("run")
    found = [
        Record.model_validate_json(workspace.storage.get(info.location))
        for info in workspace.storage.list(layout.root.join("records/"))
    ]
    return summary, {record.id: record for record in found}


def test_a_plain_model_in_one_file_with_a_vae_of_its_own(files: Path, workspace: Workspace) -> None:
    model, vae = files / "plain.safetensors", files / "vae.safetensors"
    job = JobOptions(model=str(model), vae=str(vae), device="cpu")
    summary, records = run(workspace, [{"id": "one"}], job)
    assert (summary.counts.done, records["one"].status) == (1, "done"), summary.reasons
    assert summary.model is not None and summary.model.name == str(model)
    assert summary.model.digest == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (summary.model.vae, summary.model.vae_digest) == (str(vae), hashlib.sha256(vae.read_bytes()).hexdigest())
    ledger = {entry.name: entry for entry in summary.ledger}
    assert ledger["inpainting"].effective == "masked latents" and ledger["vae"].requested == str(vae)
    assert records["one"].output is not None
    painted = Image.open(records["one"].output.uri)
    assert summary.model.digest[:16] in json.dumps(painted.info, default=str)
    before = Image.open(Path(workspace.store.key).parent / "in" / "photo.png").convert("RGB")
    outside = (0, 0, 16, 64)
    assert painted.convert("RGB").crop(outside).tobytes() == before.crop(outside).tobytes()
    assert painted.convert("RGB").tobytes() != before.tobytes()
    for other in ({"vae": None}, {"model": "tiny-random"}):
        with pytest.raises(RunConflictError):
            prepare(workspace, manifest(workspace, {"id": "one"}), "run", job.model_copy(update=other))


def test_a_file_that_is_no_model_is_refused_before_anything_is_planned(files: Path, workspace: Workspace) -> None:
    job = JobOptions(model=str(files / "vae.safetensors"), device="cpu")
    with pytest.raises(ModelError, match="seems to be a VAE"):
        prepare(workspace, manifest(workspace, {"id": "one"}), "run", job, find_model="here")
    assert workspace.plan("run") is None
    note = prepare(workspace, manifest(workspace, {"id": "one"}), "run", job, find_model="anywhere").warnings
    assert any("the machines that paint may have it" in line for line in note)


def test_the_settings_name_a_file_and_doctor_looks_into_it(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPAINT_MODEL", str(files / "plain.safetensors"))
    monkeypatch.setenv("INPAINT_VAE", str(files / "vae.safetensors"))
    settings = load_settings()
    job = job_options(settings)
    assert (job.model, job.vae, job.tokenizer) == (settings.model, str(files / "vae.safetensors"), None)
    (check,) = [check for check in diagnose(settings, "") if check.name == "model"]
    assert check.state == "ok" and "plain SDXL, painted by masked latents; tokenizer: bytes" in check.detail
    monkeypatch.setenv("INPAINT_MODEL", str(files / "vae.safetensors"))
    (check,) = [check for check in diagnose(load_settings(), "") if check.name == "model"]
    assert check.state == "missing" and "seems to be a VAE" in check.detail
