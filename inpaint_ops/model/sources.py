"""Finding a model on this machine: one of ours, a file, a folder, or a pinned revision in the hub's cache.

Imports no torch and uses no network (`model.pulling` does). Only safetensors are ever read: a pickle can run code when
it is opened.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import snapshot_download

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.errors import ModelError
from inpaint_ops.model import fill_models, score_models, tokenizers
from inpaint_ops.model.cache import home_at, hub_below, verified_notes
from inpaint_ops.model.checkpoints import Checkpoint, is_file_name, read_checkpoint
from inpaint_ops.model.loras import LoraWeights
from inpaint_ops.model.loras import find as find_loras
from inpaint_ops.model.loras import locate as locate_lora
from inpaint_ops.model.own_models import (
    DEMO_MODEL,
    DEMO_VERSION,
    OWN_MODELS,
    RANDOM_MODELS,
    RECIPE_VERSION,
    demo_folder,
    is_random,
)
from inpaint_ops.model.recipes import recipe
from inpaint_ops.model.tokenizers import Tokenizers
from inpaint_ops.model.vaes import VaeWeights, locate, upcasts
from inpaint_ops.model.vaes import find as find_vae
from inpaint_ops.model.verifying import Verified, check_kind, check_published, upcasts_vae, verify, verify_file
from inpaint_ops.records import LoraFile
from inpaint_ops.tuning import Workload

PINNED = {DEFAULT_MODEL: "115134f363124c53c7d878647567d04daf26e41e"}
"""Hub commits used where the user names no revision. Found in public logs of the model's cache, not fetched here."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A model found on this machine: in `folder`, or in one file, `checkpoint`, with `tokenizers` from elsewhere.

    Neither is set for sdxl-random, which is made on the device, without files. `vae` takes the place of its own.
    """

    name: str
    folder: Path | None
    revision: str | None
    random: bool
    demo: bool = False
    checkpoint: Checkpoint | None = None
    tokenizers: Tokenizers | None = None
    vae: Path | None = None


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that is here and whole. `weights` is None for a model without files; `seconds` is how long it took."""

    source: Source
    weights: Verified | None
    seconds: float
    vae: VaeWeights | None = None
    loras: tuple[LoraWeights, ...] = ()
    fill_model: fill_models.FillModel | None = None
    scorers: score_models.ScoreModels = field(default_factory=score_models.ScoreModels)


def resolve(
    model: str,
    revision: str | None = None,
    *,
    cache: Path | None = None,
    vae: str | None = None,
    tokenizer: str | None = None,
) -> Source:
    """Find `model` on this machine, and what takes the place of its VAE; `tokenizer` is for a model in one file.

    `cache` is the root that HF_HOME names (default: huggingface_hub's). Raises ModelError that says how to get a model
    that is not here.
    """
    if is_file_name(model):
        path = Path(model).expanduser()
        checkpoint = read_checkpoint(path)
        given = None if tokenizer is None else Path(tokenizer).expanduser()
        found = Source(model, None, None, checkpoint.random, checkpoint=checkpoint,
                       tokenizers=tokenizers.find(checkpoint.vocabulary, given, hub_below(cache)))  # fmt: skip
    elif tokenizer is not None:
        raise ModelError(f"a tokenizer is for a model in one file: {model} has its own; leave --tokenizer out")
    else:
        found = _resolve_folder(model, revision, cache)
    return found if vae is None else replace(found, vae=locate(vae))


def _resolve_folder(model: str, revision: str | None, cache: Path | None) -> Source:
    if model in RANDOM_MODELS:
        folder = None if model == "sdxl-random" else built(model, cache)
        return Source(model, folder, f"recipe-{RECIPE_VERSION}", random=True)
    if model == DEMO_MODEL:
        return Source(model, demo_folder(), f"demo-{DEMO_VERSION}", random=False, demo=True)
    if is_local(model):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise ModelError(f"model folder {model}: there is no such folder")
        return Source(model, folder, None, is_random(folder))
    check_hub_id(model)
    revision = revision or PINNED.get(model)
    folder = cached_snapshot(model, revision, cache)
    return Source(model, folder, folder.name, is_random(folder))


def native_size(source: Source) -> int:
    """The side in pixels that the model was trained for. Raises ModelError for a folder of another kind of model."""
    if source.folder is not None:
        return check_kind(source.folder)
    return (source.checkpoint.recipe if source.checkpoint else recipe(source.name)).native_size


def workload(
    source: Source,
    *,
    prompts_known: bool = True,
    loras: Sequence[LoraFile] = (),
    fused: Mapping[str, float] | None = None,
    clip_model: str | None = None,
) -> Workload:
    """What the planner needs to know of the model, of LoRAs that are not merged into it (`fused`), and of the CLIP
    model that images are scored by.

    Raises ModelError for a folder of another kind of model.
    """
    side = native_size(source)
    if source.vae is not None:
        upcast = upcasts(source.vae)
    elif source.folder is not None:
        upcast = upcasts_vae(source.folder)
    elif source.checkpoint is not None:
        upcast = source.checkpoint.vae_upcasts
    else:
        upcast = bool(recipe(source.name).vae["force_upcast"])
    held = 0 if fused is not None else sum(locate_lora(one.path).stat().st_size for one in loras)
    scoring = 0 if clip_model is None else score_models.locate_clip(clip_model).bytes
    return Workload(side, upcast, prompts_known, held, scoring)


def find(
    source: Source,
    *,
    dtype: str,
    published: bool = False,
    cache: Path | None = None,
    seconds: float = 0.0,
    loras: Sequence[LoraFile] = (),
    fill_model: str | None = None,
    clip_model: str | None = None,
    lpips_model: str | None = None,
) -> FoundModel:
    """Check that what `source` names is whole for `dtype`: what is read depends on it.

    `fill_model` is the file of the network that rows are filled by, which is read and tried; so is that of
    `lpips_model`. `clip_model` is a folder, whose headers are read. With `published`, weights
    whose SHA-256 is known are compared with it. `seconds` is what it took to get the source.
    Raises ModelError that names the file and the cure.
    """
    began = time.perf_counter()
    fill = None if fill_model is None else fill_models.load(fill_model)
    scores = score_models.find(clip_model, lpips_model, verified_notes(home_at(cache)))
    vae = None if source.vae is None else find_vae(source.vae, verified_notes(home_at(cache)))
    if source.checkpoint is not None:
        weights: Verified | None = verify_file(source.checkpoint.path, cache)
    else:
        weights = None if source.folder is None else verify(source.folder, dtype=dtype, strict=False)
        if weights is not None and published:
            check_published(weights, cache)
    found = find_loras(loras, verified_notes(home_at(cache)))
    return FoundModel(source, weights, seconds + time.perf_counter() - began, vae, found, fill, scores)


def is_local(model: str) -> bool:
    """Whether `model` names a folder or a file rather than a hub id: by its first characters, its suffix, or since it
    is there.
    """
    return model.startswith(("/", "./", "../", "~")) or is_file_name(model) or Path(model).is_dir()


def built(model: str, cache: Path | None) -> Path:
    """The folder of the random model `model`, which is built where it is not there yet."""
    from inpaint_ops.model.random_weights import ensure  # building needs torch; finding and fetching do not

    return ensure(model, home_at(cache))


def check_hub_id(model: str) -> None:
    """Raise ModelError unless `model` looks like owner/name."""
    if not _HUB_ID.fullmatch(model):
        names = ", ".join(OWN_MODELS)
        raise ModelError(f"model {model!r}: neither a folder here, nor a hub id (owner/name), nor one of {names}")


def cached_snapshot(model: str, revision: str | None, cache: Path | None) -> Path:
    """The folder of a hub model in the cache, whole or not. Raises ModelError where there is none."""
    # Only the index is asked for: the hub's client compares a snapshot with all files of the repository, of which we
    # fetch some. Whether ours are all there, `verify` says.
    wanted = ["model_index.json"]
    at = f"{model} at revision {revision}" if revision else model
    try:
        return Path(
            snapshot_download(
                model, revision=revision, cache_dir=hub_below(cache), allow_patterns=wanted, local_files_only=True
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{at} is not in the cache {hub_below(cache)}: run `inpaint-ops models pull {model}` or the DAG model_cache"
        ) from error
