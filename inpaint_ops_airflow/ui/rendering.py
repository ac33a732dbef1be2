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
    return environment(FileSystemLoader(_HERE / "templates"))


def root_of(request: Request) -> str:
    """Where these pages lie, prefix and all, without a closing slash."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def airflow_root(request: Request) -> str:
    """Where Airflow itself lies, without a closing slash."""
    return root_of(request).removesuffix("/inpaint")


def render(request: Request, template: str, **context: Any) -> str:
    """A template as HTML. `root` is where these pages lie, and `airflow` where Airflow does."""
    template_ = _environment().get_template(template)
    return template_.render(root=root_of(request), airflow=airflow_root(request), **context)


@lru_cache(maxsize=32)
def asset(name: str) -> tuple[bytes, str, str] | None:
    """A file of ours, the report's style sheet, or the chart library out of its package, with its type and its ETag;
    None for any other name.
    """
    path = _HERE / "static" / name
    if name == "report.css":
        body = _environment().get_template("report.css").render(themes=True).encode()
    elif name == "chart.js":
        body = _chart_library().read_bytes()
    elif path.parent == _HERE / "static" and path.suffix in _TYPES and path.is_file():
        body = path.read_bytes()
    else:
        return None
    return body, _TYPES[Path(name).suffix], f'"{hashlib.sha256(body).hexdigest()[:20]}"'


def _chart_library() -> Path:
    """Chart.js, where the package `chartkick` has installed it."""
    spec = importlib.util.find_spec("chartkick")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package chartkick, which carries Chart.js, is not installed")
    return Path(spec.submodule_search_locations[0]) / "django" / "static" / "chartkick" / "Chart.bundle.js"
