"""The smooth sheet that takes given values at some pixels: what gradient-domain blending adds to a patch.

A patch keeps its gradients and meets its surroundings when the harmonic interpolant of the differences along its edge
is added to it (Perez, Gangnet and Blake, Poisson Image Editing, 2003, section 2). It is solved from coarse to fine with
a few relaxations on each grid (cascadic multigrid: Bornemann and Deuflhard, 1996): away from its edge the sheet is so
smooth that the coarse grids decide it. OpenCV's seamlessClone is not used: it changes pixels outside the mask (17,775
around a hole of 150 by 160 pixels, in OpenCV 4.13) and fails for a mask of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

_SWEEPS = 12
"""Relaxations of the finest grid."""
_MOST_SWEEPS = 96
"""Of the coarse ones, which cost little; each has twice as many as the next finer one."""
_COARSEST = 4
"""Pixels of the coarsest grid's longer side, at most."""
_STRIPE = 1 << 18
_KERNEL = np.array([[1, 4, 1], [4, 0, 4], [1, 4, 1]], np.float32) / 20
"""The nine-point Laplacian, solved for its centre: it damps a checkerboard, which the five-point one does not."""

Known = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""From a first to a last row (exclusive): (n, W) uint8, 255 where the value is given, and (n, W, C) float32 values."""


@dataclass(frozen=True, slots=True)
class _Grid:
    known: np.ndarray
    values: np.ndarray


def membrane(size: tuple[int, int], known: Known) -> Iterator[tuple[int, np.ndarray]]:
    """Solve for the sheet, stripe by stripe.

    Args:
        size: (height, width) of the grid.
        known: gives the values; beyond the grid nothing is given, and the sheet ends level.

    Yields the first row of each stripe, and (n, W, C) float32. Without any given value it is 0. Beside one stripe,
    grids of a quarter of the size and less are in memory.
    """
    height, width = size
    grid, sheet = _halved(size, known), None
    middle = _mean(grid)
    if max(size) > _COARSEST:
        sheet = _solved(grid, _SWEEPS)
    del grid
    halo = _SWEEPS + _SWEEPS % 2
    rows = max(64, _STRIPE // width // 2 * 2)
    for start in range(0, height, rows):
        first, last = max(0, start - halo), min(height, start + rows + halo)
        given, values = known(first, last)
        if sheet is None:
            begun = np.broadcast_to(middle, values.shape).astype(np.float32)
        else:
            begun = _enlarged_rows(sheet, first, last, width)
        solved = _relaxed(begun, _Grid(given, values), _SWEEPS if sheet is not None else _MOST_SWEEPS)
        yield start, solved[start - first : min(start + rows, height) - first]


def _solved(grid: _Grid, sweeps: int) -> np.ndarray:
    height, width = grid.known.shape
    sweeps = min(2 * sweeps, _MOST_SWEEPS)
    if max(height, width) <= _COARSEST:
        begun = np.broadcast_to(_mean(grid), grid.values.shape).astype(np.float32)
    else:
        whole = _halved((height, width), lambda first, last: (grid.known[first:last], grid.values[first:last]))
        begun = _enlarged_rows(_solved(whole, sweeps), 0, height, width)
    return _relaxed(begun, grid, sweeps)


def _mean(grid: _Grid) -> np.ndarray:
    """(C,) float32 of the given values; 0 where none is."""
    given = grid.values[grid.known > 0]
    return given.mean(axis=0) if len(given) else np.zeros(grid.values.shape[2], np.float32)


def _relaxed(sheet: np.ndarray, grid: _Grid, sweeps: int) -> np.ndarray:
    """Jacobi's relaxation: each free pixel becomes the mean of its neighbours. `sheet` is overwritten."""
    shape = sheet.shape
    sheet, other = np.ascontiguousarray(sheet), np.empty(shape, np.float32)
    if shape[2] == 1:
        sheet, other = sheet[..., 0], other[..., 0]
    values = np.ascontiguousarray(grid.values).reshape(sheet.shape)
    cv2.copyTo(values, grid.known, sheet)
    for _ in range(sweeps):
        cv2.filter2D(sheet, -1, _KERNEL, dst=other, borderType=cv2.BORDER_REPLICATE)
        sheet, other = other, sheet
        cv2.copyTo(values, grid.known, sheet)
    return sheet.reshape(shape)


def _halved(size: tuple[int, int], known: Known) -> _Grid:
    """The grid of half the size: a cell is given where a pixel of it is, and has the mean of their values."""
    height, width = size
    given = np.zeros(((height + 1) // 2, (width + 1) // 2), np.uint8)
    means: np.ndarray | None = None
    rows = max(64, _STRIPE // width // 2 * 2)
    for first in range(0, height, rows):
        mask, values = known(first, min(height, first + rows))
        pad = ((0, len(mask) % 2), (0, width % 2))
        share = np.pad((mask > 0).astype(np.float32), pad)[..., None]
        weighed = np.pad(values, (*pad, (0, 0))) * share
        counts, sums = (
            part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2] for part in (share, weighed)
        )
        if means is None:
            means = np.empty((*given.shape, values.shape[2]), np.float32)
        half = slice(first // 2, first // 2 + len(counts))
        given[half] = 255 * (counts[..., 0] > 0)
        means[half] = sums / np.maximum(counts, 1)
    assert means is not None
    return _Grid(given, means)


def _enlarged_rows(sheet: np.ndarray, first: int, last: int, width: int) -> np.ndarray:
    """Rows `first` (even) to `last` of the sheet at twice the size, between pixels by linear interpolation."""
    above, below = max(0, first // 2 - 1), min(len(sheet), -(-last // 2) + 1)
    part = sheet[above:below]
    twice = cv2.resize(part, (2 * part.shape[1], 2 * len(part)), interpolation=cv2.INTER_LINEAR)
    return twice.reshape(2 * len(part), 2 * part.shape[1], -1)[first - 2 * above : last - 2 * above, :width]
