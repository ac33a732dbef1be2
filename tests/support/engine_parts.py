"""What an engine is made of in tests: a model around a real pipeline, and a listener that remembers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from inpaint_ops.tuning import Tuning


def painting_model(pipe: Any, batch_size: int = 4, **more: Any) -> Any:
    """A model as the engine wants it, without relief, compiler and kernels unless `more` says otherwise."""
    plain = {
        "tuning": Tuning(batch_size=batch_size),
        "is_compiled": False,
        "kernels": nullcontext,
        "relieve": lambda: None,
        "compile_seconds": lambda: 0.0,
        "uncompile": lambda error: None,
    }
    return SimpleNamespace(pipe=pipe, **(plain | more))


@dataclass
class Remembering:
    """A listener that keeps all that it hears."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    prompts: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def step(self, step: int, steps: int) -> None:
        self.steps.append((step, steps))

    def prompt_encoded(self, done: int, total: int) -> None:
        self.prompts.append((done, total))

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def out_of_memory(self, message: str) -> None:
        self.memory.append(message)
