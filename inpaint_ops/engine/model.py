"""What the engine asks of a model."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from inpaint_ops.tuning import Tuning


class PaintingModel(Protocol):
    """What the engine needs of a loaded model (`model.loading.LoadedModel`)."""

    @property
    def pipe(self) -> Any:
        """A StableDiffusionXLInpaintPipeline, tuned and in place."""

    @property
    def tuning(self) -> Tuning:
        """What it is tuned to; its `batch_size` is how many rows are painted together, at most."""

    @property
    def is_compiled(self) -> bool:
        """Whether its modules are compiled, so that each shape of batch costs a compilation."""

    def kernels(self) -> AbstractContextManager[None]:
        """A block within which PyTorch prefers the attention kernel of the tuning."""

    def relieve(self) -> AbstractContextManager[None] | None:
        """A block within which the pipeline needs less memory; None where it needs the least already.

        Its end raises what says that memory ran out where the weights do not fit the device again: the pipeline then
        goes on as within the block. It raises DeviceOutOfMemoryError where they fit nowhere.
        """

    def use_loras(self, wanted: tuple[tuple[str, float], ...]) -> Hashable:
        """Have the pipeline paint with these LoRAs; what the embeddings of texts depend on, of them."""

    def compile_seconds(self) -> float:
        """Seconds that this process has spent compiling so far."""

    def uncompile(self, error: Exception) -> None:
        """Have the pipeline run without what was compiled, since that failed with `error`."""
