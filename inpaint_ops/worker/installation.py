"""What is installed: the versions that a report names, and what two processes must have alike to share imports."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from pathlib import Path

import inpaint_ops

PACKAGES = ("inpaint-ops", "torch", "diffusers", "transformers", "accelerate", "peft", "xformers", "safetensors",
            "pillow", "numpy", "opencv-python-headless")  # fmt: skip
"""Whose versions a report names."""


def versions() -> dict[str, str]:
    """The versions of Python and of those PACKAGES that are installed."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def installation() -> dict[str, str]:
    """What is on disk now: the versions, where the interpreter has its packages, and a digest of this package's files
    (names, sizes and times), which an edit or an upgrade to the same version changes.
    """
    root = Path(inpaint_ops.__file__).parent
    files = ((path.relative_to(root), path.stat()) for path in sorted(root.rglob("*.py")))
    lines = "".join(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n" for name, found in files)
    code = hashlib.sha256(lines.encode()).hexdigest()[:16]
    return versions() | {"interpreter": sys.prefix, "package": str(root), "code": code}
