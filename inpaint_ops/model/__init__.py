"""Weights to a tuned pipeline: `random_weights` builds, `sources` finds, `loading` loads, `tuned` applies, `ledger`
looks.

`load`, `pull` and `verify` are what other floors need. Importing this package imports no torch; using one of its
names does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inpaint_ops.model.xformers_log import hold_back

if TYPE_CHECKING:
    from inpaint_ops.model.loading import LoadedModel, load
    from inpaint_ops.model.sources import Verified, pull, verify

__all__ = ["LoadedModel", "Verified", "load", "pull", "verify"]

_HOMES = {"LoadedModel": "loading", "load": "loading", "Verified": "sources", "pull": "sources", "verify": "sources"}


hold_back()  # before anything here imports diffusers, which imports xFormers


def __getattr__(name: str) -> Any:
    """Import a name's module at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
