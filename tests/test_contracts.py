"""The import contracts of pyproject.toml leave no module out."""

from __future__ import annotations

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MAY_IMPORT_TORCH = {"inpaint_ops.engine", "inpaint_ops.model"}
"""The only packages that may import torch; the worker reaches it through them, and is named in the contract."""


def test_every_module_but_the_models_and_the_engine_is_kept_from_torch() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if "torch" in one.get("forbidden_modules", ())]
    found = {
        f"inpaint_ops.{path.stem}"
        for path in (REPOSITORY / "inpaint_ops").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert found > MAY_IMPORT_TORCH
    assert set(contract["source_modules"]) == (found - MAY_IMPORT_TORCH) | {"inpaint_ops_airflow"}
