"""The sheet of the Poisson blend: near the exact solution of its equations, in bounded memory, for any values."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.images.membrane import _KERNEL, membrane
from tests.support.pictures import Array


def sheet(known: Array, values: Array) -> Array:
    parts = list(membrane(known.shape, lambda first, last: (known[first:last], values[first:last])))
    assert [first for first, _ in parts] == list(np.cumsum([0, *(len(part) for _, part in parts)])[:-1])
    return np.concatenate([part for _, part in parts])


def exact(known: Array, values: Array) -> Array:
    """The same equations, solved at once: each free pixel is the weighted mean of its neighbours."""
    height, width = known.shape
    left, right = np.eye(height * width), np.zeros((height * width, values.shape[2]))
    for y, x in np.ndindex(height, width):
        at = y * width + x
        if known[y, x]:
            right[at] = values[y, x]
            continue
        for (dy, dx), share in np.ndenumerate(_KERNEL):
            near = min(max(y + dy - 1, 0), height - 1) * width + min(max(x + dx - 1, 0), width - 1)
            left[at, near] -= share
    return np.linalg.solve(left, right).reshape(height, width, -1)


def framed(height: int, width: int) -> Array:
    known = np.full((height, width), 255, np.uint8)
    known[1:-1, 1:-1] = 0
    return known


@pytest.mark.parametrize("shape", [(30, 40), (41, 41), (9, 60), (60, 9)])
def test_the_sheet_is_near_the_exact_solution(shape: tuple[int, int]) -> None:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    dice = np.random.default_rng(1)
    values = np.stack((30 * np.sin(x / 9) + 20 * np.cos(y / 7), 50.0 * (x < 20), dice.normal(0, 15, shape)), -1)
    known, wide = framed(*shape), values.astype(np.float32)
    error = np.abs(sheet(known, wide) - exact(known, wide))[known == 0]
    assert error.max() < 4 and error.mean() < 1, "in levels, of values that span 100"


def test_some_gaps_in_the_frame_are_bridged() -> None:
    known = framed(40, 40)
    known[10:30, 0] = 0
    values = np.broadcast_to(np.float32(20), (40, 40, 1)) + np.mgrid[0:40, 0:40][0][..., None].astype(np.float32)
    assert np.abs(sheet(known, values) - exact(known, values)).max() < 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.integers(0, 2**32), st.floats(0, 1))
def test_any_values_are_kept_and_never_exceeded(
    height: int, width: int, channels: int, seed: int, share: float
) -> None:
    dice = np.random.default_rng(seed)
    known = (dice.random((height, width)) < share).astype(np.uint8) * 255
    values = dice.uniform(-300, 300, (height, width, channels)).astype(np.float32)
    found = sheet(known, values)
    assert np.array_equal(found[known > 0], values[known > 0])
    given_values = values[known > 0]
    if len(given_values):
        low, high = given_values.min(axis=0), given_values.max(axis=0)
        assert (found >= low - 1e-2).all() and (found <= high + 1e-2).all()
    else:
        assert not found.any()


def test_a_large_sheet_is_never_whole_in_memory() -> None:
    height, width = 3000, 2000
    known, values = framed(height, width), np.zeros((1, width, 3), np.float32)
    tracemalloc.start()
    try:
        for _, part in membrane(
            (height, width),
            lambda first, last: (known[first:last], np.broadcast_to(values, (last - first, width, 3)).copy()),
        ):
            assert part.shape[0] < 400
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < height * width * 3 * 4, "less than one sheet in floats"
