"""Finding a model: one of ours, a folder, or a pinned revision in the hub's cache; and fetching it.

Imports no torch. Only `pull` uses the network. Only safetensors are ever fetched or read: a pickle can run code when
it is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.errors import ModelError
from inpaint_ops.model import fill_models, score_models, tokenizers
from inpaint_ops.model.cache import (
    cache_home,
    fetch_lock,
    fetch_note,
    hub_cache,
    model_name,
    random_folders,
    repositories,
    snapshot,
    snapshots,
    verified_notes,
)
from inpaint_ops.model.checkpoints import Checkpoint, is_file_name, read_checkpoint
from inpaint_ops.model.digests import check_digests
from inpaint_ops.model.fetching import fetch_blob, part_bytes
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
from inpaint_ops.model.verifying import (
    COMPONENTS,
    WEIGHTS,
    Verified,
    check_kind,
    check_published,
    check_whole,
    upcasts_vae,
    verify,
    verify_file,
)
from inpaint_ops.records import LoraFile
from inpaint_ops.tuning import Workload

PINNED = {DEFAULT_MODEL: "115134f363124c53c7d878647567d04daf26e41e"}
"""Hub commits used where the user names no revision. Found in public logs of the model's cache, not fetched here."""

_FETCHES = 4
"""Files fetched at a time: SDXL has four large ones."""
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
                       tokenizers=tokenizers.find(checkpoint.vocabulary, given, _hub(cache)))  # fmt: skip
    elif tokenizer is not None:
        raise ModelError(f"a tokenizer is for a model in one file: {model} has its own; leave --tokenizer out")
    else:
        found = _resolve_folder(model, revision, cache)
    return found if vae is None else replace(found, vae=locate(vae))


def _resolve_folder(model: str, revision: str | None, cache: Path | None) -> Source:
    if model in RANDOM_MODELS:
        folder = None if model == "sdxl-random" else _built(model, cache)
        return Source(model, folder, f"recipe-{RECIPE_VERSION}", random=True)
    if model == DEMO_MODEL:
        return Source(model, demo_folder(), f"demo-{DEMO_VERSION}", random=False, demo=True)
    if is_local(model):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise ModelError(f"model folder {model}: there is no such folder")
        return Source(model, folder, None, is_random(folder))
    _check_hub_id(model)
    revision = revision or PINNED.get(model)
    folder = _cached(model, revision, cache)
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
    scores = score_models.find(clip_model, lpips_model, verified_notes(_root(cache)))
    vae = None if source.vae is None else find_vae(source.vae, verified_notes(_root(cache)))
    if source.checkpoint is not None:
        weights: Verified | None = verify_file(source.checkpoint.path, cache)
    else:
        weights = None if source.folder is None else verify(source.folder, dtype=dtype, strict=False)
        if weights is not None and published:
            check_published(weights, cache)
    found = find_loras(loras, verified_notes(_root(cache)))
    return FoundModel(source, weights, seconds + time.perf_counter() - began, vae, found, fill, scores)


def is_local(model: str) -> bool:
    """Whether `model` names a folder or a file rather than a hub id: by its first characters, its suffix, or since it
    is there.
    """
    return model.startswith(("/", "./", "../", "~")) or is_file_name(model) or Path(model).is_dir()


def pull(
    model: str,
    revision: str | None = None,
    cache: Path | None = None,
    *,
    variant: str = "fp16",
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """Fetch `model` into the cache and verify it; return its folder. What is there already is not fetched again.

    Takes the safetensors of `variant` where the hub has them, else the plain ones, and the small files beside them.
    Interrupted downloads resume; a lock lets one process fetch while others wait; the disk's free space is checked
    first. A folder is only verified; a random model is built (sdxl-random needs no files and is refused). Raises
    ModelError.
    """
    say = on_progress or (lambda _: None)
    if model == "sdxl-random":
        raise ModelError("sdxl-random needs no files: it is made on the device when a worker loads it")
    if model in RANDOM_MODELS:
        folder = _built(model, cache)
        if _damaged(folder, cache):
            say(f"{folder} is damaged: built anew")
            shutil.rmtree(folder)
            folder = _built(model, cache)
        verify(folder)
        return folder
    if model == DEMO_MODEL:
        say("demo comes with the package: nothing is fetched")
        check_published(found := verify(demo_folder()), cache)
        return found.folder
    if is_file_name(model):
        return verify_file(Path(model).expanduser(), cache).folder / Path(model).name
    if is_local(model):
        return verify(resolve(model).folder or Path(model)).folder
    _check_hub_id(model)
    revision = revision or PINNED.get(model)
    if constants.HF_HUB_OFFLINE:
        say(f"HF_HUB_OFFLINE is set: {model} is looked for in the cache alone")
        return verify(_cached(model, revision, cache)).folder
    hub = _hub(cache)
    try:
        hub.mkdir(parents=True, exist_ok=True)
        with FileLock(fetch_lock(hub, model)):
            info = HfApi().model_info(model, revision=revision, files_metadata=True)
            sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
            wanted = _files_wanted(model, list(sizes), variant)
            need, free = sum(sizes[name] for name in wanted), shutil.disk_usage(hub).free
            here = _bytes_here(hub, model, info.sha or "", wanted)
            begun = part_bytes(model, hub)
            if (more := need - here - begun) > free:
                raise ModelError(f"{model} needs {more / 1e9:.1f} GB more, {hub} has {free / 1e9:.1f} GB free")
            say(f"{model} at {info.sha}: {len(wanted)} files, {need / 1e9:.2f} GB, {more / 1e9:.2f} GB of it to fetch")
            started = time.perf_counter()
            for path in _damaged(snapshot(hub, model, info.sha or ""), cache):
                say(f"{path} is damaged: fetched anew")
                path.resolve().unlink()
                path.unlink(missing_ok=True)
            _fetch_weights(model, info.sha or "main", wanted, hub, say)
            folder = Path(snapshot_download(model, revision=revision, cache_dir=hub, allow_patterns=wanted))
            if here < need:
                _note_fetch(folder, time.perf_counter() - started, need - here)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"the hub has no {model} at revision {revision or 'main'}, or it needs a token") from error
    except ModelError:
        raise
    except Exception as error:
        # The hub's client lets its HTTP library's own exceptions through; which library depends on its version.
        raise ModelError(
            f"cannot fetch {model}: {' '.join(str(error).split())[:300]}; try again, it resumes"
        ) from error
    verify(folder)
    return folder


def seconds_to_fetch(folder: Path) -> float | None:
    """Seconds that the last fetch into this snapshot took; None for folders and what others have fetched."""
    note = fetch_note(folder)
    try:
        return float(json.loads(note.read_text(encoding="utf-8"))["seconds"]) if note.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the cache. `bytes` are those of its weights; `problem` is "" or what is missing, and the cure."""

    name: str
    revision: str
    folder: Path
    bytes: int
    variant: str | None
    random: bool
    problem: str = ""


def cached_models(cache: Path | None = None) -> list[CachedModel]:
    """Every model in the cache, whole or not, by name: the hub's snapshots, and the random ones that were built."""
    places = [
        (folder, model_name(repository), folder.name)
        for repository in repositories(_hub(cache))
        for folder in snapshots(repository)
    ]
    for folder in random_folders(_root(cache)):
        name, _, version = folder.name.rpartition("-")
        places.append((folder, name, f"recipe-{version}"))
    found = []
    for folder, name, revision in places:
        try:
            whole = verify(folder, strict=False)
            found.append(CachedModel(name, revision, folder, whole.bytes, whole.variant, is_random(folder)))
        except ModelError as error:
            there = sum(path.stat().st_size for path in folder.rglob("*.safetensors") if path.is_file())
            found.append(CachedModel(name, revision, folder, there, None, is_random(folder), str(error)))
    return sorted(found, key=lambda model: (model.name, model.revision))


def _damaged(folder: Path, cache: Path | None) -> list[Path]:
    """Weight files below `folder` that are cut short, or not the ones that were published."""
    bad = []
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            check_whole(path)
            check_digests(folder, [str(path.relative_to(folder))], verified_notes(_root(cache)))
        except ModelError:
            bad.append(path)
    return bad


def _built(model: str, cache: Path | None) -> Path:
    from inpaint_ops.model.random_weights import ensure  # building needs torch; finding and fetching do not

    return ensure(model, _root(cache))


def _fetch_weights(model: str, revision: str, wanted: list[str], hub: Path, say: Callable[[str], None]) -> None:
    """The large files, each from where an earlier try stopped; the hub's client then finds them in its cache."""
    weights = [name for name in wanted if name.endswith(".safetensors")]
    with ThreadPoolExecutor(_FETCHES, "fetch") as pool:
        sizes = pool.map(lambda name: fetch_blob(model, revision, name, hub), weights)
        for name, size in zip(weights, sizes, strict=True):
            say(f"{name}: {size / 1e9:.2f} GB fetched" if size else f"{name}: here already")


def _root(cache: Path | None) -> Path:
    return cache or cache_home()


def _note_fetch(folder: Path, seconds: float, size: int) -> None:
    """Note how long a fetch took; nothing is noted in a read-only cache."""
    with contextlib.suppress(OSError):
        fetch_note(folder).write_text(json.dumps({"seconds": seconds, "bytes": size}) + "\n", encoding="utf-8")


def _hub(cache: Path | None) -> Path:
    return cache / "hub" if cache else hub_cache()


def _check_hub_id(model: str) -> None:
    if not _HUB_ID.fullmatch(model):
        names = ", ".join(OWN_MODELS)
        raise ModelError(f"model {model!r}: neither a folder here, nor a hub id (owner/name), nor one of {names}")


def _cached(model: str, revision: str | None, cache: Path | None) -> Path:
    # Only the index is asked for: the hub's client compares a snapshot with all files of the repository, of which we
    # fetch some. Whether ours are all there, `verify` says.
    wanted = ["model_index.json"]
    at = f"{model} at revision {revision}" if revision else model
    try:
        return Path(
            snapshot_download(
                model, revision=revision, cache_dir=_hub(cache), allow_patterns=wanted, local_files_only=True
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{at} is not in the cache {_hub(cache)}: run `inpaint-ops models pull {model}` or the DAG model_cache"
        ) from error


def _files_wanted(model: str, names: list[str], variant: str) -> list[str]:
    """The repository's files to fetch: configurations, tokenizers, and one set of safetensors for each part."""
    wanted = [name for name in names if name == "model_index.json"]
    for part in COMPONENTS:
        mine = [name for name in names if name.startswith(f"{part}/")]
        wanted += [name for name in mine if name.endswith((".json", ".txt")) and ".safetensors." not in name]
        if part not in WEIGHTS:
            continue
        tensors = [name for name in mine if ".safetensors" in name]
        chosen = [name for name in tensors if f".{variant}." in name]
        chosen = chosen or [name for name in tensors if os.path.basename(name).count(".") == 1 or ".index." in name]
        if not chosen:
            raise ModelError(f"{model}: the hub has no safetensors for {part}, and nothing else is read")
        wanted += chosen
    return wanted


def _bytes_here(hub: Path, model: str, revision: str, wanted: list[str]) -> int:
    folder = snapshot(hub, model, revision)
    return sum((folder / name).stat().st_size for name in wanted if (folder / name).is_file())
