"""Is a model's folder a whole SDXL inpainting model, in safetensors alone, and the one that was published?

Reads headers and configurations; imports no torch. A pickle can run code when it is opened, so none is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.errors import ModelError
from inpaint_ops.model.cache import home_at, verified_notes
from inpaint_ops.model.checkpoints import Checkpoint, check_channels, read_checkpoint
from inpaint_ops.model.config_limits import check_configs
from inpaint_ops.model.digests import check_digests, file_digest
from inpaint_ops.model.own_models import PICKLES

COMPONENTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
WEIGHTS = ("text_encoder", "text_encoder_2", "unet", "vae")


@dataclass(frozen=True, slots=True)
class Verified:
    """Weight files that are whole. `files` are relative to `folder`; `bytes` is their size together.

    `checkpoint` is set where it is one file instead of a diffusers folder. `digest` is SHA-256: of the names and sizes
    of a folder's files, of the bytes of a single one.
    """

    folder: Path
    files: tuple[str, ...]
    bytes: int
    digest: str
    variant: str | None
    native_size: int
    checkpoint: Checkpoint | None = None


def verify(folder: Path, *, dtype: str = "float16", strict: bool = True) -> Verified:
    """Check that `folder` holds a whole SDXL model, reading no more than headers.

    Every component is there; the UNet has 9 input channels, or 4; every safetensors file that would be loaded for
    `dtype` is as long as its header says; with `strict`, no pickled weights lie beside them and all other safetensors
    are whole too. Raises ModelError that names the file and the cure.
    """
    native_size = check_kind(folder)
    pickles = sorted(path for path in folder.rglob("*") if path.suffix in PICKLES)
    variant = variant_of(folder, dtype)
    files = [path for part in WEIGHTS for path in _weight_files(folder, part, variant, pickles)]
    if strict and pickles:
        raise ModelError(
            f"{folder} holds pickled weights ({pickles[0].relative_to(folder)}), which can run code: remove them"
        )
    for path in dict.fromkeys([*files, *(sorted(folder.rglob("*.safetensors")) if strict else [])]):
        check_whole(path)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(files)}
    return Verified(folder, tuple(sizes), sum(sizes.values()), digest(sizes), variant, native_size)


def verify_file(path: Path, cache: Path | None = None) -> Verified:
    """Check that the file `path` is an SDXL model, and the one that was published where that is known.

    Its header is read; its bytes once, for the digest, until the file changes. `cache` is the root that HF_HOME names.
    Raises ModelError that names the file and the cure.
    """
    checkpoint = read_checkpoint(path)
    found = file_digest(path, verified_notes(home_at(cache)))
    size = path.stat().st_size
    return Verified(path.parent, (path.name,), size, found, None, checkpoint.recipe.native_size, checkpoint)


def check_published(found: Verified, cache: Path | None = None) -> None:
    """Check the SHA-256 of the weights that `verify` found, where it is known (`check_digests`). Raises ModelError.

    `cache` is the root that HF_HOME names.
    """
    check_digests(found.folder, found.files, verified_notes(home_at(cache)))


def check_kind(folder: Path) -> int:
    """Check by its configuration that `folder` holds an SDXL model of 9 or 4 channels; return its native side, pixels.

    Raises ModelError that names the file and the cure.
    """
    check_configs(folder)
    index = _json(folder / "model_index.json")
    for part in COMPONENTS:
        entry = index.get(part)
        if not isinstance(entry, list) or not entry[:1] or entry[0] is None or not (folder / part).is_dir():
            raise ModelError(f"{folder} has no {part}: it is not a whole SDXL inpainting model")
    for part, entry in index.items():
        if isinstance(entry, list) and entry[0] not in (None, "diffusers", "transformers"):
            raise ModelError(f"{folder}: component {part} is code of its own ({entry[0]}), which is never run")
    unet, vae = _json(folder / "unet" / "config.json"), _json(folder / "vae" / "config.json")
    check_channels(folder, unet.get("in_channels"))
    if unet.get("addition_embed_type") != "text_time":
        raise ModelError(f"{folder}: the UNet is not SDXL's; use an SDXL inpainting model such as {DEFAULT_MODEL}")
    scale = 2 ** (len(vae.get("block_out_channels") or [0]) - 1)
    side: int = int(unet["sample_size"]) * scale
    return side


def upcasts_vae(folder: Path) -> bool:
    """Whether the VAE computes in 32 bits (its `force_upcast`, which diffusers takes to be true where it is absent)."""
    return bool(_json(folder / "vae" / "config.json").get("force_upcast", True))


def check_whole(path: Path) -> None:
    """Open the file as safetensors: its library refuses a header that does not fit the file's length."""
    try:
        count = len(tensor_names(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is damaged or cut short ({error}); fetch the model again with `inpaint-ops models pull`"
        ) from error
    if count == 0:
        raise ModelError(f"{path} holds no tensors; delete it and fetch the model again")


def variant_of(folder: Path, dtype: str) -> str | None:
    """`fp16` where the folder has that variant of the UNet and either 16 bits are wanted or it has no other; else
    None.
    """
    names = [path.name for path in (folder / "unet").glob("*.safetensors*")]
    has_variant = any(".fp16." in name for name in names)
    has_plain = any(".fp16." not in name for name in names)
    return "fp16" if has_variant and (dtype != "float32" or not has_plain) else None


def tensor_names(path: Path) -> set[str]:
    """The names of the tensors in a safetensors file, from its header."""
    with safe_open(path, framework="numpy") as opened:
        return set(opened.keys())


def digest(sizes: dict[str, int]) -> str:
    """SHA-256 over names and sizes, sorted by name."""
    return hashlib.sha256("".join(f"{name}\0{sizes[name]}\n" for name in sorted(sizes)).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: this is no diffusers model folder, or a part of one") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; fetch the model again")
    return value


def _weight_files(folder: Path, part: str, variant: str | None, pickles: list[Path]) -> list[Path]:
    """The safetensors that a load of `part` would open, by its index where it is in shards. Raises ModelError."""
    stem = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
    for middle in (f".{variant}", "") if variant else ("",):
        single = folder / part / f"{stem}{middle}.safetensors"
        if single.is_file():
            return [single]
        index = folder / part / f"{stem}.safetensors.index{middle}.json"
        if index.is_file():
            shards = sorted({str(shard) for shard in _json(index).get("weight_map", {}).values()})
            for shard in shards:
                if Path(shard).name != shard or not (folder / part / shard).is_file():
                    raise ModelError(
                        f"{folder / part / shard} is missing, and {index.name} names it; fetch the model again"
                    )
            return [folder / part / shard for shard in shards]
    if any(path.parent == folder / part for path in pickles):
        raise ModelError(f"{folder / part} has pickled weights only, which can run code; use a model with safetensors")
    raise ModelError(f"{folder / part} has no safetensors weights; fetch the model again")
