"""SDXL-inpainting models with random weights, built here, offline: for tests, the demo and measurements.

Three recipes share SDXL's shape (two text encoders, a 9-channel UNet of three levels, a VAE of four levels, hence
scale factor 8) and differ in width. Their images mean nothing: a marker file in the folder says so, and
`ModelIdentity` repeats it. `sdxl-random` has the layer sizes of `diffusers/stable-diffusion-xl-1.0-inpainting-0.1`,
so its speed and its memory are the real model's.

Weights come from one generator with a fixed seed, parameter by parameter in the modules' own order, on the CPU for
folders: the same torch gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
from filelock import FileLock
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from inpaint_ops.errors import ModelError
from inpaint_ops.model.cache import random_folder
from inpaint_ops.model.digests import write_known
from inpaint_ops.model.own_models import RECIPE_VERSION, is_random, write_marker
from inpaint_ops.model.progress import without_progress_bars
from inpaint_ops.model.recipes import recipe

SEED = 20240511


def instantiate(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = SEED
) -> StableDiffusionXLInpaintPipeline:
    """Make the pipeline straight on `device`, without touching a disk except for two small tokenizers.

    The values depend on the device's generator, so a model made on a GPU is not the one made on a CPU. Activations stay
    finite in float16. Raises ModelError for an unknown name.
    """
    generator = torch.Generator(device).manual_seed(seed)
    return _pipeline({part: _fill(_empty(shell, device, dtype), generator) for part, shell in _shells(name).items()})


def without_values(name: str) -> StableDiffusionXLInpaintPipeline:
    """The pipeline of the model `name` with its weights on the meta device: shapes alone."""
    return _pipeline(_shells(name))


def _shells(name: str) -> dict[str, torch.nn.Module]:
    sizes = recipe(name)
    with torch.device("meta"):
        return {
            "vae": AutoencoderKL(**sizes.vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes.clip_l)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**sizes.clip_g)),
            "unet": UNet2DConditionModel(**sizes.unet),
        }


def _pipeline(parts: Mapping[str, torch.nn.Module]) -> StableDiffusionXLInpaintPipeline:
    return StableDiffusionXLInpaintPipeline(
        **parts,
        tokenizer=byte_tokenizer("<|endoftext|>"),
        tokenizer_2=byte_tokenizer("!"),
        scheduler=default_scheduler(),
    )


def build(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the model as a diffusers folder, weights as safetensors (the fp16 variant when `dtype` is float16).

    tiny-random takes under 5 MB, mid-random some 100 MB, sdxl-random 14 GB (7 GB in float16). Same torch, same bytes.
    Raises ModelError for an unknown name, FileExistsError when the folder is there already.
    """
    folder.mkdir(parents=True)
    pipe = instantiate(name, "cpu", dtype)
    with without_progress_bars():
        pipe.save_pretrained(str(folder), safe_serialization=True, variant="fp16" if dtype == torch.float16 else None)
    write_known(folder)
    write_marker(folder, name, {"recipe": RECIPE_VERSION, "seed": SEED, "torch": torch.__version__})
    return folder


def ensure(name: str, cache_root: Path) -> Path:
    """The folder of the model `name`, built once for all processes that share `cache_root`.

    A file lock lets one process build while the others wait; the folder appears whole, by a rename, or not at all.
    Raises ModelError for an unknown name and where the cache cannot be written.
    """
    recipe(name)
    target = random_folder(cache_root, name)
    if is_random(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if is_random(target):
                return target
            shutil.rmtree(target, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
                build(name, Path(scratch) / "model").rename(target)
    except OSError as error:
        raise ModelError(
            f"cannot build {name} in {target.parent}: {error}; set HF_HOME to a folder with space"
        ) from error
    return target


def _empty(shell: torch.nn.Module, device: str | torch.device, dtype: torch.dtype) -> torch.nn.Module:
    # torch's own `to`: diffusers' warns of modules to be kept in float32, of which these models have none.
    return torch.nn.Module.to(shell, dtype).to_empty(device=device)


def _fill(module: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    """Give every parameter its value, in the module's own order, and the one kind of buffer there is.

    Matrices and kernels: normal, standard deviation 1/sqrt(3 fan_in), which is the variance of PyTorch's own default
    for linear and convolution layers; embeddings 0.02, as CLIP has; norms 1; biases 0.
    """
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("embedding.weight"):
                value.normal_(0.0, 0.02, generator=generator)
            elif value.ndim >= 2:
                fan_in = value.numel() // value.shape[0]
                value.normal_(0.0, (3 * fan_in) ** -0.5, generator=generator)
            else:
                value.fill_(1.0 if name.endswith("weight") else 0.0)
        for name, buffer in module.named_buffers():
            if not name.endswith("position_ids"):
                raise ModelError(f"the recipe does not know the buffer {name}: diffusers or transformers has changed")
            buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand(buffer.shape))
    return module.eval()


def default_scheduler() -> EulerDiscreteScheduler:
    """The scheduler of stable-diffusion-xl-1.0-inpainting-0.1 (its scheduler_config.json)."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1,
        timestep_spacing="leading", prediction_type="epsilon", interpolation_type="linear", use_karras_sigmas=False,
    )  # fmt: skip


def byte_tokenizer(pad_token: str) -> CLIPTokenizer:
    """A CLIP tokenizer that knows bytes only: 256 characters, 256 that end a word, start and end.

    Any text tokenises (a byte a token, cut at 77); ids lie below 514. SDXL's first tokenizer pads with its end token,
    the second with `!` (tokenizer_config.json of both).
    """
    characters = byte_characters()
    words = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as scratch:
        vocab, merges = Path(scratch) / "vocab.json", Path(scratch) / "merges.txt"
        vocab.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(scratch, model_max_length=77, pad_token=pad_token, local_files_only=True)


def byte_characters() -> list[str]:
    """A printable character for each byte, in the order of CLIP's vocabulary: GPT-2's byte-level BPE (Radford et al.
    2019, `bytes_to_unicode`).
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, plain), *(chr(256 + index) for index in range(256 - len(plain)))]
