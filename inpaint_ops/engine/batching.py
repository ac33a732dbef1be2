"""Rows on their working size, and the buckets in which they wait for more of the same shape: pure, no torch."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from inpaint_ops.protocol import Text
from inpaint_ops.records import Batch, Memory, Timings

T = TypeVar("T")


class BatchKey(NamedTuple):
    """What the rows of one batch must share. Sizes in pixels, multiples of 8."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    strength: float
    chunks: int = 1
    """Chunks of 77 tokens that the texts are encoded in."""
    loras: tuple[tuple[str, float], ...] = ()
    """Names and weights of the LoRAs, sorted, none of weight 0."""
    guidance_cutoff: float = 1.0
    """The share of the steps after which guidance is off (`protocol.guided_steps`); 1: it goes on to the end."""


@dataclass(frozen=True, slots=True, eq=False)
class PaintItem:
    """One row on its working size: `rgb` (height, width, 3) uint8; `mask` (height, width) uint8, 255 is painted."""

    row: int
    key: BatchKey
    rgb: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    prompt: Text
    negative_prompt: Text | None
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class PaintResult:
    """How one row came out: `image` (height, width, 3) uint8, or `error`.

    `timings` holds the batch stages alone, each with the whole batch's seconds. `steps` are those that really ran;
    `unguided_steps` are the last of them, which ran without guidance since the key's cutoff asked for that.
    """

    row: int
    image: NDArray[np.uint8] | None
    error: Exception | None
    steps: int = 0
    unguided_steps: int = 0
    batch: Batch | None = None
    timings: Timings = field(default_factory=Timings)
    memory: Memory | None = None
    notes: tuple[str, ...] = ()
    """What was done differently from the request, one sentence each."""


class Batcher(Generic[T]):
    """Rows that wait for others of the same BatchKey, a bucket each, oldest bucket first. Pure."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[BatchKey, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, key: BatchKey, row: T) -> None:
        """Put `row` into its bucket."""
        self._buckets.setdefault(key, deque()).append(row)

    def take_full(self, size: int) -> list[T]:
        """`size` rows of the oldest bucket that has as many; empty where none has."""
        return next((self._take(key, size) for key, rows in self._buckets.items() if len(rows) >= size), [])

    def take_largest(self, size: int) -> list[T]:
        """Up to `size` rows of the fullest bucket, the oldest of equals; empty where nothing waits."""
        if not self._buckets:
            return []
        return self._take(max(self._buckets, key=lambda key: len(self._buckets[key])), size)

    def _take(self, key: BatchKey, size: int) -> list[T]:
        rows = self._buckets[key]
        taken = [rows.popleft() for _ in range(min(size, len(rows)))]
        if not rows:
            del self._buckets[key]
        return taken
