"""Apply a Tuning to a pipeline, in the order that leaves each choice in place.

The order matters, because many of these calls replace what an earlier one did (docs/facts.md): slicing sets every UNet
processor, so it comes before the attention processors; fused projections come after both; offload hooks and compilation
wrap what stands, so they come last.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0, XFormersAttnProcessor

from inpaint_ops.errors import DeviceOutOfMemoryError, one_line
from inpaint_ops.model.compiled import GRAPHS, refusal
from inpaint_ops.model.torch_errors import is_device_lost, is_out_of_memory
from inpaint_ops.model.xformers_log import held_back
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning import Tuning

BACKEND = "inductor"
"""torch.compile's backend."""

DECODER_MODE = "max-autotune-no-cudagraphs"
"""The VAE's decoder is called once per image of a batch, and its images are kept until the last is there: a CUDA graph
would write each into the memory of the one before."""


def apply(
    pipe: Any, tuning: Tuning, device: DeviceInfo, use_xformers: bool | None = None, *, switches_loras: bool = False
) -> dict[str, str]:
    """Apply `tuning` to a StableDiffusionXLInpaintPipeline in place; weights keep their dtype and, unless offloaded,
    place.

    `switches_loras`: LoRAs lie beside the weights, and rows switch them. `use_xformers` false forbids
    xFormers, true asks for it, None leaves it to `tuning.attention`. Returns, by Tuning field, why something
    could not be applied. Raises nothing for an optimisation that cannot work: it is reported,
    and the pipeline runs without it.
    """
    why_not: dict[str, str] = {}
    attention: str = tuning.attention
    if use_xformers is not None and (attention == "xformers" or attention.startswith("sdpa")):
        attention = "xformers" if use_xformers else "sdpa"

    def attempt(field: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever a library raises here, the pipeline runs without it
            if is_out_of_memory(error) or is_device_lost(error):
                raise
            why_not[field] = in_short(error)

    if tuning.channels_last:
        attempt("channels_last", lambda: _channels_last(pipe))
    if tuning.attention_slicing or attention == "sliced":
        attempt("attention_slicing", pipe.enable_attention_slicing)
    if attention == "xformers" and (reason := probe_xformers(device.kind, tuning.dtype)):
        why_not["attention"] = reason
        attention = "sdpa"
    if attention == "xformers":
        attempt("attention", lambda: pipe.unet.set_attn_processor(XFormersAttnProcessor()))
    elif attention.startswith("sdpa"):
        attempt("attention", lambda: pipe.unet.set_attn_processor(AttnProcessor2_0()))
    if tuning.fuse_qkv:
        if switches_loras:  # the fused weights are copies, which LoRAs do not reach
            why_not["fuse_qkv"] = "not together with LoRAs that rows switch"
        elif attention in ("xformers", "sliced"):
            why_not["fuse_qkv"] = f"there is no fused form of {attention} attention"
        else:
            attempt("fuse_qkv", pipe.fuse_qkv_projections)
    attempt("vae_tiling", lambda: _vae(pipe.vae, tuning))
    if tuning.offload != "none":
        if device.kind == "cpu":
            why_not["offload"] = "there is no device to offload from"
        else:
            attempt("offload", lambda: _offload(pipe, tuning.offload))
            if "offload" in why_not:
                # Without its hooks the pipeline would paint where it was loaded: on the processor.
                attempt("offload_undone", lambda: (pipe.remove_all_hooks(), pipe.to("cuda")))
    if tuning.compile != "off":
        if switches_loras:
            why_not["compile"] = "not together with LoRAs that rows switch: each set would be compiled anew"
        elif reason := _cannot_compile(tuning, device):
            why_not["compile"] = reason
        else:
            attempt("compile", lambda: _compile(pipe, tuning))
    return why_not


@lru_cache(maxsize=8)
def probe_xformers(kind: str, dtype: str) -> str:
    """Call xFormers' attention once on the device, on tensors of SDXL's head size; "" when it works, else why not.

    The answer must be finite and agree with PyTorch's own within 0.02 (float16 keeps 3 digits). Shapes (2, 128, 64),
    values normal. Cached for the process.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import xformers.ops  # the probe is for whether it imports
        generator = torch.Generator(kind).manual_seed(0)
        query = torch.randn(2, 128, 64, device=kind, generator=generator).to(getattr(torch, dtype))
        ours = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        theirs = xformers.ops.memory_efficient_attention(query, query, query)
        difference = float((ours - theirs).abs().max())
    except Exception as error:  # import errors, missing kernels, no CUDA: all mean no
        if is_device_lost(error):
            raise
        return "; ".join(filter(None, (f"xFormers does not work here: {in_short(error)}", held_back())))
    return "" if difference < 0.02 else f"xFormers' attention is off by {difference:.3g} here"


def in_short(error: BaseException) -> str:
    """The first 160 characters of a library's message, in one line."""
    text = one_line(" ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= 160 else text[:157] + "..."


def _channels_last(pipe: Any) -> None:
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)


def _vae(vae: Any, tuning: Tuning) -> None:
    if tuning.vae_tile_size is not None:
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_sample_min_size = tuning.vae_tile_size
        vae.tile_latent_min_size = tuning.vae_tile_size // scale
    if tuning.vae_tiling:
        vae.enable_tiling()
    else:
        vae.disable_tiling()
    if tuning.vae_slicing:
        vae.enable_slicing()
    else:
        vae.disable_slicing()


@contextmanager
def relieved(pipe: Any, tuning: Tuning, lean: Tuning, device: torch.device) -> Iterator[None]:
    """Within the block the VAE and the offload are as `lean` has them; afterwards as `tuning` has them again.

    For one row that does not fit by itself. Nothing else of the pipeline changes, and on a CPU nothing is offloaded.
    Raises torch.OutOfMemoryError where the weights do not fit the device again, which then stay offloaded, and
    DeviceOutOfMemoryError where they do not fit the host either.
    """
    offload = device.type == "cuda" and lean.offload == "model" and tuning.offload == "none"
    vae = pipe.vae
    tiles = vae.tile_sample_min_size, vae.tile_latent_min_size
    _vae(vae, lean)
    try:
        if offload:
            pipe.enable_model_cpu_offload(device=device)
        yield
    finally:
        vae.tile_sample_min_size, vae.tile_latent_min_size = tiles
        _vae(vae, tuning)
        if offload:
            _bring_back(pipe, device)


def _bring_back(pipe: Any, device: torch.device) -> None:
    """Have all weights on `device` again, without an offload's hooks. Raises what `relieved` says."""
    pipe.remove_all_hooks()
    try:
        pipe.to(device)
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = in_short(error)
    # Not within the handler: the exception's frames hold on to what has come, and it would be the next one's context.
    try:
        pipe.enable_model_cpu_offload(device=device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceOutOfMemoryError(
            f"the weights fit neither the device nor the host's memory again ({in_short(error)}): "
            "use the tuning low-memory, or a machine with more memory"
        ) from error
    raise torch.OutOfMemoryError(
        f"the weights did not fit the device again, and stay offloaded from here on ({reason})"
    )


def _offload(pipe: Any, way: str) -> None:
    if way == "model":
        pipe.enable_model_cpu_offload(device="cuda")
    elif way == "sequential":
        pipe.enable_sequential_cpu_offload(device="cuda")
    else:
        # The VAE stays on the card: its hooks would bring back the pinned copies of before a cast, and the VAE is cast
        # to float32 where it has `force_upcast`, and where a patch came out broken.
        pipe.enable_group_offload(
            torch.device("cuda"), offload_type="leaf_level", use_stream=True, exclude_modules=["vae"]
        )


def _cannot_compile(tuning: Tuning, device: DeviceInfo) -> str:
    if tuning.offload != "none" and device.kind == "cuda":
        return f"not together with offload {tuning.offload}"
    if device.kind == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))):
        return "no C++ compiler on the PATH (g++), which torch.compile needs on a CPU"
    if device.kind == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed, which torch.compile needs on a GPU"
    if device.kind == "cuda" and not any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
        return "no C compiler on the PATH (gcc), which Triton needs to start its kernels"
    return refusal()


def _compile(pipe: Any, tuning: Tuning) -> None:
    """Wrap the UNet (and, for max-autotune, the VAE's decoder, unless it works in tiles). Compiling happens at first
    use of each shape; shapes are few (working sizes, one batch size), so graphs are made for each and never widened.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 8 * GRAPHS
    if tuning.compile == "regional":
        pipe.unet.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=BACKEND)
        return
    pipe.unet.compile(mode=tuning.compile, fullgraph=True, dynamic=False, backend=BACKEND)
    if tuning.compile == "max-autotune" and not tuning.vae_tiling:
        pipe.vae.decoder.compile(mode=DECODER_MODE, fullgraph=True, dynamic=False, backend=BACKEND)
