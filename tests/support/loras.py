"""LoRAs for a model, with random weights, in the key layouts that trainers write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.support.single_files import unet_name

UNET_LAYERS = ("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj", "proj_in")
TEXT_LAYERS = ("self_attn.q_proj", "mlp.fc1")
RANK = 2


def layers(module: Any, endings: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Names of a module's linear layers that end so, with what they take and give."""
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.endswith(endings)
    }


def matrices(pipe: Any, *, seed: int, texts: bool, size: float = 0.3) -> dict[str, dict[str, torch.Tensor]]:
    """For each part of `pipe` and each layer its down and up matrices, one above the other: `<layer>.down`, `.up`."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for part in ("unet", "text_encoder", "text_encoder_2") if texts else ("unet",):
        endings = UNET_LAYERS if part == "unet" else TEXT_LAYERS
        found[part] = {}
        for name, (takes, gives) in layers(getattr(pipe, part), endings).items():
            found[part][f"{name}.down"] = torch.randn(RANK, takes, generator=generator) * size
            found[part][f"{name}.up"] = torch.randn(gives, RANK, generator=generator) * size
    return found


def write(pipe: Any, path: Path, layout: str, *, seed: int = 1, texts: bool = False, alpha: float = RANK) -> Path:
    """A LoRA for `pipe`: `diffusers` (with peft's names), `kohya` (diffusers' blocks) or `kohya-sgm` (the original
    UNet's). The same seed gives the same change of the model in each; alpha (kohya's) scales it by alpha / rank.
    """
    tensors: dict[str, torch.Tensor] = {}
    names = {"down": ("lora_A", "lora_down"), "up": ("lora_B", "lora_up")}
    for part, held in matrices(pipe, seed=seed, texts=texts).items():
        for key, value in held.items():
            layer, _, which = key.rpartition(".")
            if part != "unet" and not layer.startswith("text_model."):
                layer = f"text_model.{layer}"  # transformers 5.6 has flattened one encoder; files keep the old names
            if layout == "diffusers":
                tensors[f"{part}.{layer}.{names[which][0]}.weight"] = value
                continue
            prefix = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[part]
            if layout == "kohya-sgm" and part == "unet":
                layer = unet_name(layer, pipe.unet.config.layers_per_block)
            stem = f"{prefix}_{layer.replace('.', '_')}"
            tensors[f"{stem}.{names[which][1]}.weight"] = value
            tensors[f"{stem}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, path, {"format": "pt"})
    return path
