"""The ledger: what of a Tuning really took effect, read off the pipeline itself.

Nothing here trusts a flag that another call may have overruled. Processors are read off the attention modules, dtypes
and memory formats off the parameters, tiling off the VAE's own gate at the working size, offload and compilation off
the hooks and wrappers that stand.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import Attention

from inpaint_ops.model import compiled
from inpaint_ops.model.attention import kernel_in_use
from inpaint_ops.records import MASKED_LATENTS, LedgerEntry, ModelIdentity
from inpaint_ops.tuning import Choice, Tuning, shown

if TYPE_CHECKING:
    from inpaint_ops.images import Lama

_KINDS = {
    "AttnProcessor2_0": "sdpa",
    "FusedAttnProcessor2_0": "sdpa",
    "XFormersAttnProcessor": "xformers",
    "SlicedAttnProcessor": "sliced",
    "AttnProcessor": "plain",
}


@dataclass(frozen=True, slots=True)
class _Finding:
    """What one look at the pipeline found: the effective value, why it is not the requested one, figures."""

    effective: str
    matches: bool
    why_not: str = ""
    note: str = ""
    measured: Mapping[str, float] | None = None


def inspect(
    pipe: Any,
    tuning: Tuning,
    working_size: tuple[int, int],
    *,
    choice: Choice | None = None,
    why_not: Mapping[str, str] | None = None,
    batch_size: int | None = None,
    batch_limit: int | None = None,
    prompts_done: bool = False,
) -> tuple[LedgerEntry, ...]:
    """Look at `pipe` and say, for each field of `tuning`, what is requested, what is in effect, and why.

    `working_size` is width and height in pixels: what the VAE's tiling gate is asked about. `choice` adds the
    planner's reasons and what was asked for and refused; `why_not` is what `apply` returned; `batch_size` is the size
    of the largest batch that was painted (None: nothing painted yet), and `batch_limit` what an out-of-memory back-off
    has left (None: the tuning's); `prompts_done` says that the text encoders have no more work. Changes nothing and
    raises nothing that the pipeline does not.
    """
    findings = {
        "dtype": _dtype(pipe, tuning),
        "attention": _attention(pipe, tuning),
        "attention_slicing": _slicing(pipe, tuning),
        "vae_tiling": _tiling(pipe.vae, tuning, working_size),
        "vae_tile_size": _tile_size(pipe.vae, tuning),
        "vae_slicing": _flag(tuning.vae_slicing, bool(pipe.vae.use_slicing)),
        "channels_last": _channels_last(pipe, tuning),
        "fuse_qkv": _fused(pipe, tuning),
        "compile": _compiled(pipe, tuning),
        "offload": _offload(pipe, tuning),
        "batch_size": _batch(tuning, batch_size, batch_limit),
        "release_text_encoders": _encoders(pipe, tuning, prompts_done),
    }
    asked = dict(choice.asked) if choice else {}
    implied = {"attention_slicing": "on"} if tuning.attention == "sliced" else {}
    reasons = choice.reasons if choice else {}
    entries = []
    for name, found in findings.items():
        requested = asked.get(name) or implied.get(name) or shown(getattr(tuning, name))
        matches = found.matches and name not in asked
        if matches:
            parts = (reasons.get(name, ""), found.note)
        elif found.matches:
            parts = (reasons.get(name, ""), "")
        else:
            parts = ((why_not or {}).get(name, "") or found.why_not, found.note)
        entries.append(
            LedgerEntry(
                name=name,
                requested=requested,
                effective=found.effective,
                matches=matches,
                reason="; ".join(part for part in parts if part),
                measured=dict(found.measured or {}),
            )
        )
    return tuple(entries)


def inspect_parts(pipe: Any, model: ModelIdentity, lama: Lama | None = None) -> Iterator[LedgerEntry]:
    """How the pipeline paints into the mask, a VAE that took the place of the model's own, and the network of fill
    `lama`.
    """
    channels = int(pipe.unet.config.in_channels)
    if channels != 9:
        yield LedgerEntry(
            name="inpainting", requested="model", effective=MASKED_LATENTS, matches=True,
            reason=f"the UNet takes {channels} channels and sees neither the mask nor what is beside it: outside the "
            "mask the source's latents are put back after each step",
        )  # fmt: skip
    if model.vae is not None:
        upcast = bool(pipe.vae.config.force_upcast)
        yield LedgerEntry(
            name="vae", requested=model.vae, effective=f"SHA-256 {model.vae_digest[:16]}", matches=True,
            reason="it computes in float32 in a float16 pipeline" if upcast else "it computes in the pipeline's dtype",
        )  # fmt: skip
    if model.fill_model is not None and lama is not None:
        yield LedgerEntry(
            name="fill_model", requested=model.fill_model, effective=f"SHA-256 {model.fill_model_digest[:16]}",
            matches=True,
            reason=str(lama),
        )  # fmt: skip


def tiles(vae: Any, working_size: tuple[int, int]) -> int:
    """How many tiles the VAE would decode an image of `working_size` (width, height) in: 1 where its gate stays shut.

    The gate is a strict `>` on the latent's sides, and asks `use_tiling` first (AutoencoderKL._decode, diffusers
    0.42.1).
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    sides = [side // scale for side in working_size]
    if not vae.use_tiling or max(sides) <= vae.tile_latent_min_size:
        return 1
    stride = int(vae.tile_latent_min_size * (1 - vae.tile_overlap_factor))
    return len(range(0, sides[0], stride)) * len(range(0, sides[1], stride))


def _modules(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, name, None)
        if module is not None:
            yield name, module


def _flag(requested: bool, effective: bool, why_not: str = "") -> _Finding:
    return _Finding(shown(effective), requested == effective, why_not or "another call has changed it")


def _dtype(pipe: Any, tuning: Tuning) -> _Finding:
    held: dict[str, set[str]] = {}
    for name, module in _modules(pipe):
        for value in module.parameters():
            held.setdefault(str(value.dtype).removeprefix("torch."), set()).add(name)
    names = ", ".join(f"{dtype} ({' '.join(sorted(parts))})" for dtype, parts in sorted(held.items()))
    effective = next(iter(held)) if len(held) == 1 else names
    upcast = bool(pipe.vae.config.force_upcast) and tuning.dtype == "float16"
    note = "the VAE computes in float32 (its force_upcast)" if upcast else ""
    return _Finding(effective, effective == tuning.dtype, "parts of the pipeline hold another dtype", note)


def _processors(module: torch.nn.Module) -> Counter[str]:
    """How many of the module's attention layers run which processor class."""
    return Counter(type(layer.processor).__name__ for layer in module.modules() if isinstance(layer, Attention))


def _kind(processors: Counter[str]) -> str:
    kinds: Counter[str] = Counter()
    for name, count in processors.items():
        kinds[_KINDS.get(name, name)] += count
    return next(iter(kinds)) if len(kinds) == 1 else ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _attention(pipe: Any, tuning: Tuning) -> _Finding:
    processors, vae = _processors(pipe.unet), _processors(pipe.vae)
    effective = _kind(processors)
    kernel = kernel_in_use(pipe.unet, tuning.attention, pipe._execution_device) if effective == "sdpa" else ""
    classes = ", ".join(f"{count} {name}" for name, count in processors.most_common())
    note = f"UNet: {classes}; VAE: {_kind(vae)}" + (f"; PyTorch takes {kernel}" if kernel else "")
    why_not = "the last call that set processors won"
    if tuning.attention.startswith("sdpa-") and kernel:
        effective, why_not = kernel, "PyTorch has no such kernel for this device and dtype"
    return _Finding(effective, tuning.attention in ("default", effective), why_not, note)


def _slicing(pipe: Any, tuning: Tuning) -> _Finding:
    processors = _processors(pipe.unet)
    sliced, total = processors["SlicedAttnProcessor"], sum(processors.values())
    requested = tuning.attention_slicing or tuning.attention == "sliced"
    effective = "on" if sliced == total else "off" if sliced == 0 else f"on in {sliced} of {total} layers"
    why_not = (
        f"the {_kind(processors)} processors replace it: the last call wins" if requested else "another call has set it"
    )
    return _Finding(effective, effective == shown(requested), why_not)


def _tiling(vae: Any, tuning: Tuning, working_size: tuple[int, int]) -> _Finding:
    count = tiles(vae, working_size)
    width, height = working_size
    size = f"{width}x{height}"
    if count > 1:
        note = f"{count} tiles at {size}"
        return _Finding("on", tuning.vae_tiling, "another call has set it", note, {"tiles": count})
    why_not = "another call has switched it off"
    if vae.use_tiling:
        why_not = f"idle at {size}: tiles start above {vae.tile_sample_min_size} pixels a side"
    return _Finding("off", not tuning.vae_tiling, why_not, measured={"tiles": 1})


def _tile_size(vae: Any, tuning: Tuning) -> _Finding:
    held = int(vae.tile_sample_min_size)
    own = int(vae.config.sample_size)
    matches = held == (tuning.vae_tile_size or own)
    return _Finding("default" if held == own and tuning.vae_tile_size is None else str(held), matches,
                    "another call has changed it", f"{held} pixels")  # fmt: skip


def _channels_last(pipe: Any, tuning: Tuning) -> _Finding:
    """Only kernels whose two layouts differ can tell: more than one input channel and more than one tap."""
    telling = last = 0
    for name, module in _modules(pipe):
        for layer in module.modules() if name in ("unet", "vae") else ():
            if isinstance(layer, torch.nn.Conv2d) and layer.weight.shape[1] > 1 and layer.weight[0, 0].numel() > 1:
                telling += 1
                last += layer.weight.is_contiguous(memory_format=torch.channels_last)
    effective = "on" if telling and last == telling else "off" if last == 0 else f"on in {last} of {telling} kernels"
    return _Finding(effective, effective == shown(tuning.channels_last), "the kernels are in another order")


def _fused(pipe: Any, tuning: Tuning) -> _Finding:
    processors = _processors(pipe.unet)
    fused, total = processors["FusedAttnProcessor2_0"], sum(processors.values())
    effective = "on" if fused == total else "off" if fused == 0 else f"on in {fused} of {total} layers"
    return _Finding(effective, effective == shown(tuning.fuse_qkv), "the processors set are not the fused ones")


def _compiled(pipe: Any, tuning: Tuning) -> _Finding:
    count = sum(compiled.is_wrapped(module) for module in pipe.unet.modules())
    whole = compiled.is_wrapped(pipe.unet)
    effective = "off" if count == 0 else "regional" if not whole else "whole UNet"
    if whole and tuning.compile in ("reduce-overhead", "max-autotune"):
        effective = tuning.compile
    measured = {"wrapped_modules": float(count)} | compiled.figures() if count else {}
    note = f"{count} modules wrapped; compiled graphs are kept in {os.environ.get(compiled.VARIABLE) or 'no cache'}"
    note = note if count else ""
    return _Finding(effective, effective == tuning.compile, "the UNet is not wrapped so", note, measured)


def _offload(pipe: Any, tuning: Tuning) -> _Finding:
    unet = pipe.unet
    effective = "none"
    hooks = {type(hook).__name__ for hook in (getattr(module, "_hf_hook", None) for module in unet.modules()) if hook}
    registry = (getattr(module, "_diffusers_hook", None) for module in unet.modules())
    if any(hook is not None and hook.get_hook("group_offloading") is not None for hook in registry):
        effective = "group"
    elif "CpuOffload" in hooks:
        effective = "model"
    elif hooks & {"AlignDevicesHook", "SequentialHook"}:
        effective = "sequential"
    places = " ".join(sorted({str(value.device) for value in unet.parameters()}))
    return _Finding(effective, effective == tuning.offload, "its hooks are not there", f"UNet on {places}")


def _batch(tuning: Tuning, largest: int | None, limit: int | None) -> _Finding:
    asked = tuning.batch_size
    if limit is not None and limit < asked:
        return _Finding(str(limit), False, "memory allowed no more: batches were made smaller")
    if largest is None:
        return _Finding(str(asked), True, note="nothing painted yet")
    if largest < asked:
        note = f"at most {largest} rows of one size and one setting waited together; memory cut nothing"
        return _Finding(str(largest), True, note=note)
    return _Finding(str(largest), True)


def _encoders(pipe: Any, tuning: Tuning, prompts_done: bool) -> _Finding:
    held = pipe.text_encoder is not None or pipe.text_encoder_2 is not None
    if not held:
        return _Finding("on", tuning.release_text_encoders, "the engine has released them",
                        "all prompts were encoded first")  # fmt: skip
    if tuning.release_text_encoders and not prompts_done:
        return _Finding("held", True, note="prompts are not all encoded yet")
    return _Finding("off", not tuning.release_text_encoders, "they are still held")
