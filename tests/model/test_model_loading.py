"""Loading: the right model, whole, without pickles, foreign code or a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.device import describe
from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.own_models import MARKER, RECIPE_VERSION
from inpaint_ops.model.sources import PINNED, find, resolve, workload
from inpaint_ops.model.verifying import verify
from inpaint_ops.tuning import Tuning, Workload

CPU = describe("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


def loaded(model: str | Path, cache: Path, tuning: Tuning | None = None, revision: str | None = None) -> LoadedModel:
    tuning = tuning or Tuning()
    return load(find(resolve(str(model), revision, cache=cache), dtype=tuning.dtype, cache=cache), CPU, tuning)


def set_config(folder: Path, part: str, **values: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_random_model_is_loaded_and_labelled(cache: Path) -> None:
    phases: list[tuple[str, str]] = []
    found = find(resolve("tiny-random", cache=cache), dtype="float32")
    model = load(found, CPU, Tuning(), lambda *words: phases.append(words))
    assert model.identity.random_weights
    assert model.identity.name == "tiny-random"
    assert model.identity.revision == f"recipe-{RECIPE_VERSION}"
    assert model.identity.dtype == "float32"
    assert len(model.identity.digest) == 64
    assert model.native_size == 64
    assert sum(model.seconds.values()) > 0
    assert [name for name, _ in phases] == ["load", "tune"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_held_in_the_dtype_asked_for(cache: Path, dtype: str) -> None:
    model = loaded("tiny-random", cache, Tuning(dtype=dtype))
    assert (model.ledger[0].name, model.ledger[0].effective, model.ledger[0].matches) == ("dtype", dtype, True)
    assert model.identity.dtype == dtype


def test_a_folder_is_loaded_and_its_random_weights_are_still_called_random(folder: Path, cache: Path) -> None:
    model = loaded(folder, cache)
    assert model.identity.random_weights
    (folder / MARKER).unlink()
    again = loaded(folder, cache)
    assert not again.identity.random_weights
    assert again.identity.digest == model.identity.digest


def test_bars_are_silent_and_warnings_are_not_touched(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded("tiny-random", cache)
    printed = capfd.readouterr()
    assert "Loading" not in printed.out + printed.err
    assert "%|" not in printed.err


def test_a_missing_hub_model_names_the_cure_and_asks_no_network(cache: Path) -> None:
    with pytest.raises(ModelError, match=f"models pull {DEFAULT_MODEL}.*model_cache") as caught:
        loaded(DEFAULT_MODEL, cache)
    assert PINNED[DEFAULT_MODEL] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nonsense", "huge-random", "a/b/c", "owner/", "http://host/model", "s3://bucket/model"]
)
def test_a_name_that_is_nothing_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(ModelError, match="tiny-random"):
        loaded(name, cache)


def test_a_folder_that_is_not_there_is_named(cache: Path) -> None:
    with pytest.raises(ModelError, match="/no/such/model"):
        loaded("/no/such/model", cache)


@pytest.mark.parametrize(("value", "expected"), [(False, False), (True, True), (None, True)])
def test_the_planner_is_told_that_the_vae_computes_in_32_bits(folder: Path, value: bool | None, expected: bool) -> None:
    """Where the configuration does not say, diffusers takes `force_upcast` to be true."""
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text()) | {"force_upcast": value}
    path.write_text(json.dumps({name: held for name, held in config.items() if held is not None}))
    assert workload(resolve(str(folder))) == Workload(64, expected, prompts_known=True)
    assert not workload(resolve(str(folder)), prompts_known=False).prompts_known


def test_a_folder_that_is_no_model_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        loaded(tmp_path, cache)


@pytest.mark.parametrize("channels", [8, 5, None])
def test_a_unet_of_other_channels_is_no_model_to_paint_with(folder: Path, cache: Path, channels: int | None) -> None:
    set_config(folder, "unet", in_channels=channels)
    for check in (lambda: loaded(folder, cache), lambda: verify(folder)):
        with pytest.raises(ModelError, match=f"takes {channels} channels.*{DEFAULT_MODEL}"):
            check()


def test_an_inpainting_model_of_another_family_is_refused(folder: Path) -> None:
    set_config(folder, "unet", addition_embed_type=None)
    with pytest.raises(ModelError, match="not SDXL's"):
        verify(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer_2", "scheduler"])
def test_a_missing_component_is_named(folder: Path, cache: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"has no {part}"):
        loaded(folder, cache)


def test_a_component_with_code_of_its_own_is_refused(folder: Path, cache: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_unet", "Unet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(ModelError, match="code of its own"):
        loaded(folder, cache)


def test_pickled_weights_are_never_opened(folder: Path, cache: Path) -> None:
    pickle = folder / "unet" / "diffusion_pytorch_model.bin"
    pickle.write_bytes(b"cos\nsystem\n(S'touch /tmp/inpaint_ops_was_here'\ntR.")
    with pytest.raises(ModelError, match=r"pickled weights.*remove"):
        verify(folder)
    assert loaded(folder, cache).native_size == 64  # the safetensors beside it are read
    (folder / UNET).unlink()
    with pytest.raises(ModelError, match="pickled weights only"):
        loaded(folder, cache)
    assert not Path("/tmp/inpaint_ops_was_here").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("keep", [0, 4, 500, -1])
def test_truncated_weights_are_named(folder: Path, cache: Path, part: str, keep: int) -> None:
    path = next((folder / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"{path}.*cut short"):
        verify(folder)
    with pytest.raises(ModelError, match=f"{path}.*cut short"):
        loaded(folder, cache)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_weights_that_lack_a_tensor_are_refused(folder: Path, cache: Path, part: str) -> None:
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    del tensors[sorted(tensors)[5]]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=str(folder)):
        loaded(folder, cache)


def test_weights_of_another_shape_are_refused(folder: Path, cache: Path) -> None:
    set_config(folder, "unet", cross_attention_dim=72)
    with pytest.raises(ModelError, match="cannot be loaded"):
        loaded(folder, cache)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / UNET).unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="00001-of-00002"):
        verify(folder)


def test_a_whole_model_verifies(folder: Path) -> None:
    verified = verify(folder)
    assert len(verified.files) == 4
    assert verified.bytes == sum((folder / name).stat().st_size for name in verified.files)
    assert (verified.native_size, verified.variant) == (64, None)


def test_the_fp16_variant_is_chosen_where_it_should_be(tmp_path: Path, cache: Path) -> None:
    import torch

    both = random_weights.build("tiny-random", tmp_path / "model", torch.float16)
    assert verify(both, dtype="float16").variant == "fp16"
    assert verify(both, dtype="float32").variant == "fp16"  # there is no other
    model = loaded(both, cache)
    assert model.pipe.unet.dtype == torch.float32
    plain = random_weights.ensure("tiny-random", cache)
    for name in verify(plain).files:
        shutil.copy(plain / name, both / name)
    assert verify(both, dtype="float16").variant == "fp16"
    assert verify(both, dtype="float32").variant is None
