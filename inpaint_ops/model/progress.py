"""Silence the progress bars of diffusers, transformers and the hub, never their warnings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers.utils.logging as diffusers_logging
import transformers.utils.logging as transformers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Within the block no library draws a bar: a task's log is no terminal. What was on before is on afterwards."""
    before = (
        diffusers_logging.is_progress_bar_enabled(),
        transformers_logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        for was_on, enable in zip(
            before,
            (diffusers_logging.enable_progress_bar, transformers_logging.enable_progress_bar, enable_progress_bars),
            strict=True,
        ):
            if was_on:
                enable()
