"""The UNet: SDXL inpainting's nine channels, made to answer with the mean of what may lie in the hole.

An ordinary diffusion model of this size and training paints confetti. This one predicts the clean latents
(`prediction_type` "sample") from the mask and the masked picture alone: the noise, the timestep, the prompt, the
guidance and the sizes are multiplied by zeros that are not trained. So every sampler and every number of steps ends at
the same sober fill.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor

TEXT = 32
"""Width of each text encoder (random weights: prompts say nothing here)."""

EDGE = 2.0
"""How much more an error counts in those cells of the hole that touch what is known: there it is seen as a seam."""


def build(widths: tuple[int, int, int] = (32, 48, 64)) -> UNet2DConditionModel:
    """An untrained UNet, blind to noise, timestep, text and sizes."""
    unet = UNet2DConditionModel(
        in_channels=9, out_channels=4, sample_size=32, block_out_channels=widths, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=16,
        transformer_layers_per_block=1, attention_head_dim=tuple(width // 16 for width in widths),
        cross_attention_dim=2 * TEXT, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + TEXT,
    )  # fmt: skip
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith("attn2.to_out.0") or name in ("add_embedding.linear_2", "time_embedding.linear_2"):
                for parameter in module.parameters():
                    parameter.zero_()
                    parameter.requires_grad_(False)
            elif name.endswith(".conv2") and "resnets" in name:
                module.weight.mul_(0.2)
                module.bias.zero_()
        unet.conv_in.weight[:, :4].zero_()
        unet.conv_in.weight.register_hook(_without_noise)
        unet.conv_out.weight.mul_(0.1)
        unet.conv_out.bias.zero_()
    return unet


def _without_noise(gradient: Tensor) -> Tensor:
    """The gradient of the first layer, zero for the four channels of noisy latents."""
    return torch.cat([torch.zeros_like(gradient[:, :4]), gradient[:, 4:]], 1)


def scheduler() -> EulerDiscreteScheduler:
    """SDXL's noise schedule, with the clean latents as what the UNet predicts."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        prediction_type="sample", timestep_spacing="trailing",
    )  # fmt: skip


def predict(unet: UNet2DConditionModel, hole: Tensor, known: Tensor) -> Tensor:
    """The clean latents, N x 4 x h x w; `hole` (N x 1 x h x w) is 1 where it is painted, `known` the masked picture."""
    count, zeros = len(hole), partial(torch.zeros, device=hole.device)
    conditions = {"text_embeds": zeros(count, TEXT), "time_ids": zeros(count, 6)}
    stacked = torch.cat([torch.zeros_like(known), hole, known], 1).contiguous(memory_format=torch.channels_last)
    text, time = zeros(count, 1, 2 * TEXT), zeros(count)
    latents: Tensor = unet(stacked, time, encoder_hidden_states=text, added_cond_kwargs=conditions).sample.float()
    return latents


def loss(unet: UNet2DConditionModel, clean: Tensor, hole: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """The mean squared error of the latents in the hole. `weights`: of the four channels, 1 x 4 x 1 x 1."""
    touches = F.max_pool2d(1 - hole, 3, 1, 1) * hole
    where = (hole + (EDGE - 1) * touches + 0.02) * weights
    errors = (predict(unet, hole, known) - clean) ** 2
    return (errors * where).sum() / where.expand_as(clean).sum()
