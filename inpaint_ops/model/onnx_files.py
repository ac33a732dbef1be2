"""A user's network as one ONNX file: which files are opened, and their bytes. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from inpaint_ops.errors import ModelError

MAX_BYTES = 2**31 - 1
"""The largest that one ONNX file can be (a limit of protobuf); LaMa's have 92 to 208 MB, LPIPS networks 3 to 59 MB."""


def locate(name: str, what: str, cure: str) -> Path:
    """The file that `name` names, by its suffix and its size; errors call it `what`. Raises ModelError."""
    path = Path(name).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ModelError(f"the {what} {name} is no .onnx file, and nothing else is opened: {cure}")
    if not path.is_file():
        raise ModelError(f"the {what} {name}: there is no such file")
    if not 0 < path.stat().st_size <= MAX_BYTES:
        raise ModelError(f"the {what} {name} has {path.stat().st_size:,} bytes: {cure}")
    return path


def read(name: str, what: str, cure: str) -> tuple[bytes, str]:
    """The bytes of a file as `locate` finds it, and their SHA-256: what was hashed is what runs. Raises ModelError."""
    try:
        with locate(name, what, cure).open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"the {what} {name} cannot be read: {error.strerror or error}") from error
    return data, hashlib.sha256(data).hexdigest()
