"""Where compiled graphs are kept: one folder for everything that they depend on beyond their shapes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from inpaint_ops.model import compiled
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning import Tuning
from tests.support.engine_parts import forget_graphs
from tests.support.waiting import PATIENCE

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
    assert "the next process compiles again" in compiled.keep_in(folder(tmp_path))
    assert compiled.VARIABLE not in os.environ
    assert compiled.keep_in(tmp_path / "good") == ""
    assert os.environ[compiled.VARIABLE] == str(tmp_path / "good")
    monkeypatch.delenv(compiled.VARIABLE)


def test_a_long_compilation_gives_signs_of_life_and_a_hanging_one_stops_to() -> None:
    """A compiler that does not go on before it was reported on, and then as often as it may be."""
    heard: list[float] = []
    grown = threading.Condition()

    def report(seconds: float) -> None:
        with grown:
            heard.append(seconds)
            grown.notify_all()

    def slow(graph: Any, inputs: Any) -> Any:
        with grown:
            assert grown.wait_for(lambda: len(heard) >= 3, PATIENCE), "nothing was heard while it compiled"
        return graph

    forget_graphs()
    watch = compiled.CompileWatch(report, every=0.001)
    try:
        assert torch.compile(lambda x: x + 1, backend=slow)(torch.zeros(1)).item() == 1
    finally:
        watch.close()
    seen = list(heard)  # one more may come: it was on its way
    assert seen == sorted(seen)

    too_long: list[float] = []
    silent = compiled.CompileWatch(too_long.append, every=0.001, limit=0)
    witness = compiled.CompileWatch(lambda _: passed.set(), every=0.001)
    passed = threading.Event()

    def hanging(graph: Any, inputs: Any) -> Any:
        assert passed.wait(PATIENCE)
        return graph

    try:
        assert torch.compile(lambda x: x + 2, backend=hanging)(torch.zeros(1)).item() == 2
    finally:
        silent.close(), witness.close()
        forget_graphs()
    assert not too_long, "what takes longer than the limit is not reported on"
