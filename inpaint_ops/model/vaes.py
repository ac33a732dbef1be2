"""A VAE beside the model's own (`--vae`): a diffusers folder, a model's folder, or one safetensors file. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint_ops.errors import ModelError
from inpaint_ops.model.checkpoints import is_file_name, read_header, vae_recipe
from inpaint_ops.model.config_limits import check_configs
from inpaint_ops.model.digests import file_digest

LEVELS, LATENT_CHANNELS = 4, 4
"""Of SDXL's VAE, and of every one that can take its place."""


@dataclass(frozen=True, slots=True)
class VaeWeights:
    """A VAE's weights: `place` is a file, or the folder that holds config.json; `file` has the weights.

    `upcast`: it computes in 32 bits in a float16 pipeline. `digest` is the SHA-256 of `file`.
    """

    place: Path
    file: Path
    bytes: int
    digest: str
    upcast: bool


def locate(vae: str) -> Path:
    """The file or the folder that `vae` names: for a model's folder the `vae` in it. Raises ModelError."""
    place = Path(vae).expanduser()
    if is_file_name(vae):
        read_header(place)
        return place
    for folder in (place / "vae", place):
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        f"the VAE {vae}: no .safetensors file and no folder with config.json; for one of the hub: "
        "`hf download OWNER/NAME --local-dir FOLDER`"
    )


def upcasts(place: Path) -> bool:
    """Whether the VAE computes in 32 bits in a float16 pipeline: where its configuration says so, or says nothing."""
    return place.is_file() or bool(_config(place).get("force_upcast", True))


def find(place: Path, notes: Path) -> VaeWeights:
    """Check that `place`, as `locate` gives it, is a VAE that can take the place of SDXL's, by header and digest.

    `notes` is where digests are noted. Raises ModelError that names the file and the cure.
    """
    file = place if place.is_file() else _weights(place)
    if place.is_file():
        vae_recipe(read_header(file))
    else:
        check_configs(place)
        config = _config(place)
        levels, latents = len(config.get("block_out_channels") or ()), config.get("latent_channels")
        if config.get("_class_name") != "AutoencoderKL" or (levels, latents) != (LEVELS, LATENT_CHANNELS):
            raise ModelError(
                f"{place}: an SDXL VAE is an AutoencoderKL of {LEVELS} levels and {LATENT_CHANNELS} latent channels, "
                f"this is {config.get('_class_name')} of {levels} and {latents}: use an SDXL VAE"
            )
        read_header(file)
    return VaeWeights(place, file, file.stat().st_size, file_digest(file, notes), upcasts(place))


def _weights(folder: Path) -> Path:
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder} has no diffusion_pytorch_model.safetensors: use a VAE with safetensors weights")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}; fetch the VAE again") from error
    return config if isinstance(config, dict) else {}
