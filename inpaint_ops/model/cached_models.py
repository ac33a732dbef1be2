"""What models the cache of this machine holds, whole or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.errors import ModelError
from inpaint_ops.model.cache import home_at, hub_below, model_name, random_folders, repositories, snapshots
from inpaint_ops.model.own_models import is_random
from inpaint_ops.model.verifying import verify


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
        for repository in repositories(hub_below(cache))
        for folder in snapshots(repository)
    ]
    for folder in random_folders(home_at(cache)):
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
