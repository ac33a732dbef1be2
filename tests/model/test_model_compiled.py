"""Where compiled graphs are kept: one folder for everything that they depend on beyond their shapes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.model import compiled
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning import Tuning

CARD = DeviceInfo(kind="cuda", name="NVIDIA H100", capability="9.0")
TUNING = Tuning(dtype="float16", compile="regional")
OTHERS: dict[str, dict[str, Any]] = {
    "another card": {"device": CARD.model_copy(update={"name": "NVIDIA A100", "capability": "8.0"})},
    "other weights": {"digest": "other"},
    "another dtype": {"tuning": TUNING.model_copy(update={"dtype": "bfloat16"})},
    "other attention": {"tuning": TUNING.model_copy(update={"attention": "xformers"})},
    "another mode": {"tuning": TUNING.model_copy(update={"compile": "max-autotune"})},
}


def folder(root: Path, *, device: DeviceInfo = CARD, digest: str = "weights", tuning: Tuning = TUNING) -> Path:
    return compiled.cache_folder(root, device, digest, tuning)


@pytest.mark.parametrize("what", OTHERS)
def test_what_a_graph_depends_on_has_a_folder_of_its_own(tmp_path: Path, what: str) -> None:
    assert folder(tmp_path, **OTHERS[what]) != folder(tmp_path)


def test_versions_are_a_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder(tmp_path)
    for package in ("torch", "triton", "diffusers"):
        with monkeypatch.context() as patched:
            patched.setattr(compiled, "_version", lambda name, package=package: "99" if name == package else "1")
            upgraded = folder(tmp_path)
            patched.setattr(compiled, "_version", lambda name: "1")
            assert folder(tmp_path) != upgraded
    assert folder(tmp_path) == before


def test_what_changes_no_graph_shares_the_folder(tmp_path: Path) -> None:
    same = TUNING.model_copy(update={"batch_size": 8, "vae_tiling": True, "release_text_encoders": True})
    assert folder(tmp_path, tuning=same) == folder(tmp_path)
    elsewhere = CARD.model_copy(update={"uuid": "GPU-2", "free_memory": 1})
    assert folder(tmp_path, device=elsewhere) == folder(tmp_path), "ten equal cards share what one has compiled"


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.VARIABLE, raising=False)
    (tmp_path / compiled.FOLDER).write_text("a file where the folder should be")
    assert "the next process compiles anew" in compiled.keep_in(folder(tmp_path))
    assert compiled.VARIABLE not in os.environ
    assert compiled.keep_in(tmp_path / "good") == ""
    assert os.environ[compiled.VARIABLE] == str(tmp_path / "good")
    monkeypatch.delenv(compiled.VARIABLE)
