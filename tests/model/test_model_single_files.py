"""A model in one file paints what the folder paints that it came from; every other file is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from inpaint_ops.cli.models import models
from inpaint_ops.device import describe
from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights
from inpaint_ops.model.checkpoints import read_checkpoint, read_header, vae_recipe
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.own_models import is_random
from inpaint_ops.model.single_file import check, convert
from inpaint_ops.model.sources import find, resolve, workload
from inpaint_ops.model.verifying import verify
from inpaint_ops.runs.checking import check_model
from inpaint_ops.tuning import Tuning
from tests.support import single_files

CPU = describe("cpu")
L, G = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file and a folder of the same weights, of 9 channels and of 4."""
    root, found = tmp_path_factory.mktemp("files"), {}
    for name in ("inpaint", "plain"):
        pipe = random_weights.instantiate("tiny-random")
        if name == "plain":
            single_files.plain(pipe)
        found[name] = single_files.write(pipe, root / f"{name}.safetensors")
        pipe.save_pretrained(str(root / name))
        found[f"{name} folder"] = root / name
    return found


@pytest.fixture
def file(files: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copy(files["inpaint"], tmp_path / "model.safetensors"))


def loaded(model: Path | str, cache: Path, dtype: str = "float32", **parts: str) -> LoadedModel:
    source = resolve(str(model), cache=cache, **parts)
    return load(find(source, dtype=dtype, cache=cache, published=True), CPU, Tuning(dtype=dtype))


def painted(pipe: Any) -> torch.Tensor:
    """Latents of a small picture, its middle masked."""
    image = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    result = pipe(
        prompt="a red chair", image=image, mask_image=mask, width=64, height=64, num_inference_steps=3, strength=1.0,
        generator=torch.Generator().manual_seed(5), output_type="pt",
    )  # fmt: skip
    image_tensor: torch.Tensor = result.images
    return image_tensor


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object], **notes: str) -> Path:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt", **notes})
    return path


@pytest.mark.parametrize("kind", ["inpaint", "plain"])
def test_the_file_paints_what_its_folder_paints(files: dict[str, Path], cache: Path, kind: str) -> None:
    of_file, of_folder = loaded(files[kind], cache), loaded(files[f"{kind} folder"], cache)
    assert torch.equal(painted(of_file.pipe), painted(of_folder.pipe))
    assert of_file.native_size == of_folder.native_size == 64
    assert of_file.identity.digest == hashlib.sha256(files[kind].read_bytes()).hexdigest()
    ways = [entry for entry in of_file.ledger if entry.name == "inpainting"]
    assert [entry.effective for entry in ways] == (["masked latents"] if kind == "plain" else [])
    assert all("4 channels" in entry.reason for entry in ways)


def test_random_weights_are_called_random_and_others_are_not(files: dict[str, Path], file: Path, cache: Path) -> None:
    assert loaded(files["inpaint"], cache).identity.random_weights
    rewrite(file, lambda tensors: None)
    assert not loaded(file, cache).identity.random_weights
    assert workload(resolve(str(file))).vae_upcast, "SDXL's own VAE overflows in 16 bits"
    assert not workload(resolve(str(files["inpaint"]))).vae_upcast


@pytest.mark.parametrize("kind", ["inpaint", "plain"])
def test_a_converted_folder_is_whole_and_paints_the_same(
    files: dict[str, Path], cache: Path, tmp_path: Path, kind: str
) -> None:
    source = resolve(str(files[kind]))
    assert source.checkpoint is not None and source.tokenizers is not None
    folder = convert(source.checkpoint, source.tokenizers, tmp_path / "made" / "model")
    verify(folder, dtype="float32")
    assert is_random(folder) and not [path for path in folder.parent.iterdir() if path != folder]
    assert torch.equal(painted(loaded(folder, cache).pipe), painted(loaded(files[kind], cache).pipe))
    with pytest.raises(ModelError, match="is there already"):
        convert(source.checkpoint, source.tokenizers, folder)


def test_half_precision_stays_half_precision(tmp_path: Path, cache: Path) -> None:
    pipe = random_weights.instantiate("tiny-random", "cpu", torch.float16)
    file = single_files.write(pipe, tmp_path / "half.safetensors")
    source = resolve(str(file))
    assert source.checkpoint is not None and source.tokenizers is not None
    folder = convert(source.checkpoint, source.tokenizers, tmp_path / "folder")
    assert verify(folder).variant == "fp16"
    model = loaded(file, cache, "bfloat16")
    assert {value.dtype for value in model.pipe.unet.parameters()} == {torch.bfloat16}
    assert not any(value.is_meta for value in model.pipe.vae.parameters())


def test_a_network_trained_for_velocity_gets_such_a_scheduler(file: Path, cache: Path) -> None:
    assert loaded(file, cache).pipe.scheduler.config.prediction_type == "epsilon"
    rewrite(file, lambda tensors: tensors.update(v_pred=torch.tensor([]), ztsnr=torch.tensor([])))
    config = loaded(file, cache).pipe.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr, config.timestep_spacing) == (
        "v_prediction", True, "trailing",
    )  # fmt: skip
    rewrite(file, lambda tensors: (tensors.pop("v_pred"), tensors.pop("ztsnr")),
            **{"modelspec.prediction_type": "v"})  # fmt: skip
    config = loaded(file, cache).pipe.scheduler.config
    assert config.prediction_type == "v_prediction" and not config.rescale_betas_zero_snr


def renamed(*changes: tuple[str, str]) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            for old, new in changes:
                if name.startswith(old):
                    value = tensors.pop(name)
                    if new:
                        tensors[new + name.removeprefix(old)] = value

    return change


def only(*tensors: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(there: dict[str, torch.Tensor]) -> None:
        there.clear()
        there.update({name: torch.ones(2, 2) for name in tensors})

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed((L, "cond_stage_model.transformer.text_model."), (G, "")), "a Stable Diffusion 1 model.*use an SDXL"),
        (renamed((G, "cond_stage_model.model."), (L, "")), "a Stable Diffusion 2 model"),
        (renamed((G, "conditioner.embedders.0.model."), (L, "")), "an SDXL refiner.*use the base model"),
        (renamed((G, ""), (L, ""), ("first_stage", "")), "the UNet of a model without its text encoders"),
        (renamed((G, "")), "without its second text encoder"),
        (renamed(("first_stage_model.", "")), "a model without its VAE"),
        (only("lora_unet_down_blocks_0.lora_down.weight", "lora_unet_x.alpha"), "a LoRA.*--lora"),
        (only("unet.down_blocks.0.attentions.0.to_q.lora_A.weight"), "a LoRA"),
        (only("control_model.input_blocks.0.0.weight"), "a ControlNet"),
        (only("model.diffusion_model.joint_blocks.0.x"), "a Stable Diffusion 3"),
        (only("double_blocks.0.img_attn.qkv.weight"), "a Flux model"),
        (only("down_blocks.0.resnets.0.conv1.weight", "mid_block.x"), "a part of a diffusers folder.*model_index"),
        (only("text_model.embeddings.token_embedding.weight"), "a text encoder"),
        (only("encoder.conv_in.weight", "decoder.conv_in.weight"), "a VAE.*--vae"),
        (only("stranger"), "layout of no SDXL model .its first tensor is stranger"),
        (only(), "holds no tensors"),
        (lambda tensors: tensors.update(edm_mean=torch.ones(1)), "EDM .Playground 2.5"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(
    file: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    rewrite(file, change)
    with pytest.raises(ModelError, match=says) as caught:
        resolve(str(file))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(f"{UNET}middle_block.1.norm.weight"), "lacks mid_block.attentions.0.norm.weight"),
        (lambda t: t.pop(f"{G}transformer.resblocks.1.attn.in_proj_weight"), "k_proj.weight and 2 more"),
        (lambda t: t.pop(f"{L}final_layer_norm.weight"), "lacks final_layer_norm.weight"),
        (lambda t: t.pop("first_stage_model.decoder.mid.attn_1.q.weight"), "lacks decoder.mid_block.attentions.0.to_q"),
        (
            lambda t: t.update({f"{UNET}output_blocks.0.1.transformer_blocks.1.ff.x": torch.ones(1)}),
            "which SDXL has not",
        ),
        (lambda t: t.update({f"{UNET}out.0.weight": torch.ones(7)}), r"is \(7,\), SDXL's is \(16,\)"),
        (lambda t: t.update({f"{UNET}time_embed.0.weight": torch.ones(7)}), r"\(7,\)"),
    ],
)
def test_missing_and_strange_weights_are_named_before_any_is_read(
    file: Path, cache: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    rewrite(file, change)
    for attempt in (lambda: check(read_checkpoint(file)), lambda: loaded(file, cache)):
        with pytest.raises(ModelError, match=says) as caught:
            attempt()
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", [f"{UNET}label_emb.0.0.weight", f"{G}token_embedding.weight", f"{UNET}input_blocks.0.0.weight"]
)
def test_other_layer_sizes_are_not_sdxl(file: Path, key: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = torch.ones(24, 24, *tensors[key].shape[2:])

    with pytest.raises(ModelError, match=r"other layer sizes than SDXL|takes 24 channels"):
        resolve(str(rewrite(file, change)))
    with pytest.raises(ModelError, match=r"has no|has other layer sizes"):
        resolve(str(rewrite(file, lambda tensors: tensors.update({key: torch.ones(3)}))))


def test_eight_bit_weights_are_refused(file: Path) -> None:
    key = f"{UNET}time_embed.0.weight"
    rewrite(file, lambda tensors: tensors.update({key: tensors[key].to(torch.float8_e4m3fn)}))
    with pytest.raises(ModelError, match=r"F8_E4M3 .*: use the file with 16 or 32 bits"):
        resolve(str(file))


def test_integers_are_no_weights(file: Path) -> None:
    """Eight bits with a scale elsewhere would be taken for the numbers themselves; positions are integers."""
    key = f"{UNET}time_embed.0.weight"
    rewrite(file, lambda tensors: tensors.update({f"{L}embeddings.position_ids": torch.arange(77)[None]}))
    resolve(str(file), tokenizer=None)
    rewrite(file, lambda tensors: tensors.update({key: torch.ones(tensors[key].shape, dtype=torch.int8)}))
    with pytest.raises(ModelError, match=f"numbers of the kind I8 .{key}.: use the file with 16 or 32 bits"):
        resolve(str(file))


def test_averaged_weights_beside_the_models_own_are_left_alone(file: Path, cache: Path) -> None:
    """Trainers leave `model_ema.` in their files, whose names are others."""
    plain = loaded(file, cache).pipe.unet.state_dict()
    rewrite(file, lambda t: t.update({f"model_ema.{name.removeprefix('model.').replace('.', '')}": value * 0
                                      for name, value in list(t.items()) if name.startswith(UNET)}))  # fmt: skip
    beside = loaded(file, cache).pipe.unet.state_dict()
    assert all(torch.equal(value, beside[name]) for name, value in plain.items())


def test_damage_is_named(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for bad in (whole[:-100], whole[:3], b"", b"\xff" * 64, b"<html>not found</html>", whole[:8] + b"[" + whole[9:]):
        file.write_bytes(bad)
        with pytest.raises(ModelError, match=r"no whole safetensors file .*fetch it again") as caught:
            resolve(str(file))
        assert "\n" not in str(caught.value)
    for bad in (b"PK\x03\x04" + bytes(60), b"\x80\x02}q\x00."):
        file.write_bytes(bad)
        with pytest.raises(ModelError, match="a pickle under another name"):
            resolve(str(file))
    with pytest.raises(ModelError, match="there is no such file"):
        resolve(str(tmp_path / "none.safetensors"))
    scalar = tmp_path / "scalar.safetensors"
    save_file({"encoder.conv_in.weight": torch.tensor(1.0)}, scalar)
    with pytest.raises(ModelError, match=r"has no encoder\.conv_in\.weight"):
        vae_recipe(read_header(scalar))


@pytest.mark.parametrize("name", ["sd.ckpt", "SD.CKPT", "sd.pt", "sd.bin", "owner/sd.ckpt", "/models/sd.pth"])
def test_a_pickle_is_refused_everywhere_and_never_opened(name: str) -> None:
    for refused in (
        lambda: resolve(name),
        *(lambda here=here: check_model(name, must_be_here=here) for here in (0, 1)),
    ):
        with pytest.raises(ModelError, match=r"pickled weights: .*\.safetensors"):
            refused()
    with pytest.raises(ModelError, match="pickled weights"):
        check_model("tiny-random", must_be_here=False, vae=name)


def test_a_file_is_looked_for_where_it_is_used(files: dict[str, Path], tmp_path: Path) -> None:
    assert check_model(str(files["inpaint"]), must_be_here=True) is None
    absent = str(tmp_path / "none.safetensors")
    for parts in ({"model": absent}, {"model": "tiny-random", "vae": absent}):
        with pytest.raises(ModelError, match="there is no such file"):
            check_model(**parts, must_be_here=True)
        note = check_model(**parts, must_be_here=False)
        assert note is not None and "there is no such file; the machines that paint may have it" in note


@pytest.mark.parametrize("beside", ["model.safetensors.sha256", "weights.sha256"])
def test_a_file_is_compared_with_the_digest_that_was_published(file: Path, cache: Path, beside: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / beside).write_text(f"{found}  model.safetensors\n")
    assert loaded(file, cache).identity.digest == found
    spoilt = bytearray(file.read_bytes())
    spoilt[-1] ^= 1
    file.write_bytes(spoilt)
    with pytest.raises(ModelError, match=f"damaged: its SHA-256 is .*{found} was published"):
        loaded(file, cache)


def test_a_digest_is_computed_once_until_the_file_changes(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inpaint_ops.model import digests

    read: list[Path] = []
    real = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: read.append(path) or real(path))
    first = find(resolve(str(file)), dtype="float32", cache=cache).weights
    again = find(resolve(str(file)), dtype="float32", cache=cache).weights
    assert first == again and read == [file]
    rewrite(file, lambda tensors: tensors.update(more=torch.ones(1)))
    assert find(resolve(str(file)), dtype="float32", cache=cache).weights != first
    assert read == [file, file]


VAES = ["original", "original without prefix", "diffusers", "folder", "model's folder"]


@pytest.mark.parametrize("kind", VAES)
def test_a_vae_takes_the_place_of_the_models_own(
    files: dict[str, Path], tmp_path: Path, cache: Path, kind: str
) -> None:
    pipe = random_weights.instantiate("tiny-random", seed=99)
    place = tmp_path / "vae.safetensors"
    if kind.startswith("original"):
        prefix = "" if kind.endswith("without prefix") else "first_stage_model."
        save_file({prefix + name: value for name, value in single_files.vae(pipe.vae).items()}, place)
    elif kind == "diffusers":
        save_file({name: value.clone() for name, value in pipe.vae.state_dict().items()}, place)
    else:
        place = tmp_path / "folder"
        (pipe.vae if kind == "folder" else pipe).save_pretrained(str(place))
    for model in (files["inpaint"], files["inpaint folder"], "tiny-random"):
        found = loaded(model, cache, vae=str(place))
        assert all(
            torch.equal(found.pipe.vae.state_dict()[name], value) for name, value in pipe.vae.state_dict().items()
        )
        (entry,) = (entry for entry in found.ledger if entry.name == "vae")
        assert found.identity.vae_digest.startswith(entry.effective.removeprefix("SHA-256 "))
        assert bool(found.pipe.vae.config.force_upcast) == place.is_file(), "a file does not say that 16 bits do"
        assert workload(resolve(str(model), cache=cache, vae=str(place))).vae_upcast == place.is_file()
    assert painted(found.pipe).isfinite().all()


def test_what_is_no_vae_is_refused(files: dict[str, Path], tmp_path: Path, cache: Path) -> None:
    strange = tmp_path / "strange.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1)}, strange)
    wide = tmp_path / "wide.safetensors"
    save_file(
        {"encoder.conv_in.weight": torch.ones(5, 3, 3, 3), "encoder.conv_out.weight": torch.ones(8, 5, 3, 3)}, wide
    )
    folder = tmp_path / "folder"
    random_weights.instantiate("tiny-random").vae.save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    for place, says in ((strange, "a LoRA, not a VAE"), (wide, "SDXL's with 128"), (tmp_path / "none", "no folder"),
                        (folder, "16: use an SDXL VAE")):  # fmt: skip
        with pytest.raises(ModelError, match=says):
            loaded(files["inpaint"], cache, vae=str(place))


def test_a_folder_has_its_own_tokenizer(files: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="leave --tokenizer out"):
        resolve(str(files["inpaint folder"]), tokenizer="anything")


def test_the_commands_for_models_know_a_file(files: dict[str, Path], tmp_path: Path) -> None:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(models, [*map(str, arguments)])

    done = run("convert", files["plain"], tmp_path / "made")
    assert (done.exit_code, "plain SDXL" in done.stdout) == (0, True), done.stderr
    assert "whole, SHA-256" in run("verify", files["plain"]).stdout
    refused = run("convert", tmp_path / "x.ckpt", tmp_path / "never")
    assert refused.exit_code == 2 and "pickled weights" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "never").exists()
