"""What a plan needs of a device's memory, phase by phase, for SDXL's layer sizes. Pure.

The figures are counted, not measured: live bytes of tensors in float16 at 1024x1024 with guidance, by the dry card
(`make dry-card`, docs/optimisations.md). What a real card takes beyond them is one term, `allowance`, which
`tests/test_measured_peaks.py` compares with every peak below bench/results.
"""

from __future__ import annotations

from dataclasses import dataclass

from inpaint_ops.device import GB
from inpaint_ops.tuning.fields import Tuning

UNET_WEIGHTS = int(5.135 * GB)
"""2.57e9 parameters in 16 bits; with the next two 6.94e9, the size of the fp16 variant's files (facts)."""
TEXT_WEIGHTS = int(1.636 * GB)
SECOND_TEXT_WEIGHTS = int(1.39 * GB)
"""Of these, the second encoder's."""
VAE_WEIGHTS = int(0.167 * GB)
FUSED_WEIGHTS = int(1.30 * GB)
"""Fused projections are held beside the ones that they were made of."""
LARGEST_KERNEL = int(0.059 * GB)
"""The UNet's largest convolution kernel: there twice while it is put into NHWC order."""
LARGEST_EMBEDDING = int(0.126 * GB)
"""The largest leaf of the text encoders, which is what an offload by layers holds of them."""
PROMPT = int(0.008 * GB)
"""Encoding one text."""
STEP = int(0.333 * GB)
"""One image's UNet step with guidance (two samples); the peak is in the first level's feed-forward layers."""
STEP_SLICED = int(0.525 * GB)
"""Slices of sliced attention's scores, for a batch of any size."""
ENCODE, ENCODE_ROW = int(1.342 * GB), int(0.008 * GB)
"""The VAE's encode of one image; images, masks and latents of each further row of the batch."""
DECODE, DECODE_CHANNELS_LAST, DECODE_ROW = int(1.606 * GB), int(1.874 * GB), int(0.007 * GB)
"""The VAE's decode of one image, without and with copies of inputs in the other layout; each row's pixels."""

WORKSPACES = int(0.15 * GB)
"""cuBLAS's and cuDNN's workspaces, and kernels' code: an H200 took that much beyond the count with channels_last."""
NCHW_WORKSPACE = 0.585
"""Of the VAE's activations, in the NCHW layout: an H200's convolutions took that much more there (1.09e9 bytes with
`WORKSPACES` for one image in 16 bits, 2.09e9 in 32), and hardly anything with channels_last."""
FRAGMENTATION = 0.25
"""Share of the activations that the allocator may not be able to reuse: a guess. An H200, which had no need to save
memory, held 0.6e9 to 1.6e9 bytes more than it had allocated for one image."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a model and a job bring to every plan.

    `native_size` is in pixels. `vae_upcast`: the VAE has `force_upcast` and computes in 32 bits. `prompts_known`: all
    texts are encoded before the first row, so that the text encoders can be released.
    """

    native_size: int = 1024
    vae_upcast: bool = False
    prompts_known: bool = True
    lora_bytes: int = 0
    """Of LoRAs that lie beside the weights, since rows switch them."""
    scorer_bytes: int = 0
    """Of the CLIP model that images are scored by, which stays on the device. Its file's size: a bound, since the
    weights lie there in the tuning's dtype, and one picture's activations take some ten megabytes."""


@dataclass(frozen=True, slots=True)
class _Phase:
    weights: int
    activations: float
    workspace: float = 0.0

    @property
    def total(self) -> int:
        return int(self.weights + self.activations)


def count_phases(tuning: Tuning, workload: Workload | None = None, batch_size: int | None = None) -> dict[str, int]:
    """Live bytes at the peak of each phase: load, prompts, encode, denoise, decode.

    peak = resident weights + activations; activations grow with the area, and are twice as large in 32 bits. A VAE's
    tiles shrink its activations by their share of the area.
    """
    return {name: phase.total for name, phase in _phases(tuning, workload or Workload(), batch_size).items()}


def count_peak(tuning: Tuning, workload: Workload | None = None, batch_size: int | None = None) -> int:
    """Live bytes at the peak of all phases. Leaves CUDA's context out, as a card's free memory does."""
    return max(count_phases(tuning, workload, batch_size).values())


def allowance(tuning: Tuning, workload: Workload | None = None, batch_size: int | None = None) -> int:
    """Bytes beyond the counted peak that a plan leaves for workspaces and fragmentation."""
    return estimate_peak(tuning, workload, batch_size) - count_peak(tuning, workload, batch_size)


def estimate_peak(tuning: Tuning, workload: Workload | None = None, batch_size: int | None = None) -> int:
    """Estimated peak of device memory in bytes: what was counted, and the allowance. Leaves CUDA's context out."""
    phases = _phases(tuning, workload or Workload(), batch_size).values()
    beyond = (int(phase.total + phase.workspace + FRAGMENTATION * phase.activations) for phase in phases)
    return WORKSPACES + max(beyond)


def _phases(tuning: Tuning, workload: Workload, batch_size: int | None) -> dict[str, _Phase]:
    batch = tuning.batch_size if batch_size is None else batch_size
    width = 2 if tuning.dtype == "float32" else 1
    # The pipeline encodes in 32 bits whatever the dtype is; a decode is only widened from float16.
    encode_width = 2 if workload.vae_upcast else width
    decode_width = 2 if workload.vae_upcast and tuning.dtype == "float16" else width
    area = (workload.native_size / 1024) ** 2
    tile = _tile_share(tuning, workload.native_size)

    step = batch * STEP
    if tuning.attention == "sliced":
        step = max(step, STEP_SLICED)
    decode = DECODE_CHANNELS_LAST if tuning.channels_last else DECODE
    together = 1 if tuning.vae_slicing else batch
    activations = {
        "load": float(LARGEST_KERNEL * width if tuning.channels_last else 0),
        "prompts": float(PROMPT * width),
        "encode": area * (encode_width * ENCODE * tile + width * batch * ENCODE_ROW),
        "denoise": area * width * step,
        "decode": area * decode_width * (together * decode * tile + batch * DECODE_ROW),
    }
    weights = _weights(tuning, workload, width, encode_width, decode_width)
    convolving = () if tuning.channels_last else ("encode", "decode")
    return {
        name: _Phase(
            weights[name] + workload.scorer_bytes, amount, NCHW_WORKSPACE * amount if name in convolving else 0.0
        )
        for name, amount in activations.items()
        if name in weights
    }


def _tile_share(tuning: Tuning, native_size: int) -> float:
    """The share of an image's area that a tile of the VAE has; 1 where tiles are not smaller than the image."""
    if not tuning.vae_tiling or tuning.vae_tile_size is None:
        return 1.0
    return min(1.0, tuning.vae_tile_size / native_size) ** 2


def _weights(tuning: Tuning, workload: Workload, width: int, encode_width: int, decode_width: int) -> dict[str, int]:
    """Bytes of weights on the device in each phase. A widened VAE is cast and back again in each batch."""
    unet = width * (UNET_WEIGHTS + (FUSED_WEIGHTS if tuning.fuse_qkv else 0)) + workload.lora_bytes
    text = width * TEXT_WEIGHTS
    kept = 0 if tuning.release_text_encoders and workload.prompts_known else text
    vae, encoding, decoding = (VAE_WEIGHTS * factor for factor in (width, encode_width, decode_width))
    if tuning.offload == "none":
        return {
            "load": unet + text + vae,
            "prompts": unet + text + vae,
            "encode": unet + kept + encoding,
            "denoise": unet + kept + vae,
            "decode": unet + kept + decoding,
        }
    if tuning.offload == "model":
        # The VAE stays on the card from its encode to the end of the batch; only the UNet makes room for its decode.
        # The second text encoder, where it is kept, only makes room for the UNet.
        second = width * SECOND_TEXT_WEIGHTS if kept else 0
        return {"prompts": text, "encode": encoding + second, "denoise": unet + vae, "decode": decoding}
    if tuning.offload == "group":  # leaves out the VAE
        return {"prompts": width * LARGEST_EMBEDDING + vae, "encode": encoding, "denoise": vae, "decode": decoding}
    return {"prompts": width * LARGEST_EMBEDDING, "encode": 0, "denoise": 0, "decode": 0}
