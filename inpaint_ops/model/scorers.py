"""The models that finished images are scored by, loaded, with the seconds that they took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops.records import LedgerEntry

if TYPE_CHECKING:
    import torch

    from inpaint_ops.images import Lpips
    from inpaint_ops.model.clip import Clip
    from inpaint_ops.model.score_models import ScoreModels

_LONGEST_NAME = 100


@dataclass(slots=True)
class Scorer:
    """One of them: where it lies, the SHA-256 of its weights, and what was measured of its work so far."""

    name: str
    place: Path
    digest: str
    how: str
    scored: int = 0
    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def model(self) -> str:
        """How a record names it."""
        return f"{self.place.name[:_LONGEST_NAME]} {self.digest[:16]}"

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A block in which one image is scored, waiting for its turn included."""
        clock = time.perf_counter()
        yield
        with self._lock:
            self.scored, self.seconds = self.scored + 1, self.seconds + time.perf_counter() - clock

    def entry(self) -> LedgerEntry:
        """Its line in the ledger."""
        measured = {"seconds_per_image": self.seconds / self.scored} if self.scored else {}
        return LedgerEntry(
            name=f"{self.name}_model", requested=str(self.place), effective=f"SHA-256 {self.digest[:16]}", matches=True,
            reason=self.how, measured=measured,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scorers:
    """What a job's images are scored by; None: they are not."""

    clip: tuple[Scorer, Clip] | None = None
    lpips: tuple[Scorer, Lpips] | None = None

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Their lines in the ledger, as of now."""
        return tuple(found[0].entry() for found in (self.clip, self.lpips) if found is not None)


def load(found: ScoreModels, device: torch.device, dtype: torch.dtype) -> Scorers:
    """Bring what was found to work: CLIP to `device` in `dtype`, LPIPS to the processor. Raises ModelError."""
    clip = lpips = None
    if found.clip is not None:
        from inpaint_ops.model.clip import Clip

        network = Clip(found.clip, device, dtype)
        clip = Scorer("clip", found.clip.folder, found.clip.digest, str(network)), network
    if found.lpips is not None:
        lpips = Scorer("lpips", found.lpips.path, found.lpips.digest, str(found.lpips.network)), found.lpips.network
    return Scorers(clip, lpips)
