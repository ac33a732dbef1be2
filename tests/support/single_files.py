"""Models in one file, in the layout of Stability AI's own code: written here from a diffusers pipeline.

The inverse of diffusers' conversion (loaders/single_file_utils.py), and written apart from it: by the names that such
files have, which diffusers' scripts/convert_diffusers_to_original_sdxl.py lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inpaint_ops.model.own_models import MARKER

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def write(pipe: Any, path: Path, *, prefix_vae: str = "first_stage_model.", **notes: str) -> Path:
    """Write `pipe` as one file, marked as random weights, with the notes of a real one's kind."""
    tensors = dict(original(pipe, prefix_vae=prefix_vae))
    save_file(tensors, path, {"format": "pt", MARKER: "yes", **notes})
    return path


def original(pipe: Any, *, prefix_vae: str = "first_stage_model.") -> Iterator[tuple[str, torch.Tensor]]:
    """All weights of `pipe` under the names that a single file has."""
    for name, value in unet(pipe.unet).items():
        yield f"model.diffusion_model.{name}", value
    for name, value in vae(pipe.vae).items():
        yield f"{prefix_vae}{name}", value
    for name, value in pipe.text_encoder.state_dict().items():
        yield f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}", value
    for name, value in open_clip(pipe.text_encoder_2.state_dict()).items():
        yield f"conditioner.embedders.1.model.{name}", value
    yield "denoiser.sigmas", torch.ones(1000)  # real files have it; nothing reads it


def unet_name(name: str, layers: int) -> str:
    """The original name of a UNet's weight; `layers` is its layers per block."""
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    kind, index, what, layer, rest = re.fullmatch(  # type: ignore[union-attr]
        r"(down_blocks|up_blocks|mid_block)\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    ).groups()
    at, block = int(layer), int(index or 0)
    if what == "resnets":
        part, dot, end = rest.partition(".")
        rest = _RESNET[part] + dot + end
    if kind == "mid_block":
        return f"middle_block.{2 * at if what == 'resnets' else 2 * at + 1}.{rest}"
    if kind == "down_blocks":
        first = 1 + block * (layers + 1)
        if what == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{first + at}.{0 if what == 'resnets' else 1}.{rest}"
    first = block * (layers + 1)
    if what == "upsamplers":
        return f"output_blocks.{first + layers}.2.{rest}"  # behind a resnet and an attention
    return f"output_blocks.{first + at}.{0 if what == 'resnets' else 1}.{rest}"


def unet(module: Any) -> Tensors:
    """A UNet's weights under the original names."""
    layers = module.config.layers_per_block
    return {unet_name(name, layers): value for name, value in module.state_dict().items()}


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae(module: Any) -> Tensors:
    """A VAE's weights under the original names; its attention was one of convolutions."""
    levels = len(module.config.block_out_channels)
    found: Tensors = {}
    for name, value in module.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0." in new:
            for ours, theirs in _ATTENTION.items():
                new = new.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[new] = value.contiguous()
    return found


def open_clip(weights: Mapping[str, torch.Tensor]) -> Tensors:
    """The second text encoder's weights as OpenCLIP has them: one projection for query, key and value."""
    found: Tensors = {}
    for name, value in weights.items():
        short = name.removeprefix("text_model.")
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", short):
            three = [weights[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            found[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(three)
            continue
        if re.search(r"self_attn\.[kv]_proj", short):
            continue
        if short == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
            continue
        for ours, theirs in (
            ("embeddings.position_embedding.weight", "positional_embedding"),
            ("embeddings.token_embedding.weight", "token_embedding.weight"), ("final_layer_norm", "ln_final"),
            ("encoder.layers.", "transformer.resblocks."), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
            (".fc1.", ".c_fc."), (".fc2.", ".c_proj."), (".self_attn.", ".attn."), ("mlp.", "mlp."),
        ):  # fmt: skip
            short = short.replace(ours, theirs)
        found[short] = value
    found["logit_scale"] = torch.tensor(4.6)
    return found


def plain(pipe: Any, *, seed: int = 3) -> Any:
    """`pipe` with a UNet of 4 input channels, as plain SDXL has."""
    generator = torch.Generator().manual_seed(seed)
    was = pipe.unet.conv_in
    conv = torch.nn.Conv2d(4, was.out_channels, 3, padding=1)
    with torch.no_grad():
        conv.weight.normal_(0.0, 0.1, generator=generator)
        conv.bias.zero_()  # type: ignore[union-attr]
    pipe.unet.conv_in = conv
    pipe.unet.register_to_config(in_channels=4)
    return pipe
