"""Made-up pictures with the statistics of natural ones: grounds, dead leaves, grids in perspective, light and grain."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.model.photographs import Pixels

Floats = NDArray[np.float32]


def synthetic(rng: np.random.Generator, palettes: list[Pixels], size: int = 320) -> Pixels:
    """A made-up picture of `size` pixels, RGB: a ground, then dead leaves with natural sizes, colours, light and grain.

    Radii follow a power law of exponent 3 (Lee, Mumford, Huang: "Occlusion models for natural images", 2001), which
    gives natural statistics of edges; colours come from `palettes`, a photograph each time.
    """
    side = size * 2
    palette = palettes[rng.integers(len(palettes))].reshape(-1, 3)

    def colour() -> Floats:
        drawn: Floats = palette[rng.integers(len(palette))].astype(np.float32)
        return drawn

    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    canvas = _shaded(rng, colour(), colour(), rows, columns)
    style = rng.choice(4, p=[0.45, 0.25, 0.15, 0.15])
    if style == 1:  # few large things on a wide ground
        count, smallest = int(rng.integers(2, 12)), 0.06
    elif style == 2:  # a grid in perspective: tiles, boards, walls
        canvas = _grid(rng, canvas, colour(), side)
        count, smallest = int(rng.integers(0, 5)), 0.05
    elif style == 3:  # a horizon
        horizon = rng.uniform(0.25, 0.75) + 0.02 * np.sin(columns * rng.uniform(2, 20) + rng.uniform(0, 6))
        below = _shaded(rng, colour(), colour(), rows, columns)
        canvas = np.where((rows > horizon)[..., None], below, canvas)
        count, smallest = int(rng.integers(0, 25)), 0.015
    else:
        count, smallest = int(rng.integers(60, 500)), float(rng.choice([0.015, 0.03, 0.05]))
    for _ in range(count):
        radius = smallest / np.sqrt(1 - rng.uniform(0, 1 - (smallest / 0.35) ** 2)) * side
        _leaf(rng, canvas, colour(), radius, side)
    canvas += _grain(rng, side) * rng.uniform(0, 14)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(small, 0, 255).astype(np.uint8)


def _shaded(rng: np.random.Generator, first: Floats, second: Floats, rows: Floats, columns: Floats) -> Floats:
    """A smooth ground between two colours, with some noise of large scale."""
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(rows * np.sin(angle) + columns * np.cos(angle) + rng.uniform(-0.3, 0.3), 0, 1)[..., None]
    second = first + (second - first) * rng.uniform(0, 0.7)
    ground: Floats = (first * (1 - ramp) + second * ramp).astype(np.float32)
    return ground + _grain(rng, rows.shape[0]) * rng.uniform(0, 10)


def _grain(rng: np.random.Generator, side: int) -> Floats:
    """Noise with a spectrum of 1 / frequency^a, mean 0, deviation 1: side x side x 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) / frequency ** rng.uniform(0.4, 1.8)
    noise = np.fft.irfft2(spectrum, s=(side, side))
    noise -= noise.mean()
    grain: Floats = (noise / noise.std())[..., None].astype(np.float32)
    return grain


def _grid(rng: np.random.Generator, canvas: Floats, line: Floats, side: int) -> Floats:
    """Lines of a plane seen at an angle, laid over the canvas."""
    count = int(rng.integers(4, 16))
    layer = np.zeros((side, side), np.float32)
    for k in range(count + 1):
        at = int(k * side / count)
        cv2.line(layer, (at, 0), (at, side), 1.0, int(rng.integers(2, 7)))
        if rng.random() < 0.8:
            cv2.line(layer, (0, at), (side, at), 1.0, int(rng.integers(2, 7)))
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    moved = corners + rng.uniform(-0.35, 0.35, (4, 2)).astype(np.float32) * side
    matrix = cv2.getPerspectiveTransform(corners, moved)
    seen = cv2.warpPerspective(layer, matrix, (side, side), borderMode=cv2.BORDER_WRAP)[..., None]
    strength = rng.uniform(0.3, 1)
    drawn: Floats = (canvas * (1 - strength * seen) + line * strength * seen).astype(np.float32)
    return drawn


def _leaf(rng: np.random.Generator, canvas: Floats, colour: Floats, radius: float, side: int) -> None:
    """One shape with its light and its shadow, painted into the canvas."""
    x, y = rng.uniform(-0.1, 1.1, 2) * side
    corners = int(rng.choice([3, 4, 4, 5, 6, 24]))
    turn = rng.uniform(0, 2 * np.pi)
    angles = (
        np.sort(rng.uniform(0, 2 * np.pi, corners)) if rng.random() < 0.4 else np.arange(corners) * 2 * np.pi / corners
    )
    reach = radius * (rng.uniform(0.6, 1.2, corners) if corners < 24 else np.ones(corners))
    stretch = rng.uniform(0.35, 1)
    px, py = reach * np.cos(angles), reach * np.sin(angles) * stretch
    points = np.stack([x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)], 1)
    left, top = np.maximum(np.floor(points.min(0)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 2 + int(radius * 0.3), side)
    if right <= left or bottom <= top:
        return
    inside = np.zeros((bottom - top, right - left), np.float32)
    cv2.fillPoly(inside, [np.round(points - (left, top)).astype(np.int32)], 1.0)
    area = canvas[top:bottom, left:right]
    if rng.random() < 0.35:  # a soft shadow beside it
        shift = rng.uniform(0.05, 0.25, 2) * radius
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        shadow = cv2.warpAffine(inside, matrix, (inside.shape[1], inside.shape[0]))
        shadow = cv2.GaussianBlur(shadow, (0, 0), max(1.0, radius * 0.08))
        area *= 1 - rng.uniform(0.2, 0.6) * shadow[..., None]
    rows, columns = np.mgrid[0 : inside.shape[0], 0 : inside.shape[1]].astype(np.float32) / max(inside.shape)
    light = rng.uniform(-0.35, 0.35, 2)
    shade = 1 + light[0] * (rows - 0.5) + light[1] * (columns - 0.5)
    fill = colour * shade[..., None]
    if rng.random() < 0.25:  # stripes
        waves = np.sin((rows * rng.uniform(-60, 60) + columns * rng.uniform(-60, 60)) + rng.uniform(0, 6))
        fill = fill * (1 + rng.uniform(0.03, 0.2) * waves[..., None])
    if rng.random() < 0.3:
        inside = cv2.GaussianBlur(inside, (0, 0), rng.uniform(0.5, 3.0))
    area += (fill - area) * inside[..., None]
