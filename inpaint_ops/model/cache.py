"""Where a model lies on this machine: the one module that knows the layout of the model cache.

The cache is huggingface_hub's own, found by its variables, so that models that other programs have fetched are used and
ours serve them. Imports no torch and no huggingface_hub: `doctor` and the clean-up of old models run without the model
stack.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from inpaint_ops.model.own_models import RECIPE_VERSION

_PREFIX = "models--"


def cache_home(environ: Mapping[str, str] | None = None) -> Path:
    """The root of the cache (HF_HOME), below which this package also keeps what it makes."""
    environ = os.environ if environ is None else environ
    above = environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _expanded(environ.get("HF_HOME") or os.path.join(above, "huggingface"))


def hub_cache(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of hub models: HF_HUB_CACHE, else its older name HUGGINGFACE_HUB_CACHE, else `hub` below HF_HOME."""
    environ = os.environ if environ is None else environ
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else cache_home(environ) / "hub"


def home_at(root: Path | None) -> Path:
    """`root` where one is given, else the machine's own root of the cache."""
    return root or cache_home()


def hub_below(root: Path | None) -> Path:
    """The folder of hub models below `root`, or the machine's own where none is given."""
    return root / "hub" if root else hub_cache()


def repository(hub: Path, model: str) -> Path:
    """The folder of the hub model `model` (owner/name) below the folder `hub`."""
    return hub / (_PREFIX + model.replace("/", "--"))


def model_name(folder: Path) -> str:
    """The hub id of a repository's folder: the inverse of `repository`."""
    return folder.name.removeprefix(_PREFIX).replace("--", "/")


def repositories(hub: Path) -> Iterator[Path]:
    """The folders of all models below `hub`, by name."""
    yield from sorted(hub.glob(f"{_PREFIX}*"))


def snapshots(repository: Path) -> Iterator[Path]:
    """The revisions of a model that are there, whole or in part; each folder is named by its commit."""
    yield from sorted(path for path in repository.glob("snapshots/*") if path.is_dir())


def snapshot(hub: Path, model: str, commit: str) -> Path:
    """Where the files of one commit of a hub model lie."""
    return repository(hub, model) / "snapshots" / commit


def blobs(hub: Path, model: str) -> Path:
    """Where the hub's client keeps a model's files, by their hash; snapshots link to them."""
    return repository(hub, model) / "blobs"


def fetch_lock(hub: Path, model: str) -> Path:
    """The file that the one process which fetches a model locks."""
    return hub / f".inpaint_ops-{model.replace('/', '--')}.lock"


def fetch_note(snapshot: Path) -> Path:
    """Where it stands how long the fetch of a snapshot took: outside of it, so that no file joins the repository's."""
    return snapshot.parent.parent / f"inpaint_ops-fetched-{snapshot.name}.json"


def random_folder(home: Path, name: str) -> Path:
    """Where our random model `name` is built."""
    return home / "random" / f"{name}-{RECIPE_VERSION}"


def random_folders(home: Path) -> Iterator[Path]:
    """The random models that are built, those of older recipes too."""
    yield from sorted(path for path in (home / "random").glob("[!.]*") if path.is_dir())


def verified_notes(home: Path) -> Path:
    """Where it stands which weight files were found to be the published ones."""
    return home / "inpaint_ops-verified"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))
