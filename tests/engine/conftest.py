"""What the engine's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inpaint_ops.model.random_weights import instantiate


@pytest.fixture(scope="module")
def halves() -> Iterator[Any]:
    """The tiny pipeline in bfloat16, which a CPU computes, and which can be widened."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield instantiate("tiny-random", torch.device("cpu"), torch.bfloat16)
    torch.set_num_threads(threads)
