"""Whole runs with the models that studios have: what lands in the records, the summary and the plan."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from inpaint_ops.cli.doctor import diagnose
from inpaint_ops.config import Settings, load_settings
from inpaint_ops.errors import ConfigError, ForbiddenLocationError, ModelError, ObjectNotFoundError, RunConflictError
from inpaint_ops.model import random_weights
from inpaint_ops.model.cache import cache_home
from inpaint_ops.planning import JobOptions, job_options
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.runs import Workspace, finish, paint, prepare, prepare_retry, summary_lines
from inpaint_ops.supervisor.loras import LORAS, local_loras
from tests.support import loras, onnx_files, single_files
from tests.support.pictures import file_of, mask_file, smooth

pytestmark = pytest.mark.usefixtures("forked_workers")


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


def lora(files: Path, name: str, layout: str = "kohya", **options: Any) -> str:
    path = files / f"{name}.safetensors"
    if not path.exists():
        loras.write(random_weights.instantiate("tiny-random"), path, layout, **options)
    return str(path)


def pixels(record: Record) -> NDArray[np.int16]:
    assert record.output is not None
    return np.asarray(Image.open(record.output.uri).convert("RGB")).astype(np.int16)


def apart(*images: NDArray[np.int16]) -> int:
    """By how many levels the images differ from the first, at the most: 1 is rounding, in batches of other sizes."""
    return max(int(np.abs(image - images[0]).max()) for image in images[1:])


def test_rows_choose_of_the_jobs_loras(files: Path, workspace: Workspace) -> None:
    """One of the store, one of a folder; weight 0 is the model without; a row without a wish has the job's."""
    brand = Path(workspace.store.key).parent / "in" / "brand.safetensors"
    brand.write_bytes(Path(lora(files, "first", texts=True, seed=3)).read_bytes())
    rows: list[dict[str, Any]] = [
        {"id": "job"}, {"id": "same", "loras": "brand:0.5"}, {"id": "none", "loras": "none"},
        {"id": "zero", "loras": {"brand": 0, "style": 0.0}}, {"id": "style", "loras": ["style:1.5"]},
        {"id": "both", "loras": "brand, style"}, {"id": "again", "loras": '{"style": 1.5, "brand": null}'},
        {"id": "unknown", "loras": "brnd:0.8"},
    ]  # fmt: skip
    chosen = {"loras": (f"brand=file://{brand}:0.5", f"style={lora(files, 'second', 'diffusers')}:0"), "device": "cpu"}
    job = JobOptions.model_validate(chosen | {"model": "tiny-random"})
    summary, records = run(workspace, rows, job)
    assert summary.counts.done == 7 and summary.counts.rejected == 1, summary.reasons
    error = records["unknown"].error
    assert (
        error is not None and error.field == "loras" and "no LoRA called 'brnd' (it has: brand, style)" in error.message
    )
    assert {name: record.loras for name, record in records.items() if record.loras} == {
        "job": {"brand": 0.5, "style": 0.0}, "same": {"brand": 0.5}, "zero": {"brand": 0.0, "style": 0.0},
        "style": {"style": 1.5}, "both": {"brand": 0.5, "style": 0.0}, "again": {"style": 1.5},
    }  # fmt: skip
    image = {name: pixels(record) for name, record in records.items() if record.output is not None}
    assert apart(image["job"], image["same"], image["both"]) <= 1 and apart(image["none"], image["zero"]) <= 1
    assert apart(image["style"], image["again"]) <= 1
    for one, other in (("job", "none"), ("job", "style"), ("none", "style")):
        assert apart(image[one], image[other]) > 5
    (entry,) = (entry for entry in summary.ledger if entry.name == "loras")
    assert entry.effective == "switched" and 3 <= entry.measured["switches"] <= 6, "rows of one set wait together"
    assert summary.model is not None and [one.name for one in summary.model.loras] == ["brand", "style"]
    assert summary.model.loras[0].digest == hashlib.sha256(brand.read_bytes()).hexdigest()
    (kept,) = (cache_home() / LORAS).glob("*.safetensors")
    assert kept.stem == summary.model.loras[0].digest
    assert "+ LoRA style 1.5 (" in json.dumps(Image.open(records["style"].output.uri).info, default=str)  # type: ignore[union-attr]
    encoders = next(entry for entry in summary.ledger if entry.name == "release_text_encoders")
    assert "LoRAs that change the text encoders" in encoders.reason or encoders.matches


def test_a_job_of_one_set_merges_it_and_paints_the_same(files: Path, workspace: Workspace) -> None:
    place = lora(files, "second", "diffusers")
    job = JobOptions.model_validate({"model": "tiny-random", "device": "cpu", "loras": [f"{place}:1.5"]})
    summary, records = run(workspace, [{"id": "one"}, {"id": "two", "loras": "second"}], job)
    assert summary.counts.done == 2
    (entry,) = (entry for entry in summary.ledger if entry.name == "loras")
    assert (entry.effective, entry.requested) == ("merged into the weights", "second 1.5")
    (cost,) = (one for one in summary.choices if one.choice == "loras")
    assert (cost.count, cost.seconds) == (1, summary.load and summary.load.loras)
    assert cost.what == "LoRAs loaded (second), by 1 worker"
    assert any(line.startswith(f"  {cost.in_words()}") for line in summary_lines(workspace, summary))
    assert summary.load is not None and summary.load.loras > 0
    assert apart(pixels(records["one"]), pixels(records["two"])) <= 1


def test_a_lora_that_no_worker_could_load_is_refused_at_the_start(files: Path, workspace: Workspace) -> None:
    source = manifest(workspace, {"id": "one"})
    for place, error in (
        (str(files / "vae.safetensors"), ModelError), ("nowhere.safetensors", ModelError), ("x.ckpt", ModelError),
        (f"file://{Path(source).parent}/nowhere.safetensors", ObjectNotFoundError),
        ("s3://elsewhere/lora.safetensors", ForbiddenLocationError),
    ):  # fmt: skip
        job = JobOptions.model_validate({"model": "tiny-random", "loras": [place]})
        with pytest.raises(error):
            prepare(workspace, source, "run", job, find_model="here")
    assert workspace.plan("run") is None


def test_a_lora_is_fetched_once_for_each_etag(files: Path, workspace: Workspace, tmp_path: Path) -> None:
    place = Path(workspace.store.key).parent / "in" / "brand.safetensors"
    place.write_bytes(Path(lora(files, "first", texts=True, seed=3)).read_bytes())
    (choice,) = JobOptions.model_validate({"model": "m", "loras": [f"file://{place}"]}).loras
    first = local_loras([choice], workspace.storage, tmp_path / "cache")
    kept = Path(first[0].path)
    before = kept.stat().st_ino
    assert local_loras([choice], workspace.storage, tmp_path / "cache") == first and kept.stat().st_ino == before
    place.write_bytes(Path(lora(files, "second", "diffusers")).read_bytes())
    second = local_loras([choice], workspace.storage, tmp_path / "cache")
    assert Path(second[0].path).name == f"{hashlib.sha256(place.read_bytes()).hexdigest()}.safetensors"
    assert second != first and not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_a_text_for_the_second_encoder_reaches_the_image_and_the_record(workspace: Workspace) -> None:
    """The job's, with a field of the row in it, and the row's own; every text is encoded before the encoders go."""
    rows = [
        {"id": "none", "prompt_2": "x"},
        {"id": "job", "style": "oil"},
        {"id": "own", "prompt_2": "fog", "style": ""},
    ]
    job = JobOptions(model="tiny-random", device="cpu", prompt_2="{style} painting", tuning_overrides={"batch_size": 1})
    summary, records = run(workspace, [row | {"style": row.get("style", "-")} for row in rows], job)
    assert summary.counts.done == 3, [record.error for record in records.values()]
    assert {name: record.prompt_2 for name, record in records.items()} == {
        "none": "x", "job": "oil painting", "own": "fog",
    }  # fmt: skip
    assert apart(pixels(records["none"]), pixels(records["job"])) > 1
    assert apart(pixels(records["none"]), pixels(records["own"])) > 1
    output = records["job"].output
    assert output is not None
    assert "(second text encoder: oil painting)" in json.dumps(Image.open(output.uri).info, default=str)
    encoders = next(entry for entry in summary.ledger if entry.name == "release_text_encoders")
    assert encoders.measured["texts_encoded"] == 4, "three texts and the empty one"


def test_few_steps_all_run_and_the_ledger_names_the_sampling(files: Path, workspace: Workspace) -> None:
    chosen = {"model": "tiny-random", "device": "cpu", "loras": [lora(files, "second", "diffusers")]}
    job = job_options(workspace.settings, few_step="lightning", **chosen)
    summary, records = run(workspace, [{"id": "job", "steps": None}, {"id": "own", "steps": 6}], job)
    assert summary.counts.done == 2, summary.reasons
    assert {name: (record.steps, record.guidance_scale) for name, record in records.items()} == {
        "job": (4, 1.0), "own": (6, 1.0),
    }  # fmt: skip
    (entry,) = (entry for entry in summary.ledger if entry.name == "scheduler")
    assert (entry.effective, entry.matches) == ("euler_trailing", True)
    plan = workspace.plan("run")
    assert plan is not None and plan.job.few_step == "lightning"


def test_what_a_row_is_filled_with_stands_in_its_record_and_where_it_has_no_effect_in_the_warnings(
    workspace: Workspace,
) -> None:
    rows = [{"id": "jobs"}, {"id": "own", "fill": "noise"}, {"id": "in vain", "strength": 1.0}]
    job = JobOptions(model="tiny-random", device="cpu", strength=0.6, steps=3, fill="mean")
    summary, records = run(workspace, rows, job)
    assert summary.counts.done == 3
    assert {name: record.fill for name, record in records.items()} == {
        "jobs": "mean",
        "own": "noise",
        "in vain": "mean",
    }
    assert any("fill mean had no effect" in sentence for sentence in records["in vain"].conversions)
    assert [line for line in summary.warnings if "fill mean had no effect on some rows" in line]
    [fill] = [one for one in summary.choices if one.choice == "fill"]
    assert (fill.count, fill.seconds) == (3, None) and fill.what.endswith("(mean 2, noise 1)")
    with pytest.raises(RunConflictError, match="fill"):
        prepare(workspace, manifest(workspace, *rows), "run", job.model_copy(update={"fill": "telea"}))


def test_where_guidance_ended_stands_in_records_images_ledger_and_report(workspace: Workspace) -> None:
    rows = [
        {"id": "jobs"},
        {"id": "again"},
        {"id": "own", "guidance_cutoff": 0.8},
        {"id": "whole", "guidance_cutoff": 1},
        {"id": "few", "steps": 1, "strength": 1.0},
        {"id": "off", "guidance_scale": 1.0},
        {"id": "two", "variants": 2},
    ]
    job = JobOptions(model="tiny-random", device="cpu", steps=6, strength=0.9999, guidance_cutoff=0.5)
    rows = [{"steps": None} | row for row in rows]
    summary, records = run(workspace, rows, job)
    assert summary.counts.done == len(rows), [record.error for record in records.values()]
    found = {name: (one.guidance_cutoff, one.steps, one.unguided_steps) for name, one in records.items()}
    assert found == {
        "jobs": (0.5, 5, 2), "again": (0.5, 5, 2), "own": (0.8, 5, 1), "whole": (1.0, 5, 0), "few": (0.5, 1, 0),
        "off": (1.0, 5, 0), "two": (0.5, 5, 2),
    }  # fmt: skip
    assert {name for name, one in records.items() if "unguided_steps" in one.model_dump()} == {
        "jobs",
        "again",
        "own",
        "two",
    }
    assert np.array_equal(pixels(records["jobs"]), pixels(records["again"])), "the same seed in the same batch"
    names = ("jobs", "own", "whole", "off")
    assert all(apart(pixels(records[a]), pixels(records[b])) > 0 for a in names for b in names if a < b)
    batches = {name: one.batch and one.batch.id for name, one in records.items()}
    assert batches["jobs"] == batches["again"] != batches["own"] != batches["whole"] != batches["jobs"]
    [sentence] = [one for one in records["few"].conversions if "guidance" in one]
    assert sentence == "guidance_cutoff 0.5 had no effect: with 1 step it leaves none without guidance"
    assert not any("guidance" in one for name in names for one in records[name].conversions)
    for name, says in (("jobs", "CFG scale: 7.5, Steps without CFG: 2, Seed"), ("whole", "CFG scale: 7.5, Seed")):
        output = records[name].output
        assert output is not None and says in Image.open(output.uri).text["parameters"]  # type: ignore[attr-defined]

    [entry] = [one for one in summary.ledger if one.name == "guidance_cutoff"]
    assert (entry.requested, entry.effective, entry.matches) == ("0.5, 0.8", "0.5, 0.8 for some rows", False)
    assert any(line.startswith("guidance_cutoff: 0.5, 0.8 was requested") for line in summary.warnings)
    [cost] = [one for one in summary.choices if one.choice == "guidance_cutoff"]
    assert (cost.count, cost.seconds) == (5, None) and "9 of their 25 steps" in cost.what
    assert summary.pace is not None and summary.pace.images == 8
    assert summary.pace.steps == pytest.approx((7 * 5 + 1 - 9 / 2) / 8)
    with pytest.raises(RunConflictError, match="guidance_cutoff"):
        prepare(workspace, manifest(workspace, *rows), "run", job.model_copy(update={"guidance_cutoff": 0.6}))


def test_rows_filled_by_a_network_of_the_users(workspace: Workspace, tmp_path: Path) -> None:
    network = tmp_path / "lama.onnx"
    network.write_bytes(onnx_files.lama())
    rows = [{"id": "lama", "fill": "lama"}, {"id": "mean", "fill": "mean"}, {"id": "own"}]
    job = JobOptions(model="tiny-random", device="cpu", strength=0.6, fill_model=str(network))
    summary, records = run(workspace, rows, job)
    assert summary.counts.done == 3 and records["lama"].fill == "lama"
    assert apart(pixels(records["lama"]), pixels(records["own"])) > 1
    assert apart(pixels(records["lama"]), pixels(records["mean"])) > 1
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    assert (summary.model.fill_model, summary.model.fill_model_digest) == (str(network), digest)
    (entry,) = (entry for entry in summary.ledger if entry.name == "fill_model")
    assert entry.effective == f"SHA-256 {digest[:16]}" and entry.reason.startswith("run by OpenCV")
    with pytest.raises(RunConflictError, match="fill_model"):
        prepare(workspace, manifest(workspace, *rows), "run", job.model_copy(update={"fill_model": "other.onnx"}))


def test_a_network_that_no_row_needs_is_not_opened(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_text("no network")
    job = JobOptions(model="tiny-random", device="cpu", steps=2, fill_model=str(tmp_path / "broken.onnx"))
    summary, _ = run(workspace, [{"id": "one", "fill": "mean"}], job)
    assert summary.counts.done == 1 and summary.model.fill_model is None


def test_a_broken_network_stops_the_run_before_a_row_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_text("no network")
    job = JobOptions(model="tiny-random", device="cpu", steps=2, fill="lama", fill_model=str(tmp_path / "broken.onnx"))
    with pytest.raises(ModelError, match=r"broken\.onnx is no ONNX file that OpenCV can read") as caught:
        run(workspace, [{"id": "one"}], job)
    assert "\n" not in str(caught.value)


def test_without_a_network_the_fill_is_refused_when_a_run_is_planned(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^fill lama: it needs a network.*give --fill-model"):
        job_options(Settings(), model="tiny-random", fill="lama")
    source = manifest(workspace, {"id": "good"}, {"id": "bad", "fill": "lama"})
    plan = prepare(workspace, source, "run", JobOptions(model="tiny-random", device="cpu"))
    assert (plan.rows, plan.rejected_rows) == (2, (2,))
    rejected = json.loads(workspace.storage.get(workspace.layout("run").rejected))
    assert rejected["_error"].startswith("row 2: fill: lama: it needs a network")
    (tmp_path / "big-lama.pt").write_bytes(b"PK")
    (tmp_path / "empty.onnx").touch()
    whys = {"big-lama.pt": "pickled weights: give", "none.onnx": "no such file", "empty.onnx": "0 bytes"}
    for name, why in whys.items():
        job = JobOptions(model="tiny-random", device="cpu", fill="lama", fill_model=str(tmp_path / name))
        with pytest.raises(ModelError, match=why):
            prepare(workspace, source, "other", job, find_model="here")
    notes = prepare(workspace, source, "other", job, find_model="anywhere").warnings
    assert any("0 bytes" in line and "the machines that paint may have it" in line for line in notes)


def test_rows_that_lacked_a_network_are_done_again_with_one(workspace: Workspace, tmp_path: Path) -> None:
    network = tmp_path / "lama.onnx"
    network.write_bytes(onnx_files.lama())
    job = JobOptions(model="tiny-random", device="cpu", strength=0.6)
    summary, _ = run(workspace, [{"id": "good"}, {"id": "bad", "fill": "lama"}], job)
    assert (summary.counts.done, summary.counts.rejected) == (1, 1)
    source = str(Path(workspace.store.key).parent / "in" / "m.jsonl")
    given = job.model_copy(update={"fill_model": str(network)})
    again = prepare_retry(workspace, source, "run", "rejected", given, chosen={"fill_model"}, find_model="here")
    assert again.retry is not None
    for shard in again.retry.shards:
        paint(workspace, "run", shard.name)
    summary = finish(workspace, "run")
    assert summary.counts.done == 2 and summary.verdict == "VALID"
    with pytest.raises(RunConflictError, match="strength"):
        other = given.model_copy(update={"strength": 0.7})
        prepare_retry(workspace, source, "run", "bad", other, chosen={"fill_model", "strength"}, find_model="here")
