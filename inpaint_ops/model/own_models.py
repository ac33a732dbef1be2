"""What the models of this package are called, where they lie and how they are marked, and what is never opened.

Needs no library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEMO_MODEL = "demo"
"""The small trained model that comes with the package."""

DEMO_VERSION = 1
"""Raised whenever the demo model is trained anew."""

RANDOM_MODELS = ("tiny-random", "mid-random", "sdxl-random")
"""The models that this package makes; the last is made on the device, without files."""

OWN_MODELS = (DEMO_MODEL, *RANDOM_MODELS)

RECIPE_VERSION = 1
"""Raised whenever a recipe's bytes change: folders of another version are not reused."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of weights that are never opened."""

PICKLE_CURE = (
    "a pickle can run code when it is opened, so none is read: take the author's .safetensors file, or have it "
    "converted where foreign code may run"
)

MARKER = "inpaint_ops_random.json"
"""The file in a model folder that says that the weights are random."""


def is_random(folder: Path) -> bool:
    """Whether a model folder carries our marker."""
    return (folder / MARKER).is_file()


def write_marker(folder: Path, model: str, more: Mapping[str, Any] | None = None) -> None:
    """Mark the folder of `model` as one of random weights; `more` says how they were made."""
    marker = {
        "random_weights": True,
        "model": model,
        **(more or {}),
        "note": "The weights are random numbers: images painted with them mean nothing.",
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def demo_folder() -> Path:
    """The demo model's diffusers folder, in the package."""
    return Path(__file__).parent / "demo"
