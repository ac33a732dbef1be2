"""The sizes of the SDXL that this package knows: as data, without torch.

A model with random weights is built by a recipe (`random_weights`). A checkpoint in one file holds no configuration:
it is recognised by the recipe whose shapes it has (`checkpoints`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inpaint_ops.errors import ModelError

VAE_SCALE = 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """The sizes of one model. `unet`, `vae`, `clip_l` and `clip_g` are the constructors' arguments."""

    name: str
    native_size: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    clip_l: Mapping[str, Any]
    clip_g: Mapping[str, Any]


_UNET = {
    "in_channels": 9,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
    "force_upcast": False,
}


def _small(name: str, native: int, unet: tuple[int, int, int], depth: tuple[int, int, int], layers: int,
           vae: tuple[int, int, int, int], groups: int, text: int, text_layers: int) -> Recipe:  # fmt: skip
    """A narrow recipe: heads of 8 channels, both encoders `text` wide, the time embedding of each size 8 wide."""
    clip = {
        "vocab_size": 514, "hidden_size": text, "intermediate_size": 4 * text, "num_hidden_layers": text_layers,
        "num_attention_heads": max(1, text // 32), "projection_dim": text, "bos_token_id": 512, "eos_token_id": 513,
        "pad_token_id": 0,
    }  # fmt: skip
    return Recipe(
        name=name,
        native_size=native,
        unet=_UNET | {
            "sample_size": native // VAE_SCALE, "block_out_channels": unet, "layers_per_block": layers,
            "transformer_layers_per_block": depth, "attention_head_dim": tuple(width // 8 for width in unet),
            "cross_attention_dim": 2 * text, "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + text, "norm_num_groups": groups,
        },
        vae=_VAE | {
            "block_out_channels": vae, "layers_per_block": 1, "norm_num_groups": groups, "sample_size": native // 2,
        },
        clip_l=clip,
        clip_g=clip,
    )  # fmt: skip


RECIPES: dict[str, Recipe] = {
    "tiny-random": _small("tiny-random", 64, (16, 32, 32), (1, 1, 1), 1, (8, 16, 16, 16), 8, 32, 2),
    "mid-random": _small("mid-random", 256, (64, 128, 256), (1, 1, 4), 2, (32, 64, 128, 128), 16, 128, 4),
    "sdxl-random": Recipe(
        # unet/config.json, vae/config.json, text_encoder*/config.json of stable-diffusion-xl-1.0-inpainting-0.1.
        name="sdxl-random",
        native_size=1024,
        unet=_UNET | {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, "norm_num_groups": 32,
        },
        vae=_VAE | {
            "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32,
            "sample_size": 512,
        },
        clip_l={
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu", "bos_token_id": 512,
            "eos_token_id": 513, "pad_token_id": 0,
        },
        clip_g={
            "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
            "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu", "bos_token_id": 512,
            "eos_token_id": 513, "pad_token_id": 0,
        },
    ),
}  # fmt: skip
"""Our models, by the name that a manifest's user writes."""


def recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises ModelError that lists the names."""
    if name not in RECIPES:
        raise ModelError(f"{name!r} is none of our random models: {', '.join(RECIPES)}")
    return RECIPES[name]
