"""What a model's configuration files may ask for: checked before any library builds a model from them.

A configuration is data of whoever published the model. A number of layers of a million, or a noise schedule of ten
billion steps, costs the machine its memory or a worker its night before a single weight is read. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inpaint_ops.errors import ModelError

MAX_JSON_BYTES = 64 * 2**20
"""Of any JSON file of a model. Tokenizers have the largest, of some megabytes."""

MAX_CONFIG_BYTES = 2**20
"""Of a component's configuration; SDXL's have two kilobytes."""

MAX_NUMBER = 1_000_000
"""Of a size, a count or an id. SDXL's largest is a vocabulary of 49,408."""

MAX_LAYERS = 200
"""Of layers, blocks, and whatever else each becomes a module of its own; SDXL's largest is 32."""

MAX_ITEMS = 10_000
"""Of a list: `trained_betas` of a schedule may have one entry per training step."""

_LAYERS = ("layers", "blocks")
_CONFIGS = ("config.json", "scheduler_config.json", "model_index.json")


def check_configs(folder: Path) -> None:
    """Raise ModelError that names the file, the field and the cure where a configuration asks for the absurd."""
    for path in sorted(folder.rglob("*.json")):
        if not path.is_file():  # follows the links of the hub's cache; a FIFO would be waited for
            raise ModelError(f"{path} is not a regular file: fetch the model again, or use another")
        size, limit = path.stat().st_size, MAX_CONFIG_BYTES if path.name in _CONFIGS else MAX_JSON_BYTES
        if size > limit:
            raise ModelError(f"{path} has {size} bytes, the limit is {limit}: fetch the model again, or use another")
        if path.name in _CONFIGS:
            _check_config(path)


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON that can be read ({error}): fetch the model again") from None
    for field, value in _fields(config):
        most = MAX_LAYERS if any(word in field for word in _LAYERS) else MAX_NUMBER
        if isinstance(value, list):
            most = MAX_LAYERS if "block" in field else MAX_ITEMS
            if len(value) > most:
                raise ModelError(
                    f"{path}: {field} has {len(value)} entries, at most {most} are taken: use another model"
                )
        elif not -most <= value <= most:  # NaN too
            raise ModelError(f"{path}: {field} is {str(value)[:40]}, at most {most} is taken: use another model")


def _fields(config: Any) -> Iterator[tuple[str, list[Any] | int | float]]:
    """Every number and list of a configuration, with the name of the field that it stands under."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            yield name, value
            waiting += [(name, item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
