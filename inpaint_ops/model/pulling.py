"""Fetching a model from the hub into the cache of this machine: the one module of models that uses the network.

Imports no torch. Only safetensors are ever fetched: a pickle can run code when it is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from inpaint_ops.errors import ModelError
from inpaint_ops.model.cache import fetch_lock, fetch_note, home_at, hub_below, snapshot, verified_notes
from inpaint_ops.model.checkpoints import is_file_name
from inpaint_ops.model.digests import check_digests
from inpaint_ops.model.fetching import fetch_blob, part_bytes
from inpaint_ops.model.own_models import DEMO_MODEL, RANDOM_MODELS, demo_folder
from inpaint_ops.model.sources import PINNED, built, cached_snapshot, check_hub_id, is_local, resolve
from inpaint_ops.model.verifying import COMPONENTS, WEIGHTS, check_published, check_whole, verify, verify_file

_FETCHES = 4
"""Files fetched at a time: SDXL has four large ones."""


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
        folder = built(model, cache)
        if _damaged(folder, cache):
            say(f"{folder} is damaged: built anew")
            shutil.rmtree(folder)
            folder = built(model, cache)
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
    check_hub_id(model)
    revision = revision or PINNED.get(model)
    if constants.HF_HUB_OFFLINE:
        say(f"HF_HUB_OFFLINE is set: {model} is looked for in the cache alone")
        return verify(cached_snapshot(model, revision, cache)).folder
    hub = hub_below(cache)
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


def _damaged(folder: Path, cache: Path | None) -> list[Path]:
    """Weight files below `folder` that are cut short, or not the ones that were published."""
    bad = []
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            check_whole(path)
            check_digests(folder, [str(path.relative_to(folder))], verified_notes(home_at(cache)))
        except ModelError:
            bad.append(path)
    return bad


def _fetch_weights(model: str, revision: str, wanted: list[str], hub: Path, say: Callable[[str], None]) -> None:
    """The large files, each from where an earlier try stopped; the hub's client then finds them in its cache."""
    weights = [name for name in wanted if name.endswith(".safetensors")]
    with ThreadPoolExecutor(_FETCHES, "fetch") as pool:
        sizes = pool.map(lambda name: fetch_blob(model, revision, name, hub), weights)
        for name, size in zip(weights, sizes, strict=True):
            say(f"{name}: {size / 1e9:.2f} GB fetched" if size else f"{name}: here already")


def _note_fetch(folder: Path, seconds: float, size: int) -> None:
    """Note how long a fetch took; nothing is noted in a read-only cache."""
    with contextlib.suppress(OSError):
        fetch_note(folder).write_text(json.dumps({"seconds": seconds, "bytes": size}) + "\n", encoding="utf-8")


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
