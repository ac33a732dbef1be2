"""What `inpaint-ops inspect` says of a file: by the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint_ops import images
from inpaint_ops.images.metadata import NOTHING
from inpaint_ops.images.provenance import SOURCE_TYPE

MAKING = images.Making(
    tool="inpaint-ops", model="m", digest="", prompt="a boat", negative_prompt=None, seed=7, steps=3,
    guidance_scale=1.0, strength=1.0, scheduler="euler", size=(64, 64),
)  # fmt: skip


def inspect(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inpaint_ops.cli", "inspect", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_painted_image_says_how_it_was_made(tmp_path: Path) -> None:
    metadata, _ = images.marked(NOTHING, MAKING, policy="full", format="png")
    path = tmp_path / "image.png"
    path.write_bytes(images.encode(np.zeros((8, 12), np.uint16), format="png", icc=None, metadata=metadata))
    found = json.loads(inspect(path, "--json").stdout)
    assert (found["format"], found["size"], found["pixels"]) == ("png", "12x8", "gray, 16 bits")
    assert found["making"]["DigitalSourceType"] == SOURCE_TYPE
    assert found["making"]["parameters"].startswith("a boat\nSteps: 3")
    lines = inspect(path).stdout.splitlines()
    assert f"making       DigitalSourceType: {SOURCE_TYPE}" in lines


def test_a_plain_photo_says_nothing_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (20, 10)).save(path, dpi=(300, 300))
    done = inspect(path)
    assert done.returncode == 0
    assert "making       nothing is said of a model's work" in done.stdout
    assert "resolution   300x300 dpi" in done.stdout


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_one_line_and_exit_code_1(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    done = inspect(path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
