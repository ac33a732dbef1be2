"""LoRAs: every layout changes the model alike, weight 0 changes nothing, and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inpaint_ops.device import describe
from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights
from inpaint_ops.model.adapters import Adapters, read
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.loras import LoraWeights, check_lora, locate
from inpaint_ops.model.loras import find as find_loras
from inpaint_ops.model.sources import find, resolve, workload
from inpaint_ops.records import LedgerEntry, LoraFile
from inpaint_ops.tuning import Tuning
from tests.support import loras
from tests.support.pictures import latents_of

CPU = describe("cpu")
LAYOUTS = ("diffusers", "kohya", "kohya-sgm")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """For the shapes of the layers alone."""
    return random_weights.instantiate("tiny-random")


def loaded(
    cache: Path, *files: LoraFile, fuse: dict[str, float] | None = None, dtype: str = "float32", **tuning: Any
) -> LoadedModel:
    found = find(resolve("tiny-random", cache=cache), dtype=dtype, cache=cache, loras=files)
    return load(found, CPU, Tuning(dtype=dtype, **tuning), fuse_loras=fuse)


def entry(model: LoadedModel, name: str = "loras") -> LedgerEntry:
    (found,) = (one for one in model.ledger if one.name == name)
    return found


def weights_of(path: Path, name: str = "a") -> LoraWeights:
    return LoraWeights(name, path, 1.0, path.stat().st_size, "")


@pytest.mark.parametrize("texts", [False, True])
def test_every_layout_changes_the_model_alike(pipe: Any, cache: Path, tmp_path: Path, texts: bool) -> None:
    painted = {}
    for layout in LAYOUTS:
        file = loras.write(pipe, tmp_path / f"{layout}.safetensors", layout, texts=texts)
        model = loaded(cache, LoraFile(name="a", path=str(file)))
        model.use_loras((("a", 0.7),))
        painted[layout] = latents_of(model.pipe)
        assert model.adapters is not None and model.adapters.in_texts == texts
    plain = latents_of(loaded(cache).pipe)
    assert all(torch.equal(one, painted["diffusers"]) for one in painted.values())
    assert float((painted["diffusers"] - plain).abs().max()) > 0.05


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_read_is_what_was_written(pipe: Any, tmp_path: Path, layout: str) -> None:
    """Layer by layer, those of both text encoders too: diffusers leaves kohya's query projections out."""
    file = loras.write(pipe, tmp_path / "l.safetensors", layout, texts=True, alpha=1.0)
    written, found = loras.matrices(pipe, seed=1, texts=True), read(weights_of(file), pipe)
    scale = 1.0 if layout == "diffusers" else 1.0 / loras.RANK
    for part, held in written.items():
        assert set(found[part]) == {key.rpartition(".")[0] for key in held}
        for layer, pair in found[part].items():
            assert torch.equal(pair.down, held[f"{layer}.down"])
            assert torch.allclose(pair.up, held[f"{layer}.up"] * scale)


def test_weight_zero_is_exactly_the_model_without(pipe: Any, cache: Path, tmp_path: Path) -> None:
    file = loras.write(pipe, tmp_path / "a.safetensors", "kohya", texts=True)
    plain = latents_of(loaded(cache).pipe)
    model = loaded(cache, LoraFile(name="a", path=str(file)))
    for wanted in ((), (("a", 0.7),), ()):
        model.use_loras(wanted)
        assert torch.equal(latents_of(model.pipe), plain) == (not wanted)
    merged = loaded(cache, LoraFile(name="a", path=str(file), weight=0.0), fuse={"a": 0.0})
    assert torch.equal(latents_of(merged.pipe), plain)


def test_rows_switch_without_reloading_and_one_set_is_merged(pipe: Any, cache: Path, tmp_path: Path) -> None:
    files = [
        LoraFile(name=f"v1.{name}", path=str(loras.write(pipe, tmp_path / f"{name}.safetensors", layout, seed=seed)))
        for seed, (name, layout) in enumerate((("a", "diffusers"), ("b", "kohya")))
    ]
    model = loaded(cache, *files)
    both, one = (("v1.a", 0.5), ("v1.b", -0.25)), (("v1.b", 1.0),)
    painted: dict[Any, torch.Tensor] = {}
    for wanted in (both, one, (), one, both):
        model.use_loras(wanted)
        again = latents_of(model.pipe)
        assert torch.equal(painted.setdefault(wanted, again), again)
    assert len({float(value.sum()) for value in painted.values()}) == 3
    found = entry(model)
    assert (found.effective, found.matches, found.requested) == ("switched", True, "v1.a 1, v1.b 1")
    assert found.measured["switches"] == 5 and found.measured["layers"] == 2 * len(
        read(weights_of(Path(files[0].path)), pipe)["unet"]
    )
    merged = loaded(cache, *files, fuse=dict(both))
    assert torch.allclose(latents_of(merged.pipe), painted[both], atol=1e-4)
    assert entry(merged).effective == "merged into the weights" and entry(merged).matches
    assert not any("lora" in name for name, _ in merged.pipe.unet.named_parameters())
    assert [(one.name, len(one.digest)) for one in merged.identity.loras] == [("v1.a", 64), ("v1.b", 64)]
    assert merged.load_times.loras > 0


def test_what_compiles_and_what_copies_weights_yields_to_switching(pipe: Any, cache: Path, tmp_path: Path) -> None:
    file = LoraFile(name="a", path=str(loras.write(pipe, tmp_path / "a.safetensors", "kohya")))
    model = loaded(cache, file, fuse_qkv=True, compile="regional")
    for name in ("fuse_qkv", "compile"):
        assert not entry(model, name).matches and "LoRAs that rows switch" in entry(model, name).reason
    merged = loaded(cache, file, fuse={"a": 1.0}, fuse_qkv=True)
    assert entry(merged, "fuse_qkv").matches
    model.use_loras((("a", 1.0),))
    assert torch.allclose(latents_of(merged.pipe), latents_of(model.pipe), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_are_held_in_the_models_dtype(pipe: Any, cache: Path, tmp_path: Path, dtype: str) -> None:
    model = loaded(
        cache, LoraFile(name="a", path=str(loras.write(pipe, tmp_path / "a.safetensors", "kohya"))), dtype=dtype
    )
    assert entry(model, "dtype").effective == dtype


def test_ranks_and_convolutions_may_differ_from_layer_to_layer(pipe: Any, cache: Path, tmp_path: Path) -> None:
    convolution = "down_blocks.0.resnets.0.conv1"
    weight = dict(pipe.unet.named_modules())[convolution].weight
    stem = "lora_unet_" + convolution.replace(".", "_")
    tensors = load_file(loras.write(pipe, tmp_path / "a.safetensors", "kohya"))
    tensors |= {
        f"{stem}.lora_down.weight": torch.randn(5, weight.shape[1], 3, 3) * 0.1,
        f"{stem}.lora_up.weight": torch.randn(weight.shape[0], 5, 1, 1) * 0.1,
        f"{stem}.alpha": torch.tensor(5.0),
    }
    save_file(tensors, tmp_path / "b.safetensors")
    change = torch.einsum(
        "or,rikl->oikl", tensors[f"{stem}.lora_up.weight"][..., 0, 0], tensors[f"{stem}.lora_down.weight"]
    )
    before = loaded(cache).pipe.unet.get_submodule(convolution).weight
    merged = loaded(cache, LoraFile(name="b", path=str(tmp_path / "b.safetensors")), fuse={"b": 2.0})
    assert torch.allclose(merged.pipe.unet.get_submodule(convolution).weight, before + 2 * change, atol=1e-6)


def test_the_alpha_that_diffusers_notes_in_the_header_counts(pipe: Any, tmp_path: Path) -> None:
    file = loras.write(pipe, tmp_path / "a.safetensors", "diffusers")
    tensors, layers = load_file(file), list(read(weights_of(file), pipe)["unet"])
    noted = {"unet.lora_alpha": 4, "unet.r": loras.RANK, "unet.alpha_pattern": {layers[0]: 1}}
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": json.dumps(noted)})
    found, plain = read(weights_of(file), pipe)["unet"], loras.matrices(pipe, seed=1, texts=False)["unet"]
    assert torch.allclose(found[layers[0]].up, plain[f"{layers[0]}.up"] * 0.5)
    assert torch.allclose(found[layers[1]].up, plain[f"{layers[1]}.up"] * 2.0)


LAYER = "down_blocks.1.attentions.0.proj_in"
UP, DOWN, ALPHA = (
    f"lora_unet_{LAYER.replace('.', '_')}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")
)
Change = Callable[[dict[str, torch.Tensor]], object]


def widened(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "attn2_to_k.lora_down" in name]:
        tensors[name] = torch.ones(2, 768)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (widened, r"does not fit the model: unet\..*attn2\.to_k \(768 to \d+, the model's has .* and \d+ more.*SDXL"),
        (lambda t: t.update({"lora_te1_text_model_encoder_layers_9_mlp_fc1.lora_down.weight": torch.ones(2, 32)}),
         "does not fit the model: lora_te1_text_model_encoder_layers_9_mlp_fc1"),
        (lambda t: t.update({"lora_unet_down_blocks_7_attentions_0_proj_in.lora_down.weight": torch.ones(2, 4),
                             "lora_unet_down_blocks_7_attentions_0_proj_in.lora_up.weight": torch.ones(4, 2)}),
         r"unet\.down_blocks\.7\.attentions\.0\.proj_in"),
        (lambda t: t.update({"lora_unet_x.dora_scale": torch.ones(1)}), "DoRA"),
        (lambda t: t.update({"lora_unet_x.hada_w1_a": torch.ones(1)}), "LoHa"),
        (lambda t: t.update({"lora_unet_x.lokr_w1": torch.ones(1)}), "LoKr"),
        (lambda t: t.pop(next(name for name in t if name.endswith("lora_up.weight"))), "no layout that is read"),
        (lambda t: t.update({"stranger": torch.ones(1)}), "no layout that is read|does not fit"),
        (lambda t: t.update({UP: t[UP] * float("nan")}), f"NaN or infinity in {UP}.*fetch it again"),
        (lambda t: t.update({ALPHA: torch.tensor(float("inf"))}), f"NaN or infinity in {UP}"),
        (lambda t: t.update({ALPHA: torch.ones(2)}), f"damaged: {ALPHA} has 2 numbers, not one"),
        (lambda t: t.update({UP: torch.tensor(1.0)}), f"damaged: {UP} has the shape .., which is no matrix's"),
        (lambda t: t.update({UP: torch.ones(32, 0), DOWN: torch.ones(0, 32)}), r"has the shape .*, which is no matrix"),
        (lambda t: t.update({UP: (t[UP] * 10).to(torch.int8)}), f"numbers of the kind I8 .{UP}.: use the file"),
        (lambda t: t.update({f"unet.{LAYER}.lora_A.weight": t[DOWN] * 1, f"unet.{LAYER}.lora_B.weight": t[UP] * 1}),
         "does not fit the model|two matrices"),
        (lambda t: t.update({f"lora_te{one}_text_model_encoder_layers_0_mlp_fc1.lora_{way}.weight": torch.ones(size)
                             for one in ("", "1") for way, size in (("down", (2, 16)), ("up", (64, 2)))}),
         r"two matrices for text_encoder\.encoder\.layers\.0\.mlp\.fc1, under two names.*use one of them"),
        (lambda t: (t.clear(), t.update({"model.diffusion_model.x": torch.ones(1)})), "is no LoRA .*--model"),
    ],
)  # fmt: skip
def test_a_lora_that_does_not_fit_is_refused_with_its_layers(
    pipe: Any, cache: Path, tmp_path: Path, change: Change, says: str
) -> None:
    file = loras.write(pipe, tmp_path / "a.safetensors", "kohya")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ModelError, match=says) as caught:
        loaded(cache, LoraFile(name="a", path=str(file)))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_lora_of_the_text_encoders_alone_is_read_and_what_has_no_alpha_counts_whole(
    pipe: Any, tmp_path: Path
) -> None:
    file = loras.write(pipe, tmp_path / "a.safetensors", "kohya", texts=True)
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if name.startswith("lora_te")}, file)
    found = read(weights_of(file), pipe)
    assert not found["unet"] and found["text_encoder"] and found["text_encoder_2"]
    save_file({name: value for name, value in tensors.items() if not name.endswith(".alpha")}, file)
    plain = loras.matrices(pipe, seed=1, texts=False)["unet"]
    assert all(
        torch.equal(pair.up, plain[f"{layer}.up"]) for layer, pair in read(weights_of(file), pipe)["unet"].items()
    )


def test_matrices_of_eight_bits_without_a_scale_are_read(pipe: Any, tmp_path: Path) -> None:
    file = loras.write(pipe, tmp_path / "a.safetensors", "kohya")
    eight = {name: value.to(torch.float8_e4m3fn) if value.ndim else value for name, value in load_file(file).items()}
    save_file(eight, file)
    up = read(weights_of(file), pipe)["unet"][LAYER].up
    assert torch.equal(up, eight[UP].float())


def test_a_file_is_named_where_there_is_none_or_it_is_damaged(pipe: Any, cache: Path, tmp_path: Path) -> None:
    file = (
        loras.write(pipe, tmp_path / "in" / "a.safetensors", "kohya") if (tmp_path / "in").mkdir() is None else tmp_path
    )
    assert locate(str(file.parent)) == file
    (tmp_path / "in" / "b.safetensors").write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError, match="holds 2 safetensors files: name the file"):
        locate(str(file.parent))
    for place, says in ((tmp_path / "in" / "b.safetensors", "no whole safetensors"), (tmp_path / "x.pt", "pickled"),
                        (tmp_path / "none.safetensors", "there is no such file")):  # fmt: skip
        with pytest.raises(ModelError, match=says):
            check_lora(locate(str(place)))
    (file.parent / "a.safetensors.sha256").write_text("0" * 64 + "\n")
    with pytest.raises(ModelError, match="damaged: its SHA-256"):
        find_loras([LoraFile(name="a", path=str(file))], cache / "notes")


def test_the_planner_counts_loras_that_stay_beside_the_weights(pipe: Any, cache: Path, tmp_path: Path) -> None:
    file = loras.write(pipe, tmp_path / "a.safetensors", "kohya")
    source, named = resolve("tiny-random", cache=cache), [LoraFile(name="a", path=str(file))]
    assert workload(source, loras=named).lora_bytes == file.stat().st_size
    assert workload(source, loras=named, fused={"a": 1.0}).lora_bytes == 0


def test_names_of_text_encoders_are_matched_though_layers_are_wrapped(pipe: Any, tmp_path: Path) -> None:
    """The second LoRA meets modules that the first has wrapped."""
    own = random_weights.instantiate("tiny-random")
    files = [loras.write(pipe, tmp_path / f"{layout}.safetensors", layout, texts=True, seed=seed)
             for seed, layout in enumerate(("kohya", "diffusers", "kohya-sgm"))]  # fmt: skip
    adapters = Adapters(own, [weights_of(file, file.stem) for file in files])
    assert adapters.layers == 3 * sum(len(held) // 2 for held in loras.matrices(pipe, seed=1, texts=True).values())
    assert adapters.use((("diffusers", 1.0), ("kohya", 1.0))) == (("diffusers", 1.0), ("kohya", 1.0))
