"""LoRAs in a pipeline: loaded once, switched by rows without reloading, or merged into the weights.

diffusers converts the UNet's names and peft holds the matrices. Names of text encoders are matched with the modules
themselves: diffusers 0.42.1 renames the query, key and value of kohya's text encoders to what transformers 5.23 then
leaves out, and says so in a table that it prints. Every scale (alpha / rank) is multiplied into the second matrix, and
ranks below the largest are filled up with zeros, which change nothing.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionXLInpaintPipeline
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from inpaint_ops.errors import ModelError
from inpaint_ops.model.loras import LoraWeights, check_lora
from inpaint_ops.records import LedgerEntry

PARTS = ("unet", "text_encoder", "text_encoder_2")
TEXT_PARTS = PARTS[1:]
_NAMED = 3
"""Layers that an error names, at the most."""

_KOHYA = {"lora_te1_": "text_encoder", "lora_te_": "text_encoder", "lora_te2_": "text_encoder_2"}
_ENDINGS = re.compile(
    r"(?:\.processor)?(?:\.|\.(to_[qkv]|to_out)_)(?:lora|lora_linear_layer)\.(down|up)\.weight$|\.lora_(A|B)\.weight$"
)

Wanted = tuple[tuple[str, float], ...]
"""Names and weights of the LoRAs that a batch is painted with, sorted by name, none of weight 0."""


class Pair(NamedTuple):
    """The two matrices (or convolutions) of one layer: `down` (rank, in, ...), `up` (out, rank, ...), scaled."""

    down: torch.Tensor
    up: torch.Tensor


class Adapters:
    """The LoRAs of one pipeline. Not safe for threads."""

    def __init__(self, pipe: Any, loras: Sequence[LoraWeights]) -> None:
        """Put `loras` into `pipe`, switched off. Raises ModelError for one that does not fit."""
        self._pipe = pipe
        self._loras = tuple(loras)
        self._adapters = {lora.name: f"lora_{index}" for index, lora in enumerate(loras)}  # peft takes no dots
        self._in_texts: set[str] = set()
        self._current: Wanted = ()
        self.layers = 0
        """Layers that a LoRA changes."""
        self.switches = 0
        """How often a batch needed other LoRAs, or other weights, than the one before."""
        self.fused: Wanted | None = None
        """What is merged into the weights; None: nothing is, and batches may switch."""
        for lora in loras:
            for part, pairs in read(lora, pipe).items():
                if pairs:
                    _inject(getattr(pipe, part), self._adapters[lora.name], pairs)
                    self.layers += len(pairs)
                    if part in TEXT_PARTS:
                        self._in_texts.add(lora.name)
        self._apply(())

    @property
    def in_texts(self) -> bool:
        """Whether an unmerged LoRA changes a text encoder, so that texts must be encoded for each set of LoRAs."""
        return bool(self._in_texts) and self.fused is None

    def use(self, wanted: Wanted) -> Wanted:
        """Have the pipeline paint with `wanted`, without LoRAs where it is empty; the part of it that changes the
        text encoders.
        """
        if self.fused is not None:
            return ()
        if wanted != self._current:
            self._apply(wanted)
            self._current = wanted
            self.switches += 1
        return tuple(one for one in wanted if one[0] in self._in_texts)

    def fuse(self, wanted: Wanted) -> None:
        """Merge `wanted` into the weights for good, and drop what is left of the LoRAs."""
        self._apply(wanted)
        for part in PARTS:
            module = getattr(self._pipe, part)
            for layer in _layers(module):
                if here := self._held(layer, wanted):
                    layer.merge(adapter_names=list(here))
            recurse_remove_peft_layers(module)
            for name in ("peft_config", "_hf_peft_config_loaded"):
                if name in module.__dict__:
                    delattr(module, name)
        self.fused = wanted

    def inspect(self) -> LedgerEntry:
        """What is loaded, and how it takes effect, read off the pipeline."""
        held = sum(1 for part in PARTS for _ in _layers(getattr(self._pipe, part, None)))
        requested = ", ".join(f"{lora.name} {lora.weight:g}" for lora in self._loras)
        if self.fused is not None:
            effective, matches, reason = "merged into the weights", held == 0, "no row names LoRAs of its own"
        else:
            effective, matches, reason = "switched", held > 0, "rows name LoRAs of their own"
        measured = {"layers": float(self.layers), "switches": float(self.switches)}
        return LedgerEntry(
            name="loras", requested=requested, effective=effective, matches=matches, reason=reason, measured=measured
        )

    def _apply(self, wanted: Wanted) -> None:
        for part in PARTS:
            for layer in _layers(getattr(self._pipe, part, None)):
                here = self._held(layer, wanted)
                layer.enable_adapters(bool(here))
                if here:
                    layer.set_adapter(list(here), inference_mode=True)
                    for adapter, weight in here.items():
                        layer.set_scale(adapter, weight)

    def _held(self, layer: LoraLayer, wanted: Wanted) -> dict[str, float]:
        """Those of `wanted` that change this layer, as peft calls them, with their weights."""
        named = {self._adapters[name]: weight for name, weight in wanted}
        return {adapter: weight for adapter, weight in named.items() if adapter in layer.lora_A}


def read(lora: LoraWeights, pipe: Any) -> dict[str, dict[str, Pair]]:
    """For each part of `pipe` the matrices of the LoRA, by the layer's name in that part.

    Raises ModelError that names the layers that the model does not have, or has in another shape.
    """
    header = check_lora(lora.path)
    with safe_open(lora.path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).float() for name in header.tensors}
    tensors = _with_scales(tensors)
    check_finite(lora, tensors)
    renamed, unknown = _renamed(lora, tensors, pipe)
    _scale_by_metadata(renamed, header.notes)
    found: dict[str, dict[str, Pair]] = {part: {} for part in PARTS}
    for (part, layer), pair in renamed.items():
        if len(pair) != 2:
            raise ModelError(f"the LoRA {lora.path} has one matrix of {part}.{layer}, not both: it is not whole")
        found[part][layer] = Pair(pair["down"], pair["up"])
    _check_fit(lora, pipe, found, unknown)
    return found


def check_finite(lora: LoraWeights, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError for NaN or infinity in a matrix: every image would be NaN."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"the LoRA {lora.path} has NaN or infinity in {name}: it is damaged; fetch it again")


def _with_scales(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The matrices, each layer's `alpha` / rank multiplied into its second one."""
    found = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
    for name, value in tensors.items():
        if not name.endswith(".alpha"):
            continue
        stem = name.removesuffix("alpha")
        downs = [f"{stem}{end}" for end in ("lora_down.weight", "lora_A.weight", "down.weight") if stem + end in found]
        ups = [f"{stem}{end}" for end in ("lora_up.weight", "lora_B.weight", "up.weight") if stem + end in found]
        if downs and ups:
            found[ups[0]] = found[ups[0]] * (float(value) / found[downs[0]].shape[0])
    return found


def _renamed(
    lora: LoraWeights, tensors: Mapping[str, torch.Tensor], pipe: Any
) -> tuple[dict[tuple[str, str], dict[str, torch.Tensor]], list[str]]:
    """By part and layer the matrices, as diffusers and transformers call the layers; and names that mean nothing."""
    flat = {part: _flat_names(getattr(pipe, part)) for part in TEXT_PARTS}
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    unknown: list[str] = []
    rest: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        prefix = next((one for one in _KOHYA if name.startswith(one)), None)
        if prefix is None:
            rest[name] = value
            continue
        stem, _, ending = name.removeprefix(prefix).partition(".")
        part = _KOHYA[prefix]
        layer = flat[part].get(stem)
        which = {"lora_down.weight": "down", "lora_up.weight": "up"}.get(ending)
        if layer is None or which is None:
            unknown.append(name)
        else:
            _add(lora, found, (part, layer), which, value)
    for name, value in _converted(lora, rest, pipe).items():
        part = next((one for one in sorted(PARTS, reverse=True) if name.startswith(f"{one}.")), "")
        match = _ENDINGS.search(name)
        if not part or match is None:
            unknown.append(name)
            continue
        layer = name[len(part) + 1 : match.start()]
        if old := match[1]:  # diffusers' old attention processors
            layer += ".to_out.0" if old == "to_out" else f".{old}"
        if part in TEXT_PARTS:
            flattened = layer.replace(".", "_").replace("to_out_0", "out_proj").removeprefix("text_model_")
            layer = flat[part].get(re.sub(r"_to_([qkv])$", r"_\1_proj", flattened), layer)
        _add(lora, found, (part, layer), "down" if (match[2] or match[3]) in ("down", "A") else "up", value)
    return found, unknown


def _add(
    lora: LoraWeights,
    found: dict[tuple[str, str], dict[str, torch.Tensor]],
    layer: tuple[str, str],
    which: str,
    value: torch.Tensor,
) -> None:
    """Raises ModelError where the file has the matrix already, under another of the layer's names."""
    pair = found.setdefault(layer, {})
    if which in pair:
        raise ModelError(
            f"the LoRA {lora.path} has two matrices for {'.'.join(layer)}, under two names: it was put together from "
            "files of two layouts; use one of them"
        )
    pair[which] = value


def _converted(lora: LoraWeights, tensors: dict[str, torch.Tensor], pipe: Any) -> dict[str, torch.Tensor]:
    """The names as diffusers has them. Raises ModelError for names that it does not know."""
    if not tensors:
        return {}
    try:
        converted, _ = StableDiffusionXLInpaintPipeline.lora_state_dict(dict(tensors), unet_config=pipe.unet.config)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"the LoRA {lora.path} is of no layout that is read (diffusers', kohya's): {text}") from error
    found: dict[str, torch.Tensor] = converted
    return found


def _flat_names(module: torch.nn.Module) -> dict[str, str]:
    """A module's layers as kohya's trainer names them, with `_` for `.` and as if none were wrapped; to their names."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear | LoraLayer)]
    flat = {name.removeprefix("text_model.").replace(".", "_"): name for name in names if ".base_layer" not in name}
    return flat | {f"text_model_{name}": layer for name, layer in flat.items()}


def _scale_by_metadata(pairs: Mapping[tuple[str, str], dict[str, torch.Tensor]], notes: Mapping[str, str]) -> None:
    """Multiply what `save_lora_weights` of diffusers notes of alphas in the file's header into the second matrices."""
    try:
        noted = json.loads(notes.get("lora_adapter_metadata") or "{}")
    except ValueError:
        noted = {}
    if not isinstance(noted, dict):
        return
    for (part, layer), pair in pairs.items():
        alpha = noted.get(f"{part}.lora_alpha")
        if alpha is None or len(pair) != 2:
            continue
        patterns = noted.get(f"{part}.alpha_pattern") or {}
        alpha = next((value for key, value in patterns.items() if re.search(rf"(^|\.){key}$", layer)), alpha)
        rank = pair["down"].shape[0]
        pair["up"] = pair["up"] * (float(alpha) / (rank**0.5 if noted.get(f"{part}.use_rslora") else rank))


def _check_fit(lora: LoraWeights, pipe: Any, found: Mapping[str, Mapping[str, Pair]], unknown: Sequence[str]) -> None:
    strange = list(unknown)
    for part, pairs in found.items():
        modules = dict(getattr(pipe, part).named_modules())
        for layer, pair in pairs.items():
            module = modules.get(layer)
            module = module.base_layer if isinstance(module, LoraLayer) else module
            weight = getattr(module, "weight", None)
            if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d) or weight is None:
                strange.append(f"{part}.{layer}")
                continue
            fits = (
                pair.up.shape[0] == weight.shape[0]
                and pair.down.shape[1] == weight.shape[1]
                and pair.up.shape[1] == pair.down.shape[0]
                and pair.down.ndim == pair.up.ndim == weight.ndim
            )
            if not fits:
                strange.append(
                    f"{part}.{layer} ({pair.down.shape[1]} to {pair.up.shape[0]}, the model's has "
                    f"{weight.shape[1]} to {weight.shape[0]})"
                )
    if strange:
        more = f" and {len(strange) - _NAMED:,} more" if len(strange) > _NAMED else ""
        raise ModelError(
            f"the LoRA {lora.path} does not fit the model: {', '.join(strange[:_NAMED])}{more}; use one that was "
            "trained for SDXL"
        )
    if not any(found.values()):
        raise ModelError(f"the LoRA {lora.path} changes no layer: fetch it again, or use another")


def _inject(module: torch.nn.Module, adapter: str, pairs: Mapping[str, Pair]) -> None:
    """Put the matrices beside their layers, on the layers' device and in their dtype."""
    rank = max(pair.down.shape[0] for pair in pairs.values())
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(pairs), init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*peft_config.*")  # several in one model are what is wanted
        inject_adapter_in_model(config, module, adapter_name=adapter, low_cpu_mem_usage=True)
    modules = dict(module.named_modules())
    for layer, pair in pairs.items():
        wrapped = modules[layer]
        weight = wrapped.base_layer.weight
        lacking = rank - pair.down.shape[0]
        down = torch.cat([pair.down, pair.down.new_zeros(lacking, *pair.down.shape[1:])])
        up = torch.cat([pair.up, pair.up.new_zeros(pair.up.shape[0], lacking, *pair.up.shape[2:])], 1)
        for holder, value in ((wrapped.lora_A, down), (wrapped.lora_B, up)):
            holder[adapter].weight = torch.nn.Parameter(value.to(weight.device, weight.dtype), requires_grad=False)


def _layers(module: torch.nn.Module | None) -> Iterator[LoraLayer]:
    if module is not None:
        yield from (layer for layer in module.modules() if isinstance(layer, LoraLayer))
