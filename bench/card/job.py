"""The job that is run: photographs with grain, masks, a manifest, and a CLIP model of random weights."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np

SOURCES = 8
"""Different photographs of one size; rows take them in turn."""

_LARGE_CLIP = (
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
     "image_size": 224, "patch_size": 14},
)  # fmt: skip
"""Text and vision configuration of ViT-L/14."""
_SMALL_CLIP = (
    {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
     "image_size": 32, "patch_size": 8},
)  # fmt: skip


def write_job(folder: Path, rows: int, megapixels: float) -> Path:
    """A manifest of `rows` rows of 4:3 JPEGs of `megapixels`, each with a mask of a ninth of it. Its path."""
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4))
    width = height * 4 // 3
    name = f"{megapixels:g}"
    for index in range(SOURCES):
        path = folder / f"{name}-{index}.jpg"
        if path.exists():
            continue
        draw = np.random.default_rng(index)
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photo = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        grain = cv2.resize(draw.normal(0, 4, (512, 512, 3)).astype(np.float32), (width, height))
        pixels = np.clip(photo + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
        mask = np.zeros((height, width), np.uint8)
        mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255
        cv2.imwrite(str(folder / f"{name}-{index}-mask.png"), mask)
    manifest = folder / f"{name}-{rows}.jsonl"
    lines = (
        {"id": f"row-{row:03}", "image": f"{name}-{row % SOURCES}.jpg", "mask": f"{name}-{row % SOURCES}-mask.png",
         "prompt": f"a wooden bench in a garden, photograph {row % 4}"}
        for row in range(rows)
    )  # fmt: skip
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def write_clip(folder: Path, *, large: bool) -> Path:
    """A CLIP model with random weights in `folder`, of ViT-L/14's size or tiny, with a tokenizer of bytes."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from inpaint_ops.model import random_weights

    tokenizer = random_weights.instantiate("tiny-random").tokenizer
    text, vision = _LARGE_CLIP if large else _SMALL_CLIP
    words = {
        "vocab_size": len(tokenizer), "max_position_embeddings": 77, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = CLIPConfig(text_config=text | words, vision_config=vision, projection_dim=text["hidden_size"])
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = CLIPModel(config)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    write_clip(Path(sys.argv[1]), large=sys.argv[2] == "large")
