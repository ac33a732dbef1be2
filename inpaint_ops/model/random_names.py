"""What the random models are called and how their folders are marked: the part that needs no torch."""

from __future__ import annotations

from pathlib import Path

RANDOM_MODELS = ("tiny-random", "mid-random", "sdxl-random")
"""The models that this package makes; the last is made on the device, without files."""

RECIPE_VERSION = 1
"""Raised whenever a recipe's bytes change: folders of another version are not reused."""

MARKER = "inpaint_ops_random.json"
"""The file in a model folder that says that the weights are random."""


def is_random(folder: Path) -> bool:
    """Whether a model folder carries our marker."""
    return (folder / MARKER).is_file()
