"""CLIP models as transformers saves them: tiny, of random weights or of one known score, with a tokenizer of bytes."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from inpaint_ops.model import random_weights

SIDE = 32
TOKENS = 77


def write(folder: Path, *, seed: int = 0, cosine: float | None = None, vocabulary: int | None = None) -> Path:
    """A model that sees 32 x 32 pixels. `cosine`: the score that it gives to every picture and text."""
    tokenizer = random_weights.instantiate("tiny-random").tokenizer
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {
        "vocab_size": len(tokenizer) if vocabulary is None else vocabulary, "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=size | words, vision_config=size | {"image_size": SIDE, "patch_size": 8}, projection_dim=16
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    if cosine is not None:
        with torch.no_grad():
            _say_always(model.vision_model.post_layernorm, model.visual_projection, 1.0, 0.0)
            rest = math.sqrt(1 - cosine**2)
            _say_always(model.text_model.final_layer_norm, model.text_projection, cosine, rest)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


def _say_always(norm: torch.nn.LayerNorm, projection: torch.nn.Linear, first: float, second: float) -> None:
    """The embedding is (first, second, 0, 0 ...) whatever comes."""
    norm.weight.zero_()
    norm.bias.zero_()
    norm.bias[0] = 1
    projection.weight.zero_()
    projection.weight[0, 0], projection.weight[1, 0] = first, second
