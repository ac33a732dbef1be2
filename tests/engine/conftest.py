"""What the engine's tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from inpaint_ops.engine import Engine
from inpaint_ops.model.random_weights import instantiate
from tests.support.engine_parts import painting_model


@pytest.fixture(scope="module")
def halves() -> Iterator[Any]:
    """The tiny pipeline in bfloat16, which a CPU computes, and which can be widened."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield instantiate("tiny-random", torch.device("cpu"), torch.bfloat16)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other on a busy machine: 100 s instead of 7
    yield instantiate("tiny-random")
    torch.set_num_threads(threads)


@pytest.fixture
def make(pipe: Any) -> Iterator[Callable[..., Engine]]:
    """Engines on the one pipeline; what a test hangs onto it is taken off afterwards."""

    def engine(batch_size: int = 4, **options: Any) -> Engine:
        own = {name: options.pop(name) for name in ("listener", "prompts_kept") if name in options}
        return Engine(painting_model(pipe, batch_size, **options), **own)

    encoders = pipe.text_encoder, pipe.text_encoder_2
    yield engine
    pipe.text_encoder, pipe.text_encoder_2 = encoders
    for module in (pipe, pipe.unet, pipe.vae):
        for name in ("encode_prompt", "encode", "decode", "forward"):
            module.__dict__.pop(name, None)
