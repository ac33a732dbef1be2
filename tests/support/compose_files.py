"""The compose files as data."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE_FILES = ("docker-compose.yaml", "docker/cluster.yaml", "docker/gpu-machine.yaml", "docker/warm-host.yaml")
AIRFLOW_SERVICES = (
    "init",
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
    "worker",
    "gpu-worker",
    "cpu-painter",
)


@lru_cache
def compose(name: str = "docker-compose.yaml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found
