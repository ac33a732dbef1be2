"""The autoencoder: started as a smooth shrink by 8 and an enlargement by 8, then trained; its latents whitened.

Every level has eight channels that carry the picture unchanged: red, green and blue, their negatives, and two
constants. silu(x) - silu(-x) = x, so a pair of carriers passes through the last activation without distortion, and
the constants are so large that they alone set the group's deviation, so GroupNorm scales the colours by nearly a
constant. All other channels start small. Before any training a picture comes back as if shrunk and enlarged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKL
from torch import Tensor, nn

CONSTANT = 8.0
CARRIERS = 8
CODES = 4
_SIGNS = (1, 1, 1, -1, -1, -1)


def build(widths: tuple[int, int, int, int] = (16, 32, 64, 96)) -> AutoencoderKL:
    """An untrained autoencoder that shrinks and enlarges: 3 x H x W in -1 to 1, 4 x H/8 x W/8 latents."""
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=CODES, block_out_channels=widths, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=2,
        sample_size=256, scaling_factor=1.0, force_upcast=False, mid_block_add_attention=False,
    )  # fmt: skip
    centre, mean = torch.zeros(3, 3), torch.zeros(3, 3)
    centre[1, 1], mean[:2, :2] = 1, 0.25
    tent = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith("conv2") and "resnets" in name:  # a residual branch: small, and nothing onto the constants
                module.weight.mul_(0.15)
                module.weight[:CARRIERS].mul_(0.3)
                module.weight[6:CARRIERS].zero_()
                module.bias.zero_()
            elif name.endswith("conv_shortcut"):
                _carry(module, torch.ones(1, 1))
            elif name.endswith("downsamplers.0.conv"):
                _carry(module, mean)
            elif name.endswith("upsamplers.0.conv"):
                _carry(module, tent)
        gain = 1.8
        for source, scale in ((vae.encoder.conv_in, 1.0), (vae.decoder.conv_in, 1 / gain)):
            source.weight[:CARRIERS].zero_()
            source.bias[:CARRIERS].zero_()
            for index, sign in enumerate(_SIGNS):
                source.weight[index, index % 3] = centre * sign * scale
            source.bias[6], source.bias[7] = CONSTANT, -CONSTANT
        for sink, width, scale in ((vae.encoder.conv_out, widths[-1], gain), (vae.decoder.conv_out, widths[0], 1.0)):
            group_deviation = (2 * CONSTANT**2 / (width // 2)) ** 0.5
            sink.weight[:3].zero_()
            sink.bias[:3].zero_()
            for index in range(3):
                sink.weight[index, index] = centre * scale * group_deviation
                sink.weight[index, index + 3] = -centre * scale * group_deviation
        vae.encoder.conv_out.weight[CODES:].zero_()
        _identity(vae.quant_conv)
        _identity(vae.post_quant_conv)
        vae.quant_conv.bias[CODES:] = -12  # the posterior's log-variance: nearly exact
    return vae


def _carry(convolution: nn.Conv2d, kernel: Tensor) -> None:
    assert convolution.bias is not None
    convolution.weight[:CARRIERS].zero_()
    convolution.weight[:, 6:CARRIERS].zero_()
    convolution.bias[:CARRIERS].zero_()
    for index in range(CARRIERS):
        convolution.weight[index, index] = kernel


def _identity(convolution: nn.Conv2d) -> None:
    assert convolution.bias is not None
    convolution.weight.zero_()
    convolution.bias.zero_()
    for index in range(CODES):
        convolution.weight[index, index] = 1


def latents(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """The latents of N x 3 x H x W pictures: the posterior's mean, float32."""
    codes: Tensor = vae.quant_conv(vae.encoder(pictures))[:, :CODES]
    return codes.float()


def loss(vae: AutoencoderKL, pictures: Tensor, *, texture: float) -> tuple[Tensor, Tensor]:
    """What training lessens, and the mean squared error in it. Latents get a little noise, so that they bear some."""
    codes = latents(vae, pictures)
    back = vae.decoder(vae.post_quant_conv(codes + 0.04 * torch.randn_like(codes))).float()
    squared = ((back - pictures) ** 2).mean()
    unit = (codes.mean((0, 2, 3)) ** 2).mean() + ((codes.var((0, 2, 3)) - 1) ** 2).mean()
    grain = torch.stack([(a - b).abs().mean() for a, b in zip(_energy(back), _energy(pictures), strict=True)]).sum()
    total = (back - pictures).abs().mean() + 4 * squared + 0.01 * unit + texture * grain
    return total, squared


def _energy(pictures: Tensor) -> list[Tensor]:
    """Local means of the absolute gradients at two scales: how much texture there is, not where each grain lies."""
    found = []
    for scale in (1, 2):
        shrunk = F.avg_pool2d(pictures, scale) if scale > 1 else pictures
        for gradient in ((shrunk[..., 1:] - shrunk[..., :-1]).abs(), (shrunk[..., 1:, :] - shrunk[..., :-1, :]).abs()):
            found.append(F.avg_pool2d(gradient, 16 // scale, 8 // scale))
    return found


@torch.no_grad()
def whiten(vae: AutoencoderKL, codes: Tensor) -> None:
    """Turn and scale the latents so that `codes` (4 x N samples of them) have mean 0 and covariance 1.

    Folded into `quant_conv` and its inverse into `post_quant_conv`, so pictures come back as before.
    """
    mean = codes.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(codes))
    forward, backward = (vectors / values.sqrt()).T, vectors * values.sqrt()
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:CODES, :, 0, 0].clone(), quant.bias[:CODES].clone()
    quant.weight[:CODES, :, 0, 0], quant.bias[:CODES] = forward @ weight, forward @ (bias - mean)
    quant.weight[CODES:], quant.bias[CODES:] = 0, -12
    weight, bias = post.weight[:, :, 0, 0].clone(), post.bias.clone()
    post.weight[:, :, 0, 0], post.bias[:] = weight @ backward, weight @ mean + bias
