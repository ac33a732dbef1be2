"""The network of fill `lama`: a file that the user gives. No torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops.config import FILL_MODEL_CURE
from inpaint_ops.errors import ModelError

if TYPE_CHECKING:
    from inpaint_ops.images import Lama

MAX_BYTES = 2**31 - 1
"""The largest that one ONNX file can be (a limit of protobuf); LaMa's have 92 to 208 MB."""


@dataclass(frozen=True, slots=True)
class FillModel:
    """A network that has been tried. `digest` is the SHA-256 of its file."""

    path: Path
    digest: str
    network: Lama


def locate(name: str) -> Path:
    """The file that `name` names, by its suffix and its size. Raises ModelError that names the file and the cure."""
    path = Path(name).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ModelError(f"the fill model {name} is no .onnx file, and nothing else is opened: {FILL_MODEL_CURE}")
    if not path.is_file():
        raise ModelError(f"the fill model {name}: there is no such file")
    if not 0 < path.stat().st_size <= MAX_BYTES:
        raise ModelError(f"the fill model {name} has {path.stat().st_size:,} bytes: {FILL_MODEL_CURE}")
    return path


def load(name: str) -> FillModel:
    """Read the file once, so that what was hashed is what runs, and try the network. Raises ModelError."""
    from inpaint_ops.images import Lama  # needs OpenCV, which planning does without

    path = locate(name)
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"the fill model {name} cannot be read: {error.strerror or error}") from error
    return FillModel(path, hashlib.sha256(data).hexdigest(), Lama(data, f"the fill model {name}"))
