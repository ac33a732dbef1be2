"""What the tests of models share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inpaint_ops.model import random_weights


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(cache: Path, tmp_path: Path) -> Path:
    """A copy of tiny-random that a test may spoil."""
    return Path(shutil.copytree(random_weights.ensure("tiny-random", cache), tmp_path / "model"))
