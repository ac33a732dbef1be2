"""The masks that docs/manifest.md shows are read as it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.errors import MaskError
from inpaint_ops.images import read_mask
from tests.images.mask_kinds import full

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFUSED = {"white-with-hole", "several-labels"}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_masks", DOCS / "masks/make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = script()
FILES = sorted(DOCS.glob("masks/*.png"))


def test_every_picture_is_the_scripts_and_on_the_page() -> None:
    page = (DOCS / "manifest.md").read_text()
    assert {path.stem for path in FILES} == set(MAKE.pictures())
    for path in FILES:
        made = MAKE.pictures()[path.stem]
        with Image.open(path) as kept:
            assert kept.mode == made.mode and np.array_equal(np.asarray(kept), np.asarray(made)), path.name
        assert path.stat().st_size < 4096
        assert f"(masks/{path.name})" in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_picture_means_what_the_page_says(path: Path) -> None:
    shape = full(MAKE.shape())
    size = shape.shape[::-1]

    def weights(**options: object) -> np.ndarray:
        return read_mask(path.read_bytes(), size=size, max_pixels=10_000, **options).weights  # type: ignore[arg-type]

    if path.stem not in REFUSED:
        expected = np.asarray(MAKE.pictures()["soft"]) if path.stem == "soft" else shape
        assert np.array_equal(weights(), expected)
        return
    with pytest.raises(MaskError, match="give mask_channel"):
        weights()
    if path.stem == "white-with-hole":
        assert np.array_equal(weights(channel="alpha", invert=True), shape)
    else:
        assert np.array_equal(weights(channel="red") > 0, (shape > 0) & (np.asarray(Image.open(path))[..., 0] > 0))
