"""What this machine can do, and what is missing, before a run is started."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from inpaint_ops.config import Settings
from inpaint_ops.device import visible_devices
from inpaint_ops.device.health import device_health, health_warnings
from inpaint_ops.errors import AccessDeniedError, InpaintOpsError, ModelError, UnsafePathError
from inpaint_ops.images.formats import FORMATS
from inpaint_ops.locations import Location, parse
from inpaint_ops.machine.private_folder import read_bounded, trusted_folder
from inpaint_ops.model.cache import cache_home, hub_cache, repository, snapshots
from inpaint_ops.model.own_models import DEMO_MODEL, PICKLES, RANDOM_MODELS
from inpaint_ops.records import Model
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import Storage
from inpaint_ops.storage.probe import probe_conditional_put, probe_etag
from inpaint_ops.storage.s3_client import Checksums, make_s3_client, sends_checksums
from inpaint_ops.storage.s3_errors import CHECKSUM_CURE
from inpaint_ops.tuning import MAX_PROBE_BYTES, PROBES, AttentionProbe

MODEL_STACK = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors")

SDXL_SCRATCH_BYTES = 2 * 2**30
"""Free scratch below this is worth a warning: some hundred photos in flight and their results."""

SDXL_FP16_BYTES = 6_940_000_000
"""What `variant="fp16"` of the SDXL inpainting model takes on disk."""


class Check(Model):
    """One finding. `missing` means that a run cannot work here; `warning` that it may be slow or fail later."""

    name: str
    state: Literal["ok", "warning", "missing"]
    detail: str


def diagnose(settings: Settings, store: str | None = None) -> list[Check]:
    """Look at the interpreter, the model stack, the devices, the model cache, the scratch folder and the store."""
    return [
        _interpreter(),
        *_model_stack(),
        *_formats(),
        *_devices(),
        *_attention(),
        _model(settings),
        _scratch(settings),
        _store(settings, store or settings.store),
    ]


def _interpreter() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13) and sys.platform == "linux"
    return Check(
        name="python",
        state="ok" if good else "warning",
        detail=f"{version} on {sys.platform}" + ("" if good else "; tested on Linux with 3.11 to 3.13"),
    )


def _model_stack() -> Iterator[Check]:
    for name in MODEL_STACK:
        if importlib.util.find_spec(name) is None:
            yield Check(name=name, state="missing", detail="not installed: pip install -r requirements.txt")
        else:
            yield Check(name=name, state="ok", detail=importlib.metadata.version(name))
    if importlib.util.find_spec("xformers") is None:
        yield Check(name="xformers", state="warning", detail="not installed; PyTorch's own attention is used")
    else:
        yield Check(
            name="xformers", state="ok", detail=f"{importlib.metadata.version('xformers')} (probed by each worker)"
        )


def _formats() -> Iterator[Check]:
    names = ", ".join(one.name for one in FORMATS if one.is_there)
    yield Check(name="image formats", state="ok", detail=f"read here: {names}")
    for one in FORMATS:
        if not one.is_there:
            yield Check(
                name="image formats", state="warning", detail=f"not read here: {one.name}; install {one.install}"
            )


def _devices() -> Iterator[Check]:
    found = visible_devices()
    if not found:
        yield Check(name="device", state="warning", detail=f"no GPU; {os.cpu_count()} CPU cores: it works, slowly")
    for device in found:
        warnings = health_warnings(None, device_health(device.uuid), 0)
        yield Check(name="device", state="warning" if warnings else "ok", detail=" ".join([str(device), *warnings]))


def _attention() -> Iterator[Check]:
    """What workers have found out about the attention kernels of the cards that use this model cache."""
    paths = sorted((cache_home() / PROBES).glob("*.json"))
    if not paths:
        yield Check(name="attention", state="ok", detail="kernels are not tried yet: the first worker does it")
    for path in paths:
        try:
            probe = AttentionProbe.model_validate_json(read_bounded(path, MAX_PROBE_BYTES, owners=None))
        except (OSError, UnsafePathError, ValidationError):
            continue  # the next worker writes it anew
        without = ", ".join(sorted(probe.why_not))
        missing = f"; not usable: {without}" if without else ""
        yield Check(name="attention", state="ok", detail=f"{probe.device}, {probe.dtype}: {probe.in_words()}{missing}")


def _model(settings: Settings) -> Check:
    name = settings.model
    if name in RANDOM_MODELS:
        return Check(name="model", state="warning", detail=f"{name}: random weights, the images mean nothing")
    if name == DEMO_MODEL:
        return Check(name="model", state="ok", detail=f"{name}: a small model for trying out; it ignores prompts")
    if Path(name).is_dir():
        return Check(name="model", state="ok", detail=f"folder {name}")
    if Path(name).suffix.lower() in (".safetensors", *PICKLES):
        return _model_file(settings)
    hub = hub_cache()
    if any(snapshots(repository(hub, name))):
        return Check(name="model", state="ok", detail=f"{name} in {hub}")
    free = shutil.disk_usage(_existing(hub)).free
    room = "" if free > SDXL_FP16_BYTES else f"; only {free / 1e9:.1f} GB free, it takes about 7 GB"
    return Check(name="model", state="missing", detail=f"{name} is not in {hub}: inpaint-ops models pull{room}")


def _model_file(settings: Settings) -> Check:
    """A model in one file: by its header, and whether it finds a tokenizer."""
    try:
        from inpaint_ops.model import checkpoints, tokenizers  # need safetensors, which is not in Airflow's own image

        about = checkpoints.read_checkpoint(Path(settings.model).expanduser())
        given = None if settings.tokenizer is None else Path(settings.tokenizer).expanduser()
        found = tokenizers.find(about.vocabulary, given, hub_cache())
    except (ModelError, ModuleNotFoundError) as error:
        return Check(name="model", state="missing", detail=str(error))
    way = "an inpainting model" if about.channels == 9 else "plain SDXL, painted by masked latents"
    return Check(name="model", state="ok", detail=f"file {settings.model}: {way}; tokenizer: {found}")


def _scratch(settings: Settings) -> Check:
    folder = _existing(settings.scratch)
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Check(
            name="scratch", state="missing", detail=f"{settings.scratch} cannot be written: set INPAINT_SCRATCH"
        )
    try:
        trusted_folder(folder, make=False, sticky=True)
    except (OSError, UnsafePathError) as error:
        return Check(name="scratch", state="missing", detail=f"{error} (INPAINT_SCRATCH)")
    state: Literal["ok", "warning"] = "ok" if free > SDXL_SCRATCH_BYTES else "warning"
    return Check(name="scratch", state=state, detail=f"{settings.scratch}, {free / 1e9:.1f} GB free")


def _existing(path: Path) -> Path:
    """The path, or the nearest parent that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _store(settings: Settings, uri: str) -> Check:
    if not uri:
        return Check(name="store", state="warning", detail="not set: INPAINT_STORE or --out")
    try:
        root = parse(uri).as_prefix()
        problem = _store_problem(settings, root)
        if problem is None:
            return Check(
                name="store", state="ok", detail=f"{uri}: writable, put-if-absent holds{_etags(settings, root)}"
            )
    except InpaintOpsError as error:
        return Check(name="store", state="missing", detail=str(error))
    return Check(name="store", state="missing", detail=f"{uri}: {_without_checksums(settings, root, problem)}")


def _store_problem(settings: Settings, root: Location, checksums: Checksums | None = None) -> str | None:
    """Why runs cannot be kept at `root`, or None. Raises InpaintOpsError where that cannot be found out."""
    storage = _storage(settings, root, checksums)
    try:
        problem = probe_conditional_put(storage, root.join("doctor/"))
    except AccessDeniedError as error:
        return str(error)
    if problem is None:
        next(iter(storage.list(root, direct=True)), None)
    return problem


def _without_checksums(settings: Settings, root: Location, problem: str) -> str:
    """The problem, and whether it is gone once writes carry none of the SDK's checksum headers: that is tried."""
    if root.bucket is None or not sends_checksums(make_s3_client()):
        return problem
    try:
        still = _store_problem(settings, root, "when_required")
    except InpaintOpsError as error:
        still = str(error)
    if still is None:
        return f"it accepts writes only without the SDK's checksum headers: {CHECKSUM_CURE} (with them: {problem})"
    return f"{problem} (tried without the SDK's checksum headers too: {still})"


def _etags(settings: Settings, root: Location) -> str:
    if root.bucket is None or settings.etag_md5 == "off":
        return ""
    if probe_etag(_storage(settings, root), root.join("doctor/")):
        return "; its ETags are MD5s"
    return "; its ETags are not MD5s, so reads are checked by the store's checksums, or by length"


def _storage(settings: Settings, root: Location, checksums: Checksums | None = None) -> Storage:
    client = partial(
        make_s3_client, attempts=settings.storage_tries, requester_pays=settings.requester_pays, checksums=checksums
    )
    return Workspace.open(settings, store=root.full_uri, s3_client=client).storage
