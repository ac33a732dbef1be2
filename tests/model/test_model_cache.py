"""Where models lie: as huggingface_hub itself has it, and the same for everybody who asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inpaint_ops.cli.doctor import diagnose
from inpaint_ops.config import Settings
from inpaint_ops.housekeeping import Retention, in_the_model_cache
from inpaint_ops.model import cache
from inpaint_ops.model.cached_models import cached_models
from inpaint_ops.supervisor.confinement import worker_environment

VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
ENVIRONMENTS = (
    {},
    {"HF_HOME": "/app/model_cache"},
    {"HF_HUB_CACHE": "/x"},
    {"HF_HOME": "/app/model_cache", "HF_HUB_CACHE": "/x"},
    {"HUGGINGFACE_HUB_CACHE": "/old"},
    {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/x"},
    {"XDG_CACHE_HOME": "/xdg"},
    {"HF_HOME": "~/models"},
    {"HF_HOME": "$HOME/models"},
    {"HF_HUB_CACHE": "~/hub"},
)
_ASKS_THE_HUB = (
    "from huggingface_hub import constants as c; import json; print(json.dumps([c.HF_HOME, c.HF_HUB_CACHE]))"
)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of the cache is set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_the_cache_is_where_huggingface_hub_has_it(plain: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        plain.setenv(name, value)
    asked = subprocess.run([sys.executable, "-c", _ASKS_THE_HUB], capture_output=True, text=True, check=True)
    assert [str(cache.cache_home()), str(cache.hub_cache())] == json.loads(asked.stdout)
    kept = worker_environment(os.environ)
    assert cache.hub_cache(kept) == cache.hub_cache(), "a worker looks in the same place"


def test_everybody_finds_a_model_where_the_hubs_variable_says(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain.setenv("HF_HOME", str(tmp_path / "home"))
    plain.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    settings = Settings(model="owner/name", scratch=tmp_path)

    def state() -> str:
        return next(check.state for check in diagnose(settings) if check.name == "model")

    assert state() == "missing"
    cache.blobs(cache.hub_cache(), "owner/name").mkdir(parents=True)
    assert state() == "missing", "a fetch that has only begun is no model"
    folder = cache.snapshot(cache.hub_cache(), "owner/name", "0" * 40)
    folder.mkdir(parents=True)
    assert tmp_path / "elsewhere" in folder.parents
    assert state() == "ok"
    (found,) = cached_models()
    assert (found.name, found.revision, found.folder) == ("owner/name", "0" * 40, folder)
    assert not list(in_the_model_cache(cache.hub_cache(), Retention(), keep=["owner/name"]))


def test_a_name_and_its_folder_are_each_others_inverse(tmp_path: Path) -> None:
    folder = cache.repository(tmp_path, "owner/some-name.v1")
    assert cache.model_name(folder) == "owner/some-name.v1"


def test_looking_for_a_model_imports_no_model_stack() -> None:
    code = (
        "import sys, inpaint_ops.model.cache; assert not {'torch', 'huggingface_hub', 'safetensors'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
