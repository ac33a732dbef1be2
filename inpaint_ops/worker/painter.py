"""What the work loop asks of a model and of an engine: all that anything which stands in for them has to offer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from inpaint_ops.protocol import Text
from inpaint_ops.records import LedgerEntry, ModelIdentity

if TYPE_CHECKING:
    from inpaint_ops.engine import PaintItem, PaintResult
    from inpaint_ops.engine.measuring import Measurements
    from inpaint_ops.images import Lama
    from inpaint_ops.model.scorers import Scorers


class TunedModel(Protocol):
    """A model as it was loaded; `inpaint_ops.model.loading.LoadedModel` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """What each row's provenance names."""

    @property
    def native_size(self) -> int:
        """The side in pixels that the model was trained at."""

    @property
    def lama(self) -> Lama | None:
        """The network of fill `lama`; None where the job has none."""

    @property
    def scorers(self) -> Scorers:
        """What finished images are scored by."""

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """What is requested and in effect, before anything is painted."""

    def inspect(
        self,
        working_size: tuple[int, int],
        *,
        batch_size: int | None = None,
        batch_limit: int | None = None,
        prompts_done: bool = False,
    ) -> tuple[LedgerEntry, ...]:
        """The ledger as of now, at `working_size` (width, height in pixels)."""


class TextSplitter(Protocol):
    """The part of the engine's prompts that reading a row needs."""

    def shape(self, prompt: Text, negative_prompt: Text | None, *, guided: bool) -> tuple[int, tuple[str, ...]]:
        """Chunks that a row's longer text has, and a sentence for each text that was cut. For any thread."""


class Painter(Protocol):
    """What paints a batch; `inpaint_ops.engine.Engine` is one."""

    @property
    def batch_size(self) -> int:
        """Rows that a batch may have."""

    @property
    def prompts(self) -> TextSplitter:
        """How the rows' texts are split."""

    @property
    def measurements(self) -> Measurements:
        """The figures of all batches so far."""

    def with_measured(self, ledger: Sequence[LedgerEntry]) -> tuple[LedgerEntry, ...]:
        """The ledger with `measured` filled in."""

    def paint(self, batch: Sequence[PaintItem]) -> Iterator[PaintResult]:
        """Exactly one result for each row of one BatchKey, in order."""
