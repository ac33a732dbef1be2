"""What images are written as, for tests of each. Those of a plugin are skipped where it is not installed."""

from __future__ import annotations

import importlib.util
from typing import Any, get_args

import pytest

from inpaint_ops.images import Format

FORMATS: tuple[Format, ...] = get_args(Format)
HAS_JXL = importlib.util.find_spec("pillow_jxl") is not None
"""Whether JPEG XL is written here."""

_MISSING = pytest.mark.skipif(not HAS_JXL, reason="could not import 'pillow_jxl': No module named 'pillow_jxl'")
EACH_FORMAT: list[Any] = [pytest.param(one, marks=_MISSING) if one == "jxl" else one for one in FORMATS]
"""For `pytest.mark.parametrize`."""
