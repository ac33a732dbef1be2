"""What the models of this package are called, where they lie and how they are marked: the part that needs no torch."""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL = "demo"
"""The small trained model that comes with the package."""

DEMO_VERSION = 1
"""Raised whenever the demo model is trained anew."""

RANDOM_MODELS = ("tiny-random", "mid-random", "sdxl-random")
"""The models that this package makes; the last is made on the device, without files."""

OWN_MODELS = (DEMO_MODEL, *RANDOM_MODELS)

RECIPE_VERSION = 1
"""Raised whenever a recipe's bytes change: folders of another version are not reused."""

MARKER = "inpaint_ops_random.json"
"""The file in a model folder that says that the weights are random."""


def is_random(folder: Path) -> bool:
    """Whether a model folder carries our marker."""
    return (folder / MARKER).is_file()


def demo_folder() -> Path:
    """The demo model's diffusers folder, in the package."""
    return Path(__file__).parent / "demo"
