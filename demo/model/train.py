"""Make the demo's checkpoint from nothing: `python -m demo.model.train FOLDER`. It goes on where it was stopped.

Stages: the autoencoder, then the UNet, each for a number of the processor's seconds; then the export into the package.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from demo.model import autoencoder, inpainter
from demo.model.examples import Pictures
from demo.model.export import export
from inpaint_ops.model.own_models import demo_folder


class Averaged:
    """An exponential moving average of a module's parameters, which is what is kept of a training."""

    def __init__(self, module: nn.Module, keep: float) -> None:
        """`keep` is what remains of the average at each step, once training has gone on for a while."""
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self.parameters]
        self.keep = keep

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the module's present parameters in."""
        keep = min(self.keep, step / (step + 20))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's parameters and their average."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data, value.data = value.data, parameter.data


def clock(seconds: float, begun: float) -> Iterator[tuple[int, float]]:
    """Steps and the share of the processor's time that has gone, until it is over; `begun` seconds went before.

    The processor's own time, not the wall's: on a machine that does other work too, training takes longer and not less.
    """
    start, step = time.process_time() - begun, 0
    while (gone := time.process_time() - start) < seconds:
        step += 1
        yield step, gone / seconds


def cosine(peak: float, step: int, share: float) -> float:
    """A learning rate that warms up for 100 steps and falls to 3 % of its peak."""
    return peak * min(1.0, step / 100) * (0.03 + 0.97 * (1 + math.cos(math.pi * share)) / 2)


def train_autoencoder(folder: Path, pictures: Pictures, seconds: float) -> AutoencoderKL:
    """Train the autoencoder, whiten its latents, and keep it in `folder`/vae."""
    done = folder / "vae"
    if done.exists():
        return AutoencoderKL.from_pretrained(done)
    vae = autoencoder.build((16, 32, 48, 64)).to(memory_format=torch.channels_last)
    vae.quant_conv.requires_grad_(False)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-4, betas=(0.9, 0.99), weight_decay=1e-4)
    average, state, begun = Averaged(vae, 0.995), folder / "vae.partial.pt", 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        vae.load_state_dict(kept["vae"])
        optimizer.load_state_dict(kept["optimizer"])
        average.values, begun = kept["average"], kept["seconds"]
    errors: list[float] = []
    for step, share in clock(seconds, begun):
        for group in optimizer.param_groups:
            group["lr"] = cosine(6e-4, step, share)
        batch = pictures.batch(8, 128).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss, squared = autoencoder.loss(vae, batch, texture=0.15 * share)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(step)
        errors.append(squared.item() / 4)
        if step % 100 == 0:
            print(
                f"autoencoder {share:.0%} step {step} PSNR {-10 * math.log10(np.mean(errors[-100:])):.2f}", flush=True
            )
        if step % 100 == 0:
            torch.save(
                {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values,
                 "seconds": share * seconds}, state,
            )  # fmt: skip
    average.swap()
    vae.eval()
    with torch.no_grad():
        codes = torch.cat([autoencoder.latents(vae, pictures.batch(16, 128)) for _ in range(12)])
    autoencoder.whiten(vae, codes.transpose(0, 1).reshape(autoencoder.CODES, -1))
    vae.save_pretrained(done)
    return vae


class Examples:
    """Latents of crops, of the same crops with a hole, and the holes: made anew a few at each step."""

    def __init__(self, vae: AutoencoderKL, pictures: Pictures, size: int, keep: int) -> None:
        """Make `keep` examples of `size` pixels."""
        self.vae, self.pictures, self.size = vae, pictures, size
        parts = [self._make(32) for _ in range(keep // 32)]
        self.clean, self.known, self.hole = (torch.cat(part) for part in zip(*parts, strict=True))
        self._next = 0

    @torch.no_grad()
    def _make(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        batch = self.pictures.batch(count, self.size).to(memory_format=torch.channels_last)
        hole = self.pictures.masks(count, self.size)
        masked = batch * (1 - hole.repeat_interleave(8, 2).repeat_interleave(8, 3))
        with torch.autocast("cpu", torch.bfloat16):
            both = autoencoder.latents(self.vae, torch.cat([batch, masked]))
        return both[:count], both[count:], hole

    def batch(self, count: int, new: int) -> tuple[Tensor, Tensor, Tensor]:
        """`count` examples (clean, known, hole), after `new` have been replaced."""
        fresh = self._make(new)
        for kept, made in zip((self.clean, self.known, self.hole), fresh, strict=True):
            kept[self._next : self._next + new] = made
        self._next = (self._next + new) % (len(self.clean) - new)
        index = torch.randint(len(self.clean), (count,))
        clean, known, hole = self.clean[index], self.known[index], self.hole[index]
        if torch.rand(()) < 0.5:
            clean, known, hole = clean.transpose(2, 3), known.transpose(2, 3), hole.transpose(2, 3)
        return clean, known, hole


@torch.no_grad()
def channel_weights(vae: AutoencoderKL, codes: Tensor) -> Tensor:
    """What an error in each latent channel costs in pixels, relative to their mean: 1 x 4 x 1 x 1."""
    base = vae.decoder(vae.post_quant_conv(codes))
    costs = []
    for channel in range(autoencoder.CODES):
        moved = codes.clone()
        moved[:, channel] += 0.3
        costs.append(((vae.decoder(vae.post_quant_conv(moved)) - base) ** 2).mean())
    weights = torch.stack(costs)
    return (weights / weights.mean()).view(1, -1, 1, 1)


def train_unet(folder: Path, pictures: Pictures, vae: AutoencoderKL, seconds: float) -> None:
    """Train the UNet and keep it in `folder`/unet."""
    done = folder / "unet"
    if done.exists():
        return
    vae.eval().to(memory_format=torch.channels_last)
    unet = inpainter.build().to(memory_format=torch.channels_last)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.01)
    average, state, begun = Averaged(unet, 0.998), folder / "unet.partial.pt", 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        unet.load_state_dict(kept["unet"])
        optimizer.load_state_dict(kept["optimizer"])
        average.values, begun = kept["average"], kept["seconds"]
    small, large = Examples(vae, pictures, 128, 4096), Examples(vae, pictures, 256, 1024)
    weights = channel_weights(vae, small.clean[:64])
    print("channel weights", [round(weight, 2) for weight in weights.flatten().tolist()], flush=True)
    errors: list[float] = []
    for step, share in clock(seconds, begun):
        for group in optimizer.param_groups:
            group["lr"] = cosine(2e-3, step, share)
        clean, known, hole = large.batch(12, 2) if step % 3 == 0 else small.batch(48, 6)
        with torch.autocast("cpu", torch.bfloat16):
            loss = inpainter.loss(unet, clean, hole, known, weights)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(step)
        errors.append(loss.item())
        if step % 100 == 0:
            print(f"unet {share:.0%} step {step} squared error in the hole {np.mean(errors[-100:]):.4f}", flush=True)
        if step % 500 == 0:
            torch.save(
                {"unet": unet.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values,
                 "seconds": share * seconds}, state,
            )  # fmt: skip
    average.swap()
    unet.save_pretrained(done)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="demo.model.train", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--autoencoder-seconds", type=float, default=2400)
    parser.add_argument("--unet-seconds", type=float, default=5400)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--into", type=Path, default=demo_folder(), help="where the finished model goes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(arguments.folder / "packages", 0)
    vae = train_autoencoder(arguments.folder, pictures, arguments.autoencoder_seconds)
    train_unet(arguments.folder, pictures, vae, arguments.unet_seconds)
    print(export(arguments.folder, arguments.into))


if __name__ == "__main__":
    main()
