"""The ledger tells what the pipeline has, not what it was told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xformers
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor

from inpaint_ops.model import ledger, loading, tuned
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.sources import find, resolve
from inpaint_ops.tuning import Tuning, Workload, choose
from tests.support.ledgers import CPU, by_name, fresh, look


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and on a busy machine wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaded(cache: Path, preset: str, **overrides: Any) -> LoadedModel:
    choice = choose(CPU, preset=preset, overrides=overrides, workload=Workload(64), expected_rows=8)
    return load(find(resolve("tiny-random", cache=cache), dtype=choice.tuning.dtype), CPU, choice)


def mismatches(model: LoadedModel) -> list[str]:
    return [entry.name for entry in model.ledger if not entry.matches]


def processors(pipe: Any) -> set[type]:
    return {type(processor) for processor in pipe.unet.attn_processors.values()}


def test_the_ledger_has_a_line_for_every_choice(cache: Path) -> None:
    entries = loaded(cache, "auto").ledger
    assert [entry.name for entry in entries] == [*Tuning.model_fields, "scheduler"]


def test_auto_on_a_cpu_is_all_in_effect(cache: Path) -> None:
    model = loaded(cache, "auto")
    assert mismatches(model) == []
    assert processors(model.pipe) == {AttnProcessor2_0}
    assert "0.52" in by_name(model.ledger)["attention_slicing"].reason


def test_low_memory_on_a_cpu_is_all_in_effect(cache: Path) -> None:
    model = loaded(cache, "low-memory")
    assert mismatches(model) == []
    entry = by_name(model.ledger)["vae_tiling"]
    assert (entry.effective, entry.measured["tiles"]) == ("on", 9)


def test_notes_leaves_the_attention_processors_in_place_and_says_what_slicing_came_to(cache: Path) -> None:
    model = loaded(cache, "notes")
    assert processors(model.pipe) == {AttnProcessor2_0}
    entries = by_name(model.ledger)
    assert (entries["attention"].requested, entries["attention"].effective) == ("xformers", "sdpa")
    assert "CUDA" in entries["attention"].reason
    assert (entries["dtype"].requested, entries["dtype"].effective) == ("float16", "float32")
    assert (entries["attention_slicing"].requested, entries["attention_slicing"].effective) == ("on", "off")
    assert "last call wins" in entries["attention_slicing"].reason
    assert {name for name, entry in entries.items() if not entry.matches} == {"dtype", "attention", "attention_slicing"}
    assert len(mismatches(model)) == 3


def test_xformers_is_probed_and_its_failure_is_the_reason(cache: Path) -> None:
    """On this machine xFormers cannot run (no GPU); `apply` is asked for it all the same."""
    tuning = Tuning(attention="xformers")
    pipe = fresh()
    reason = tuned.probe_xformers("cpu", "float32")
    why_not = tuned.apply(pipe, tuning, CPU)
    entry = look(pipe, tuning, why_not=why_not)["attention"]
    if reason:
        assert reason.startswith("xFormers")
        assert (entry.effective, entry.matches) == ("sdpa", False)
        assert reason in entry.reason
    else:
        assert (entry.effective, entry.matches) == ("xformers", True)


def test_xformers_that_works_is_left_in_place_after_slicing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "probe_xformers", lambda kind, dtype: "")
    tuning = Tuning(attention="xformers", attention_slicing=True, fuse_qkv=True)
    pipe = fresh()
    why_not = tuned.apply(pipe, tuning, CPU)
    entries = look(pipe, tuning, why_not=why_not)
    assert (entries["attention"].effective, entries["attention"].matches) == ("xformers", True)
    assert (entries["attention_slicing"].effective, entries["attention_slicing"].matches) == ("off", False)
    assert (entries["fuse_qkv"].effective, entries["fuse_qkv"].matches) == ("off", False)
    assert "no fused form" in entries["fuse_qkv"].reason


def test_use_xformers_false_means_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "probe_xformers", lambda kind, dtype: "")
    pipe = fresh()
    tuned.apply(pipe, Tuning(attention="xformers"), CPU, use_xformers=False)
    assert processors(pipe) == {AttnProcessor2_0}


def test_a_processor_swapped_behind_our_back_is_a_mismatch(cache: Path) -> None:
    model = loaded(cache, "auto")
    first = next(iter(model.pipe.unet.attn_processors))
    swapped = dict(model.pipe.unet.attn_processors) | {first: AttnProcessor()}
    model.pipe.unet.set_attn_processor(swapped)
    entry = by_name(model.inspect((64, 64)))["attention"]
    assert not entry.matches
    assert "1 plain" in entry.effective
    assert "sdpa" in entry.effective


def test_slicing_called_after_sdpa_is_seen_as_what_it_is(cache: Path) -> None:
    model = loaded(cache, "auto")
    model.pipe.enable_attention_slicing()
    entries = by_name(model.inspect((64, 64)))
    assert processors(model.pipe) == {SlicedAttnProcessor}
    assert (entries["attention"].effective, entries["attention"].matches) == ("sliced", False)
    assert (entries["attention_slicing"].effective, entries["attention_slicing"].matches) == ("on", False)


def test_sliced_attention_asked_for_is_sliced(cache: Path) -> None:
    model = loaded(cache, "auto", attention="sliced")
    assert processors(model.pipe) == {SlicedAttnProcessor}
    assert mismatches(model) == []


@pytest.mark.parametrize(("size", "expected"), [((32, 32), 1), ((64, 64), 9), ((40, 32), 4), ((128, 64), 18)])
def test_tiling_is_in_effect_only_above_the_tile_size(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], expected: int
) -> None:
    """The count is compared with the decoder's real calls."""
    pipe = fresh()
    tuning = Tuning(vae_tiling=True)
    tuned.apply(pipe, tuning, CPU)
    calls = []
    forward = pipe.vae.decoder.forward
    monkeypatch.setattr(pipe.vae.decoder, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    with torch.no_grad():
        pipe.vae.decode(torch.randn(1, 4, size[1] // 8, size[0] // 8))
    assert len(calls) == expected == ledger.tiles(pipe.vae, size)
    entry = look(pipe, tuning, size)["vae_tiling"]
    assert entry.matches == (expected > 1)
    assert entry.effective == ("on" if expected > 1 else "off")
    if expected == 1:
        assert "idle at 32x32" in entry.reason


def test_a_tile_size_moves_the_gate() -> None:
    pipe = fresh()
    tuning = Tuning(vae_tiling=True, vae_tile_size=64)
    tuned.apply(pipe, tuning, CPU)
    entries = look(pipe, tuning, (64, 64))
    assert not entries["vae_tiling"].matches
    assert (entries["vae_tile_size"].effective, entries["vae_tile_size"].matches) == ("64", True)
    assert look(pipe, tuning, (128, 128))["vae_tiling"].matches


def test_dtypes_are_read_off_the_parameters() -> None:
    pipe = fresh()
    pipe.vae.to(torch.float16)
    entry = look(pipe, Tuning())["dtype"]
    assert not entry.matches
    assert "float16 (vae)" in entry.effective


def test_memory_formats_are_read_off_the_kernels() -> None:
    pipe = fresh()
    tuning = Tuning(channels_last=True)
    assert look(pipe, tuning)["channels_last"].effective == "off"
    tuned.apply(pipe, tuning, CPU)
    assert look(pipe, tuning)["channels_last"].matches
    kernel = pipe.unet.conv_in.weight
    kernel.data = kernel.data.contiguous()
    assert look(pipe, tuning)["channels_last"].effective.startswith("on in")


def test_fused_projections_are_in_effect_and_paint_the_same() -> None:
    pipe, plain = fresh(), fresh()
    tuning = Tuning(fuse_qkv=True)
    assert tuned.apply(pipe, tuning, CPU) == {}
    entries = look(pipe, tuning)
    assert (entries["fuse_qkv"].effective, entries["attention"].effective) == ("on", "sdpa")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (pipe.vae.decode(latents).sample - plain.vae.decode(latents).sample).abs().max()
    assert difference < 1e-4


def test_too_few_rows_of_one_size_are_no_mismatch_and_are_said(cache: Path) -> None:
    model = loaded(cache, "auto", batch_size=4)
    entry = by_name(model.inspect((64, 64), batch_size=2, batch_limit=4))["batch_size"]
    assert (entry.requested, entry.effective, entry.matches) == ("4", "2", True)
    assert "at most 2 rows of one size" in entry.reason
    assert "memory cut nothing" in entry.reason


def test_what_xformers_says_at_its_import_is_a_reason_and_no_noise() -> None:
    code = (
        "import logging; logging.basicConfig(); from inpaint_ops.model import tuned; import diffusers; "
        "print(tuned.probe_xformers('cpu', 'float32'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "XFORMERS" not in done.stderr
    if "can't load" in (Path(xformers.__file__).parent / "_cpp_lib.py").read_text() and not xformers._has_cpp_library:
        assert "can't load C++/CUDA extensions" in done.stdout


@pytest.mark.parametrize("way", ["regional", "reduce-overhead"])
def test_compiled_modules_are_counted(way: str) -> None:
    pipe = fresh()
    tuning = Tuning(compile=way)
    tuned.apply(pipe, tuning, CPU)
    entry = look(pipe, tuning)["compile"]
    assert (entry.effective, entry.matches) == (way, True)
    assert entry.measured["wrapped_modules"] >= 1
    assert look(fresh(), tuning)["compile"].effective == "off"


def test_without_a_compiler_compile_is_off_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned.shutil, "which", lambda name: None)
    pipe = fresh()
    tuning = Tuning(compile="regional")
    entry = look(pipe, tuning, why_not=tuned.apply(pipe, tuning, CPU))["compile"]
    assert (entry.effective, entry.matches) == ("off", False)
    assert "g++" in entry.reason


@pytest.mark.parametrize("way", ["reduce-overhead", "max-autotune"])
def test_no_cuda_graph_holds_an_image_that_the_next_one_overwrites(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """With slicing the decoder runs once per image, so what it is compiled with must not keep its results in place."""
    pipe, modes = fresh(), {}
    for name, module in (("unet", pipe.unet), ("decoder", pipe.vae.decoder)):
        monkeypatch.setattr(module, "compile", lambda name=name, **given: modes.update({name: given["mode"]}))
    monkeypatch.setattr(tuned, "_cannot_compile", lambda *_: "")
    assert tuned.apply(pipe, Tuning(compile=way, vae_slicing=True, batch_size=4), CPU) == {}
    assert modes["unet"] == way
    decoder = modes.get("decoder")
    assert (decoder is None) == (way == "reduce-overhead")
    assert decoder is None or not torch._inductor.list_mode_options(decoder).get("triton.cudagraphs")


@pytest.mark.parametrize("way", ["model", "sequential", "group"])
def test_offload_without_a_device_is_reported_not_raised(way: str) -> None:
    pipe = fresh()
    tuning = Tuning(offload=way)
    entry = look(pipe, tuning, why_not=tuned.apply(pipe, tuning, CPU))["offload"]
    assert (entry.effective, entry.matches) == ("none", False)
    assert "no device to offload from" in entry.reason


@pytest.mark.parametrize("way", ["model", "sequential", "group"])
def test_offload_hooks_are_recognised(way: str) -> None:
    """The hooks are real; the card is pretended by the processor (sequential: the meta device holds the weights)."""
    pipe = fresh()
    if way == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    elif way == "sequential":
        pipe.enable_sequential_cpu_offload(device="cpu")
    else:
        pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    entry = look(pipe, Tuning(offload=way))["offload"]
    assert (entry.effective, entry.matches) == (way, True)
    assert look(pipe, Tuning())["offload"].matches is False


def test_an_optimisation_that_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = fresh()

    def broken(*_: object) -> None:
        raise ValueError("the library has\nchanged")

    monkeypatch.setattr(pipe, "fuse_qkv_projections", broken)
    tuning = Tuning(fuse_qkv=True)
    entry = look(pipe, tuning, why_not=tuned.apply(pipe, tuning, CPU))["fuse_qkv"]
    assert (entry.effective, entry.matches) == ("off", False)
    assert "the library has changed" in entry.reason


def test_released_encoders_and_smaller_batches_are_seen(cache: Path) -> None:
    model = loaded(cache, "auto", batch_size=4)
    assert by_name(model.ledger)["release_text_encoders"].effective == "held"
    late = by_name(model.inspect((64, 64), batch_size=4, batch_limit=2, prompts_done=True))
    assert not late["release_text_encoders"].matches
    assert (late["batch_size"].effective, late["batch_size"].matches) == ("2", False)
    assert "memory" in late["batch_size"].reason
    model.pipe.text_encoder = model.pipe.text_encoder_2 = None
    done = by_name(model.inspect((64, 64), batch_size=4, prompts_done=True))
    assert (done["release_text_encoders"].effective, done["batch_size"].matches) == ("on", True)
    assert loading.torch_device(CPU).type == "cpu"
