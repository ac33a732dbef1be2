"""How a run's measures are spread, in constant memory, and beyond which values a row is an outlier of its run."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from inpaint_ops.records import SCORES, Measures, MeasureSpread, Record

THRESHOLD = 3.5
"""Of the modified z-score 0.6745 (x - median) / MAD, from which Iglewicz and Hoaglin (1993) call a value an outlier."""
FEWEST_ROWS = 20
"""A run with fewer measured rows flags none: its median and its spread say too little."""

_MAD_OF_NORMAL = 0.6745
_MOST_MODELS = 16
Side = Literal["low", "high"]
SIDES: tuple[Side, ...] = ("low", "high")
_Scale = Literal["ratio", "levels", "share", "cosine", "distance"]
_SCALES: dict[_Scale, tuple[float, float, int]] = {
    "ratio": (-11, 11, 1408),
    "levels": (0, 8, 512),
    "share": (0, 1, 512),
    "cosine": (-1, 1, 1024),
    "distance": (0, 4, 1024),
}
"""From, to and bins of the scale on which values are compared: the binary logarithm of a ratio, that of 1 + levels or
1 + a distance, and a share or a cosine as it is. A ratio of 1/2 is thus as far from 1 as 2 is."""
_LEAST_MAD: dict[_Scale, float] = {"ratio": 0.05, "levels": 0.1, "share": 0.01, "cosine": 0.01, "distance": 0.01}
"""Where most rows are alike, what is this near to them is no outlier: 1.2 times a ratio, 1.4 times the levels, 0.05 of
a share or a cosine, 1.04 times 1 + a distance."""
_LEAST: dict[_Scale, float] = {"ratio": 0, "levels": 0, "share": 0, "cosine": -1, "distance": 0}
"""No value is below it, so that no row can be flagged as lower."""
_RAISED: tuple[_Scale, ...] = ("levels", "distance")
_LINEAR: dict[_Scale, tuple[float, float]] = {"share": (0, 1), "cosine": (-1, 1)}


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of each row; `low` and `high` say on which side a row may be flagged."""

    name: str
    label: str
    scale: _Scale
    low: bool
    high: bool
    harmless: float = 0.0
    """Up to here a row is never flagged as too high, however alike the others are."""

    def of(self, record: Record) -> float | None:
        """The row's value; rows without an image have none."""
        if record.status != "done":
            return None
        if self.name == "change":
            return record.change
        if self.name == "mask_share":
            return None if record.mask_area is None else record.mask_area.share
        value: float | None = getattr(record.measures, self.name, None)
        return value

    def model_of(self, record: Record) -> str | None:
        """By which model the row's value was taken; None for a measure that needs none, or a row without a value."""
        return None if record.measures is None else record.measures.models.get(self.name)  # type: ignore[call-overload]

    def flag(self, side: Side) -> str:
        """What the row's flag is called."""
        return f"{self.name}_{side}"


MEASURES = (
    Measure("mask_share", "Masked share of the picture", "share", low=True, high=True, harmless=0.25),
    Measure("seam_contrast", "Seam contrast", "ratio", low=False, high=True, harmless=1.25),
    Measure("colour_shift", "Colour shift to the ring", "levels", low=False, high=True, harmless=4.0),
    Measure("change", "Change inside the mask", "levels", low=True, high=False),
    Measure("flatness", "Flatness", "share", low=False, high=True),
    Measure("sharpness_ratio", "Sharpness, patch to ring", "ratio", low=True, high=True),
    Measure("grain_ratio", "Grain, patch to ring", "ratio", low=True, high=True),
    Measure("clip", "CLIP score, picture to prompt", "cosine", low=True, high=False),
    Measure("lpips", "LPIPS, picture to source", "distance", low=True, high=True),
)
_BESIDE = {"mask_share", "change"}
"""Measures that a record holds elsewhere than among its `measures`."""
assert {measure.name for measure in MEASURES} == {*Measures.model_fields} - {"models", "score_problem"} | _BESIDE
SCORED = tuple(measure for measure in MEASURES if measure.name in SCORES)
"""Those that are taken by a model of the user's."""
FLAGS = tuple(measure.flag(side) for measure in MEASURES for side in SIDES if getattr(measure, side))
"""What rows may be flagged as."""


FEWEST_MASKS = 5
"""The default size of a sample. Fewer masks say little about a run."""


def mostly_masked(large: int, count: int) -> Iterator[str]:
    """What is said where most of `count` masks, `large` of them, cover most of their picture: black and white may be
    meant the other way round.
    """
    if count >= FEWEST_MASKS and 2 * large > count:
        yield (
            f"In {large:,} of {count:,} images the mask covers more than half of the picture. If black and white are "
            "the wrong way round, change mask_invert."
        )


class Spread:
    """The values of one measure, counted in bins: 11 kB however many rows there are."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self._from, end, bins = _SCALES[measure.scale]
        self._width = (end - self._from) / bins
        self._counts = array("q", bytes(8 * bins))
        self.models: dict[str, None] = {}
        """By which models the values were taken, of a score; at most so many are kept as say that they differ."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: only the bins that hold values, which are few where few rows were counted."""
        counts = np.asarray(self._counts)
        there = np.flatnonzero(counts)
        return _spread_of, (self.measure.name, there.tolist(), counts[there].tolist(), tuple(self.models))

    @property
    def label(self) -> str:
        """What people call it: of a score with the model that it was taken by."""
        return f"{self.measure.label} ({' and '.join(self.models)})" if self.models else self.measure.label

    def add(self, record: Record) -> None:
        """Count a row's value, if it has one."""
        value = self.measure.of(record)
        if value is not None:
            self.add_models([self.measure.model_of(record)])
            at = int((self._scaled(value) - self._from) / self._width)
            self._counts[min(max(at, 0), len(self._counts) - 1)] += 1

    def add_values(self, values: npt.NDArray[np.float64]) -> None:
        """Count many rows' values at once; NaN is none."""
        there = self._scaled_many(values[~np.isnan(values)])
        bins = np.clip(((there - self._from) / self._width).astype(np.int64), 0, len(self._counts) - 1)
        counted = np.asarray(self._counts) + np.bincount(bins, minlength=len(self._counts))
        self._counts = array("q", counted.astype(np.int64).tobytes())

    def extend(self, later: Spread) -> None:
        """Add what another spread of the same measure has counted."""
        self.add_models(later.models)
        counts = np.frombuffer(self._counts, dtype=np.int64)
        counts += np.frombuffer(later._counts, dtype=np.int64)

    def add_models(self, models: Iterable[str | None]) -> None:
        """Note by which models values were taken."""
        for model in models:
            if model and len(self.models) < _MOST_MODELS:
                self.models[model] = None

    @property
    def count(self) -> int:
        """Rows that have a value."""
        return sum(self._counts)

    def above(self, value: float) -> int:
        """Rows whose value is higher, to a bin: those of its own bin are left out."""
        first = math.floor((self._scaled(value) - self._from) / self._width) + 1
        return sum(self._counts[max(0, first) :])

    def summary(self) -> MeasureSpread | None:
        """Percentiles, and the limits beyond which rows are flagged; None where no row has a value."""
        count = self.count
        if not count:
            return None
        median, mad = self._centre()
        reach = THRESHOLD / _MAD_OF_NORMAL * max(mad, _LEAST_MAD[self.measure.scale])
        flags = count >= FEWEST_ROWS and len(self.models) < 2
        low = self._unscaled(median - reach) if flags and self.measure.low else None
        return MeasureSpread(
            count=count,
            p5=self._unscaled(self._percentile(0.05)),
            median=self._unscaled(median),
            p95=self._unscaled(self._percentile(0.95)),
            low=low if low is not None and low > _LEAST[self.measure.scale] else None,
            high=max(self.measure.harmless, self._unscaled(median + reach)) if flags and self.measure.high else None,
            models=tuple(self.models),
        )

    def scores(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The modified z-score of values; NaN stays NaN."""
        median, mad = self._centre()
        distances = self._scaled_many(values) - median
        return np.asarray(_MAD_OF_NORMAL * distances / max(mad, _LEAST_MAD[self.measure.scale]), np.float64)

    def bars(self, most: int = 32) -> list[tuple[float, float, int]]:
        """A histogram of at most `most` bars over all values: from, to, and how many rows."""
        there = [at for at, count in enumerate(self._counts) if count]
        if not there:
            return []
        step = max(1, math.ceil((there[-1] + 1 - there[0]) / most))
        edges = range(there[0], there[-1] + 1, step)
        return [(self._edge(at), self._edge(at + step), sum(self._counts[at : at + step])) for at in edges]

    def _edge(self, at: int) -> float:
        return self._unscaled(self._from + min(at, len(self._counts)) * self._width)

    def _centre(self) -> tuple[float, float]:
        """The median and the median distance from it, to half a bin."""
        median = self._percentile(0.5)
        distances = abs(self._centres() - median)
        order = np.argsort(distances, kind="stable")
        return median, float(distances[order][_at(np.asarray(self._counts)[order], 0.5)])

    def _percentile(self, share: float) -> float:
        return float(self._centres()[_at(np.asarray(self._counts), share)])

    def _centres(self) -> npt.NDArray[np.float64]:
        return np.asarray(self._from + self._width * (np.arange(len(self._counts)) + 0.5), np.float64)

    def _scaled(self, value: float) -> float:
        if self.measure.scale in _LINEAR:
            return value
        return math.log2(value + 1 if self.measure.scale in _RAISED else max(value, 2**-11))

    def _scaled_many(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.measure.scale in _LINEAR:
            return values
        return np.asarray(np.log2(values + 1 if self.measure.scale in _RAISED else np.maximum(values, 2**-11)))

    def _unscaled(self, value: float) -> float:
        if self.measure.scale in _LINEAR:
            least, most = _LINEAR[self.measure.scale]
            return min(max(value, least), most)
        if self.measure.scale in _RAISED:
            return min(max(2**value - 1, 0.0), 2 ** _SCALES[self.measure.scale][1] - 1)
        return float(2**value)


def _spread_of(name: str, bins: Sequence[int], counts: Sequence[int], models: Sequence[str]) -> Spread:
    spread = Spread(next(measure for measure in MEASURES if measure.name == name))
    spread.add_models(models)
    for at, count in zip(bins, counts, strict=True):
        spread._counts[at] = count
    return spread


def _at(counts: npt.NDArray[np.int64], share: float) -> int:
    """The bin in which a share of all values is reached."""
    below = np.cumsum(counts)
    return int(np.searchsorted(below, share * below[-1]))


def spreads(records: Iterable[Record] = ()) -> list[Spread]:
    """One of each of `MEASURES`, of these records."""
    found = [Spread(measure) for measure in MEASURES]
    for record in records:
        for spread in found:
            spread.add(record)
    return found


@dataclass(frozen=True, slots=True)
class Flagged:
    """Rows of a table that are outliers: for each the flags, and the largest score by its size."""

    flags: list[list[str]]
    scores: npt.NDArray[np.float64]


def find_flags(found: Sequence[Spread], column: Callable[[str], npt.NDArray[np.float64]], rows: int) -> Flagged:
    """The flags of rows whose values `column` gives by the measure's name, NaN where a row has none."""
    flags: list[list[str]] = [[] for _ in range(rows)]
    largest = np.zeros(rows)
    for spread in found:
        summary = spread.summary()
        if summary is None or summary.count < FEWEST_ROWS:
            continue
        values = column(spread.measure.name)
        scores = np.nan_to_num(abs(spread.scores(values)))
        low = np.zeros(rows, bool) if summary.low is None else values < summary.low
        high = np.zeros(rows, bool) if summary.high is None else values > summary.high
        for side, hit in zip(SIDES, (low, high), strict=True):
            for at in np.flatnonzero(hit):
                flags[at].append(spread.measure.flag(side))
        largest = np.where(low | high, np.maximum(largest, scores), largest)
    return Flagged(flags, largest)
