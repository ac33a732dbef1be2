"""Weights that are not the published ones are told before they paint."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from inpaint_ops.errors import ModelError
from inpaint_ops.model import digests
from inpaint_ops.model.digests import KNOWN, check_digests, sha256, write_known
from inpaint_ops.model.pulling import pull
from inpaint_ops.model.random_weights import ensure
from inpaint_ops.model.verifying import check_published, verify


def flip(path: Path) -> None:
    """Another bit in the middle: the header still fits, so that only the digest tells."""
    with path.open("r+b") as opened:
        opened.seek(path.stat().st_size * 3 // 4)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure("tiny-random", tmp_path_factory.mktemp("cache"))


def test_a_flipped_bit_is_found_and_pulling_replaces_it(built: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = cache / "random" / built.name
    shutil.copytree(built, folder)
    whole = verify(folder)
    check_published(whole, cache)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    before = sha256(weights)
    flip(weights)
    verify(folder)  # by header and length it is whole
    with pytest.raises(ModelError, match=re.escape(str(weights)) + ".*damaged.*models pull"):
        check_published(whole, cache)
    said: list[str] = []
    assert pull("tiny-random", cache=cache, on_progress=said.append) == folder
    assert sha256(weights) == before
    assert "damaged" in said[0]
    check_published(verify(folder), cache)


def test_a_file_cut_short_is_replaced_as_well(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "random" / built.name
    shutil.copytree(built, folder)
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    pull("tiny-random", cache=tmp_path)
    check_published(verify(folder), tmp_path)


def test_a_file_in_the_hubs_cache_is_known_by_its_name(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (tmp_path / "weights").write_bytes(b"numbers")
    blob = blobs / sha256(tmp_path / "weights")
    (tmp_path / "weights").rename(blob)
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    check_digests(snapshot, ["model.safetensors"], tmp_path / "notes")
    blob.write_bytes(b"numbErs")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        check_digests(snapshot, ["model.safetensors"], tmp_path / "notes")


def test_what_was_found_right_is_read_once_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    write_known(tmp_path)
    assert (tmp_path / KNOWN).read_text().endswith("  a.safetensors\n")
    read: list[Path] = []
    monkeypatch.setattr(digests, "sha256", lambda path: read.append(path) or sha256(path))
    for _ in range(2):
        check_digests(tmp_path, ["a.safetensors", "unknown.safetensors"], tmp_path / "notes")
    assert read == [tmp_path / "a.safetensors"]
