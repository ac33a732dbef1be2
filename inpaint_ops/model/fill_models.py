"""The network of fill `lama`: a file that the user gives. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops.config import FILL_MODEL_CURE
from inpaint_ops.model import onnx_files

if TYPE_CHECKING:
    from inpaint_ops.images import Lama

_WHAT = "fill model"


@dataclass(frozen=True, slots=True)
class FillModel:
    """A network that has been tried. `digest` is the SHA-256 of its file."""

    path: Path
    digest: str
    network: Lama


def locate(name: str) -> Path:
    """The file that `name` names, by its suffix and its size. Raises ModelError that names the file and the cure."""
    return onnx_files.locate(name, _WHAT, FILL_MODEL_CURE)


def load(name: str) -> FillModel:
    """Read the file once, and try the network. Raises ModelError."""
    from inpaint_ops.images import Lama  # needs OpenCV, which planning does without

    data, digest = onnx_files.read(name, _WHAT, FILL_MODEL_CURE)
    return FillModel(locate(name), digest, Lama(data, f"the fill model {name}"))
