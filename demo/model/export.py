"""The trained parts as a diffusers folder in float16 with its digests: what `--model demo` paints with."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from demo.model import inpainter
from inpaint_ops.model.digests import write_known
from inpaint_ops.model.random_weights import byte_tokenizer

CARD = "README.md"


def assemble(vae: AutoencoderKL, unet: UNet2DConditionModel) -> StableDiffusionXLInpaintPipeline:
    """The whole pipeline: the two trained parts, and text encoders that nothing was taught."""
    text = CLIPTextConfig(
        vocab_size=514, hidden_size=inpainter.TEXT, intermediate_size=2 * inpainter.TEXT, num_hidden_layers=2,
        num_attention_heads=1, projection_dim=inpainter.TEXT, bos_token_id=512, eos_token_id=513, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return StableDiffusionXLInpaintPipeline(
        vae=vae, unet=unet, text_encoder=CLIPTextModel(text), text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=byte_tokenizer("<|endoftext|>"), tokenizer_2=byte_tokenizer("!"), scheduler=inpainter.scheduler(),
    )  # fmt: skip


def export(trained: Path, folder: Path) -> Path:
    """Write the model trained in `trained` (its `vae` and `unet`) to `folder`, which is replaced; its card stays.

    The weights are rounded to float16: under 5 MB.
    """
    pipeline = assemble(
        AutoencoderKL.from_pretrained(trained / "vae"), UNet2DConditionModel.from_pretrained(trained / "unet")
    )
    pipeline.to(torch.float16)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "model"
        pipeline.save_pretrained(made, safe_serialization=True, variant="fp16")
        for weights in made.rglob("*.safetensors"):
            weights.chmod(0o644)  # safetensors gives them to their owner alone
        write_known(made)
        if (folder / CARD).exists():
            shutil.copy(folder / CARD, made / CARD)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder
