"""The CLIP model that images are scored by: what it says of a picture and a text, and which folders are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from inpaint_ops.errors import ModelError
from inpaint_ops.model.clip import Clip
from inpaint_ops.model.score_models import WEIGHTS, find, locate_clip
from inpaint_ops.model.sources import resolve, workload
from inpaint_ops.tuning import Tuning
from inpaint_ops.tuning.peaks import count_phases
from inpaint_ops.worker.scoring import cut_note
from tests.support import clip_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_models.write(tmp_path_factory.mktemp("clip"))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (clip_models.SIDE, clip_models.SIDE, 3), np.uint8)


@pytest.mark.parametrize("cosine", [1.0, 0.31, 0.0, -0.6])
def test_a_model_of_a_known_cosine_gives_it(tmp_path: Path, cosine: float) -> None:
    clip = Clip(locate_clip(str(clip_models.write(tmp_path / "clip", cosine=cosine))), CPU, torch.float32)
    for seed, text in enumerate(("a dog", "", "ein Käse", "words " * 90)):
        assert clip.score(picture(seed), text)[0] == pytest.approx(cosine, abs=1e-6)


def test_scores_are_those_of_transformers_own_call(folder: Path) -> None:
    """Of pictures of the model's size, which its own processor leaves as they are."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizerFast.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder, size=clip_models.SIDE, crop_size=clip_models.SIDE)
    clip = Clip(locate_clip(str(folder)), CPU, torch.float32)
    scores = set()
    for seed, text in ((1, "a linen sofa"), (2, "a linen sofa"), (2, "the sky"), (3, "words, words " * 40)):
        inputs = tokenizer(text, truncation=True, max_length=clip_models.TOKENS, return_tensors="pt")
        pixels = processor(picture(seed), return_tensors="pt").pixel_values
        with torch.no_grad():
            logits = model(**inputs, pixel_values=pixels).logits_per_image
        found, tokens = clip.score(picture(seed), text)
        assert found == pytest.approx(float(logits / model.logit_scale.exp()), abs=1e-5)
        assert (tokens > clip_models.TOKENS) == (seed == 3) and bool(cut_note(tokens, clip.most_tokens)) == (seed == 3)
        scores.add(round(found, 4))
    assert len(scores) == 4, "they depend on the picture and on the text"


def test_where_transformers_5_writes_the_colours_is_read_too(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "clip"
    shutil.copytree(folder, other)
    about = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").unlink()
    (other / "processor_config.json").write_text(json.dumps({"image_processor": about | {"image_mean": [0.5, 0, 1]}}))
    assert locate_clip(str(other)).mean == (0.5, 0.0, 1.0)


def test_its_digest_is_that_of_its_weights(folder: Path, tmp_path: Path) -> None:
    found = find(str(folder), None, tmp_path / "notes")
    assert found.lpips is None and found.clip is not None
    other = clip_models.write(tmp_path / "other", seed=1)
    again = find(str(other), None, tmp_path / "notes").clip
    assert again is not None and len(found.clip.digest) == 64 and found.clip.digest != again.digest


def test_the_planner_counts_it_in_every_phase(folder: Path) -> None:
    source, size = resolve("tiny-random"), (folder / WEIGHTS).stat().st_size
    scored = workload(source, clip_model=str(folder))
    assert (scored.scorer_bytes, workload(source).scorer_bytes) == (size, 0)
    for offload in ("none", "model", "group"):
        tuning = Tuning(offload=offload)
        with_it, without = count_phases(tuning, scored), count_phases(tuning, workload(source))
        assert {with_it[phase] - without[phase] for phase in without} == {size}


def edited(name: str, **fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        about = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(about | fields))

    return edit


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return edit


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda at: (at / "config.json").unlink(), "has no config.json"),
        (lambda at: (at / "config.json").write_text("[1]"), "config.json holds no JSON object"),
        (edited("config.json", model_type="siglip"), "a model of the kind 'siglip', not 'clip'"),
        (edited("config.json", vision_config={"image_size": 10**5}), "image_size is 100000"),
        (lambda at: (at / WEIGHTS).rename(at / "pytorch_model.bin"), "only pytorch_model.bin, and a pickle can run"),
        (lambda at: (at / WEIGHTS).unlink(), "has no model.safetensors"),
        (cut, "model.safetensors"),
        (weights(lambda held: held.pop("visual_projection.weight")), "has no visual_projection.weight"),
        (lambda at: (at / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda at: (at / "preprocessor_config.json").unlink(), "does not say how it wants colours"),
        (edited("preprocessor_config.json", image_std=[0.0, 1, 1]), "image_mean or image_std is out of range"),
    ],
    ids="gone config list kind side pickle none cut header tokenizer colours black".split(),
)
def test_what_is_no_clip_model_is_refused_by_its_headers(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    other = tmp_path / "clip"
    shutil.copytree(folder, other)
    damage(other)
    with pytest.raises(ModelError, match=why) as caught:
        locate_clip(str(other))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (weights(lambda held: held.pop("text_model.final_layer_norm.bias")), "weights lack .*final_layer_norm.bias"),
        (weights(lambda held: held.update({"text_projection.weight": torch.ones(4, 4)})), "cannot be used"),
        (weights(lambda held: held["visual_projection.weight"].fill_(float("nan"))), "no score .*NaN or infinity"),
        (weights(lambda held: held["text_projection.weight"].zero_()), "gives no score for a drawn picture"),
        (lambda at: (at / "tokenizer.json").write_text("{}"), "cannot be used"),
    ],
    ids="missing shape nan nought tokenizer".split(),
)
def test_weights_that_give_no_score_are_refused_when_they_are_tried(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    other = tmp_path / "clip"
    shutil.copytree(folder, other)
    damage(other)
    with pytest.raises(ModelError, match=why) as caught:
        Clip(locate_clip(str(other)), CPU, torch.float32)
    assert "\n" not in str(caught.value) and "give --clip-model a folder" in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    other = clip_models.write(tmp_path / "clip", vocabulary=200)
    with pytest.raises(ModelError, match="tokens that its text encoder does not know"):
        Clip(locate_clip(str(other)), CPU, torch.float32)


def test_few_texts_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inpaint_ops.model.clip._TEXTS", 3)
    clip = Clip(locate_clip(str(folder)), CPU, torch.float32)
    first = clip.score(picture(1), "text 0")
    for number in range(9):
        clip.score(picture(1), f"text {number}")
    assert len(clip._texts) == 3 and clip.score(picture(1), "text 0") == first
