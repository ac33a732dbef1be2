"""Make the demo's checkpoint from nothing: `python -m demo.model.train FOLDER`. It goes on where it was stopped.

Stages: the autoencoder, then the UNet, each for a number of seconds; then the export into the package. On a card, the
UNet learns from larger batches, which other processes draw; the seconds are then the wall's, else the processor's own.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from demo.model import autoencoder, inpainter
from demo.model.examples import Crops, Pictures
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


def clock(seconds: float, begun: float, now: Callable[[], float] = time.process_time) -> Iterator[tuple[int, float]]:
    """Steps and the share of the time that has gone, until it is over; `begun` seconds went before.

    By default the processor's own time, not the wall's: on a machine that does other work too, training takes longer
    and not less.
    """
    start, step = now() - begun, 0
    while (gone := now() - start) < seconds:
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
    """Latents of crops, of the same crops with a hole, and the holes; `new` of them are replaced before each batch."""

    def __init__(self, vae: AutoencoderKL, pictures: Pictures, size: int, *, keep: int, new: int, workers: int) -> None:
        """Make `keep` examples of `size` pixels."""
        self.vae, self.new, self._next = vae, new, 0
        self._drawn = Crops(pictures, new, size).drawn(workers)
        parts = [self._make() for _ in range(keep // new)]
        self.clean, self.known, self.hole = (torch.cat(part) for part in zip(*parts, strict=True))

    @torch.no_grad()
    def _make(self) -> tuple[Tensor, Tensor, Tensor]:
        pixels, hole = (part.to(self.vae.device) for part in next(self._drawn))
        masked = pixels * (1 - hole.repeat_interleave(8, 2).repeat_interleave(8, 3))
        both = torch.cat([pixels, masked]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.vae.device.type, torch.bfloat16):
            clean, known = autoencoder.latents(self.vae, both).float().chunk(2)
        return clean, known, hole

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """`count` examples: clean, known, hole."""
        for kept, made in zip((self.clean, self.known, self.hole), self._make(), strict=True):
            kept[self._next : self._next + self.new] = made
        self._next = (self._next + self.new) % len(self.clean)
        index = torch.randint(len(self.clean), (count,), device=self.clean.device)
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


def train_unet(folder: Path, pictures: Pictures, vae: AutoencoderKL, seconds: float, device: str, workers: int) -> None:
    """Train the UNet and keep it in `folder`/unet."""
    done = folder / "unet"
    if done.exists():
        return
    card = device == "cuda"
    vae.eval().to(device, memory_format=torch.channels_last)
    unet = inpainter.build().to(device, memory_format=torch.channels_last)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=card)
    average, state, begun = Averaged(unet, 0.998), folder / "unet.partial.pt", 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True, map_location=device)
        unet.load_state_dict(kept["unet"])
        optimizer.load_state_dict(kept["optimizer"])
        average.values, begun = kept["average"], kept["seconds"]
    small_batch, large_batch = (256, 64) if card else (48, 12)
    small = Examples(vae, pictures, 128, keep=4096, new=64 if card else 8, workers=workers // 2)
    large = Examples(vae, pictures, 256, keep=1024, new=32 if card else 2, workers=workers - workers // 2)
    weights = channel_weights(vae, small.clean[:64])
    print("channel weights", [round(weight, 2) for weight in weights.flatten().tolist()], flush=True)
    errors: list[Tensor] = []
    for step, share in clock(seconds, begun, time.monotonic if card else time.process_time):
        for group in optimizer.param_groups:
            group["lr"] = cosine(2e-3, step, share)
        clean, known, hole = large.batch(large_batch) if step % 3 == 0 else small.batch(small_batch)
        with torch.autocast(device, torch.bfloat16):
            loss = inpainter.loss(unet, clean, hole, known, weights)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(step)
        errors.append(loss.detach())
        if step % 100 == 0:
            error = torch.stack(errors[-100:]).mean().item()
            print(f"unet {share:.0%} step {step} squared error in the hole {error:.4f}", flush=True)
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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the pictures (on a card: 12)")
    parser.add_argument("--into", type=Path, default=demo_folder(), help="where the finished model goes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)  # its threads do not survive a fork
    torch.manual_seed(0)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(arguments.folder / "packages", 0)
    vae = train_autoencoder(arguments.folder, pictures, arguments.autoencoder_seconds)
    train_unet(arguments.folder, pictures, vae, arguments.unet_seconds, arguments.device, arguments.workers)
    print(export(arguments.folder, arguments.into))


if __name__ == "__main__":
    main()
