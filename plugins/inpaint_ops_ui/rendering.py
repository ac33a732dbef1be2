"""Templates: ours over those of the report, with its filters and its escaping."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader

from inpaint_ops.report.page import environment

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = environment(FileSystemLoader(_HERE / "templates"))
    made.globals["version"] = _version()
    return made


def render(request: Request, template: str, **context: Any) -> str:
    """A template as HTML. `root` is where these pages lie, prefix and all, and `airflow` where Airflow does."""
    root = str(request.scope.get("root_path", "")).rstrip("/")
    return _environment().get_template(template).render(root=root, airflow=root.removesuffix("/inpaint"), **context)


@lru_cache(maxsize=32)
def asset(name: str) -> tuple[bytes, str] | None:
    """A file of ours, the report's style sheet, or the chart library out of its package; None for any other name."""
    if name == "report.css":
        return _environment().get_template("report.css").render(themes=True).encode(), "text/css"
    if name == "chart.js":
        return _chart_library().read_bytes(), "text/javascript"
    path = _HERE / "static" / name
    if path.parent != _HERE / "static" or path.suffix not in _TYPES or not path.is_file():
        return None
    return path.read_bytes(), _TYPES[path.suffix]


def _chart_library() -> Path:
    """Chart.js, where the package `chartkick` has installed it."""
    spec = importlib.util.find_spec("chartkick")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package chartkick, which carries Chart.js, is not installed")
    return Path(spec.submodule_search_locations[0]) / "django" / "static" / "chartkick" / "Chart.bundle.js"


@lru_cache(maxsize=1)
def _version() -> str:
    """Changes with every file that a browser keeps."""
    digest = hashlib.sha256()
    for path in sorted((_HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    digest.update(_chart_library().name.encode())
    return digest.hexdigest()[:12]
