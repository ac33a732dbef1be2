"""A tuning: every choice of the optimisation notes as data, and what is known of a card's kernels."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from inpaint_ops.records import Model

Preset = Literal["auto", "notes", "low-memory", "fast"]
PRESETS: tuple[str, ...] = get_args(Preset)

Dtype = Literal["float16", "bfloat16", "float32"]
Attention = Literal[
    "xformers", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "sliced", "default"
]  # fmt: skip
Compile = Literal["off", "regional", "reduce-overhead", "max-autotune"]
Offload = Literal["none", "model", "sequential", "group"]


class Tuning(Model):
    """Every choice of the optimisation notes. The defaults are a plain float32 pipeline on a CPU."""

    dtype: Dtype = Field(default="float32", description="The weights' and the arithmetic's precision.")
    attention: Attention = Field(
        default="sdpa",
        description="The UNet's attention; sdpa-…: PyTorch's, that kernel first.",
    )
    attention_slicing: bool = Field(
        default=False, description="Call enable_attention_slicing; processors that `attention` sets later replace it."
    )
    vae_tiling: bool = Field(default=False, description="Decode and encode in tiles above the tile size.")
    vae_tile_size: int | None = Field(
        default=None, ge=16, le=4096, multiple_of=8, description="A tile's side in pixels; empty: the VAE's own."
    )
    vae_slicing: bool = Field(default=False, description="Decode a batch one image at a time.")
    channels_last: bool = Field(default=False, description="Keep convolution weights in NHWC order.")
    fuse_qkv: bool = Field(default=False, description="One matrix product for query, key and value.")
    compile: Compile = Field(default="off", description="torch.compile of the UNet; pays only over many rows.")
    offload: Offload = Field(default="none", description="Keep weights in host memory until they are needed.")
    batch_size: int = Field(default=1, ge=1, le=64, description="Rows painted together, at most.")
    release_text_encoders: bool = Field(
        default=False, description="Drop the text encoders when all prompts are encoded (1.64e9 bytes in 16 bits)."
    )


PROBES = "inpaint_ops-probes"
"""The folder below HF_HOME where a card's attention kernels are remembered."""

MAX_PROBE_BYTES = 65_536
"""Bytes of one such file; ours have about a thousand."""


class AttentionProbe(Model):
    """What trying a card's attention kernels has shown: by name (`sdpa`: PyTorch's own choice) seconds, or why not.

    `layouts` are seconds of a residual block with its kernels in each layout, `contiguous` and `channels_last`; empty
    where that was not tried.
    """

    device: str
    dtype: str
    shape: tuple[int, ...]
    seconds: dict[str, float]
    why_not: dict[str, str]
    layouts: dict[str, float] = Field(default_factory=dict)

    def in_words(self) -> str:
        """The figures, the fastest first."""
        ranked = sorted(self.seconds.items(), key=lambda pair: pair[1])
        return ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in ranked)


def shown(value: object) -> str:
    """A field's value as the ledger writes it: on, off, none, a number or a name."""
    if value is None:
        return "default"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
