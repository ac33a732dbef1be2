"""An SDXL model, or a VAE, in one safetensors file -> the parts of a pipeline, by diffusers' own conversion.

The conversion runs twice: over shapes alone, which finds what is missing before gigabytes are read, then over the
weights. The configuration is this package's (`recipes`): nothing is fetched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from inpaint_ops.errors import ModelError
from inpaint_ops.model import tokenizing
from inpaint_ops.model.checkpoints import CLIP_G, CLIP_L, UNET, VAE, Checkpoint, Header, read_header, vae_recipe
from inpaint_ops.model.digests import write_known
from inpaint_ops.model.own_models import write_marker
from inpaint_ops.model.progress import without_progress_bars
from inpaint_ops.model.random_weights import default_scheduler
from inpaint_ops.model.tokenizers import Tokenizers

_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}

Tensors = dict[str, torch.Tensor]
Convert = Callable[[Tensors], Tensors]
"""A part's tensors under the file's names -> the same under diffusers' or transformers' names."""


def pipeline(
    checkpoint: Checkpoint,
    found: Tokenizers,
    dtype: torch.dtype,
    target: torch.device,
    vae: AutoencoderKL | None = None,
) -> StableDiffusionXLInpaintPipeline:
    """The model of the file on `target`, in `dtype`, with `vae` in place of its own.

    Raises ModelError for a file that lacks weights or has others.
    """
    first, second = tokenizing.make(found, checkpoint.vocabulary)
    shells, converts = _shells(checkpoint, first, second)
    header = read_header(checkpoint.path)
    if vae is not None:
        del shells[VAE]
    for prefix, shell in shells.items():
        _check(header, prefix, shell, converts[prefix])  # before gigabytes are read
    parts = {
        prefix: _filled(header, prefix, shell, converts[prefix], dtype, target) for prefix, shell in shells.items()
    }
    return StableDiffusionXLInpaintPipeline(
        vae=vae or parts[VAE], text_encoder=parts[CLIP_L], text_encoder_2=parts[CLIP_G], tokenizer=first,
        tokenizer_2=second, unet=parts[UNET], scheduler=_scheduler(checkpoint),
    )  # fmt: skip


def check(checkpoint: Checkpoint) -> None:
    """Check that the file has every weight of SDXL, in its shape, and no others. Raises ModelError that names them."""
    header = read_header(checkpoint.path)
    shells, converts = _shells(checkpoint)
    for prefix, shell in shells.items():
        _check(header, prefix, shell, converts[prefix])


def autoencoder(path: Path, dtype: torch.dtype, target: torch.device) -> AutoencoderKL:
    """The VAE of the file `path`, in Stability AI's layout or diffusers'. It computes in 32 bits where `dtype` is
    float16 (`force_upcast`): a file does not say that it need not. Raises ModelError.
    """
    header = read_header(path)
    recipe, prefix = vae_recipe(header)
    with torch.device("meta"):
        shell = AutoencoderKL(**{**recipe.vae, "force_upcast": True})
    is_diffusers = any(name.startswith(f"{prefix}encoder.down_blocks.") for name in header.tensors)
    convert: Convert = partial(_without_prefix, prefix)
    if not is_diffusers:
        convert = partial(convert_ldm_vae_checkpoint, config=shell.config)
    _check(header, prefix, shell, convert)
    return _filled(header, prefix, shell, convert, dtype, target)


def convert(checkpoint: Checkpoint, found: Tokenizers, folder: Path) -> Path:
    """Write the file's model as a diffusers folder, in the file's own dtype. Raises ModelError where `folder` is there
    already or cannot be written. The folder appears whole, by a rename, or not at all.
    """
    if folder.exists():
        raise ModelError(f"{folder} is there already: name a new folder")
    pipe = pipeline(checkpoint, found, _TYPES[checkpoint.dtype], torch.device("cpu"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "model"
            with without_progress_bars():
                pipe.save_pretrained(
                    str(made), safe_serialization=True, variant="fp16" if checkpoint.dtype == "F16" else None
                )
            write_known(made)
            if checkpoint.random:
                write_marker(made, checkpoint.recipe.name)
            made.rename(folder)
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error}") from error
    return folder


def _shells(
    checkpoint: Checkpoint, first: Any = None, second: Any = None
) -> tuple[dict[str, torch.nn.Module], dict[str, Convert]]:
    """The parts, without values, by what their names begin with in the file; and how each is converted.

    `first` and `second` are the tokenizers.
    """
    recipe = checkpoint.recipe
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**recipe.unet, "in_channels": checkpoint.channels})
        vae = AutoencoderKL(**{**recipe.vae, "force_upcast": checkpoint.vae_upcasts})
        clip_l = CLIPTextModel(CLIPTextConfig(**_clip_config(recipe.clip_l, checkpoint.vocabulary, first)))
        clip_g = CLIPTextModelWithProjection(
            CLIPTextConfig(**_clip_config(recipe.clip_g, checkpoint.vocabulary, second))
        )
    converts: dict[str, Convert] = {
        UNET: partial(convert_ldm_unet_checkpoint, config=unet.config),
        VAE: partial(convert_ldm_vae_checkpoint, config=vae.config),
        CLIP_L: partial(_clip_l, clip_l),
        CLIP_G: partial(_clip_g, clip_g),
    }
    return {UNET: unet, VAE: vae, CLIP_L: clip_l, CLIP_G: clip_g}, converts


def _check(header: Header, prefix: str, shell: torch.nn.Module, change: Convert) -> None:
    """Raise ModelError that names what the file lacks of `shell`, has beside it, or has in another shape."""
    empty = {
        name: torch.empty(tensor.shape, dtype=_TYPES.get(tensor.dtype), device="meta")
        for name, tensor in header.tensors.items()
        if name.startswith(prefix)
    }
    part = prefix.removesuffix(".") or "VAE"
    try:
        there = change(empty)
    except (KeyError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{header.path}: its {part} is not whole, or not SDXL's ({type(error).__name__}: {str(error)[:120]}): "
            "fetch it again, or use another model"
        ) from error
    wanted = shell.state_dict()
    if missing := sorted(wanted.keys() - there.keys()):
        raise ModelError(
            f"{header.path}: its {part} lacks {missing[0]}{_more(missing)}: it is not whole, or not SDXL's; "
            "fetch it again, or use another model"
        )
    if beside := sorted(name for name in there.keys() - wanted.keys() if not name.endswith("position_ids")):
        raise ModelError(
            f"{header.path}: its {part} has {beside[0]}{_more(beside)}, which SDXL has not: use a model made from SDXL"
        )
    for name, value in wanted.items():
        if there[name].shape != value.shape:
            raise ModelError(
                f"{header.path}: {name} of its {part} is {tuple(there[name].shape)}, SDXL's is {tuple(value.shape)}: "
                "use a model made from SDXL"
            )


def _filled(
    header: Header, prefix: str, shell: torch.nn.Module, change: Convert, dtype: torch.dtype, target: torch.device
) -> Any:
    with safe_open(header.path, framework="pt", device=str(target)) as opened:
        raw = {name: opened.get_tensor(name) for name in header.tensors if name.startswith(prefix)}
    wanted = shell.state_dict().keys()
    weights = {name: value.to(dtype).contiguous() for name, value in change(raw).items() if name in wanted}
    shell.load_state_dict(weights, assign=True)
    for name, buffer in shell.named_buffers():  # not in the file: made anew
        if not name.endswith("position_ids"):
            raise ModelError(f"{prefix}: the buffer {name} is not known: diffusers or transformers has changed")
        module = shell.get_submodule(name.rpartition(".")[0])
        positions = torch.arange(buffer.shape[-1], device=target).expand(buffer.shape)
        module.register_buffer("position_ids", positions, persistent=False)
    return shell.requires_grad_(False).eval()


def _clip_l(shell: torch.nn.Module, tensors: Tensors) -> Tensors:
    converted: Tensors = convert_ldm_clip_checkpoint(tensors)
    if not hasattr(shell, "text_model"):  # transformers 5.6 has flattened CLIPTextModel
        converted = {name.removeprefix("text_model."): value for name, value in converted.items()}
    return converted


def _clip_g(shell: torch.nn.Module, tensors: Tensors) -> Tensors:
    converted: Tensors = convert_open_clip_checkpoint(shell, tensors, prefix=CLIP_G)
    return converted


def _without_prefix(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _clip_config(sizes: Mapping[str, Any], vocabulary: int, tokenizer: Any) -> dict[str, Any]:
    """The recipe's sizes, with the vocabulary of the file and the marks of its tokenizer."""
    marks = ("bos_token_id", "eos_token_id", "pad_token_id") if tokenizer is not None else ()
    return {**sizes, "vocab_size": vocabulary, **{mark: getattr(tokenizer, mark) for mark in marks}}


def _scheduler(checkpoint: Checkpoint) -> EulerDiscreteScheduler:
    scheduler = default_scheduler()
    changed: dict[str, Any] = {"prediction_type": checkpoint.prediction}
    if checkpoint.zero_snr:
        changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    made: EulerDiscreteScheduler = EulerDiscreteScheduler.from_config(scheduler.config, **changed)
    return made


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""
