"""What training draws from: crops of photographs and made-up pictures, and masks in latent cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from demo.model import photographs
from demo.model.photographs import Pixels, shrink
from demo.model.synthetic import Floats, synthetic

SIZES = (640, 440, 330, 280)
"""Shorter sides that crops are taken from: the same picture at several scales."""

FIRST, POOL = 24, 400
"""Made-up pictures at the start and at the most. Each batch adds one; once there are so many, it replaces one."""


class Pictures:
    """An endless supply of crops: about half from photographs, half synthetic."""

    def __init__(self, cache: Path, seed: int) -> None:
        """Read the photographs (downloading their packages into `cache`) and make the first synthetic pictures."""
        self.rng = np.random.default_rng(seed)
        self.photographs = photographs.training(cache)
        self.scaled = pyramid(self.photographs)
        self.made = [synthetic(self.rng, self.photographs) for _ in range(FIRST)]

    def batch(self, count: int, size: int, *, photographs: float = 0.6) -> Tensor:
        """`count` crops of `size` pixels: float32, N x 3 x size x size, -1 to 1."""
        self.made.append(synthetic(self.rng, self.photographs))
        if len(self.made) > POOL:
            self.made[self.rng.integers(POOL)] = self.made.pop()
        pools = [self.scaled if self.rng.random() < photographs else self.made for _ in range(count)]
        return torch.from_numpy(np.stack([crop(self.rng, pool, size) for pool in pools]))

    def masks(self, count: int, size: int) -> Tensor:
        """`count` masks in latent cells: float32, N x 1 x size/8 x size/8, 1 where painted."""
        made: list[NDArray[np.bool_]] = [cells(self.rng, size // 8) for _ in range(count)]
        return torch.from_numpy(np.stack(made))[:, None].float()


class Crops(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of crops and of masks for them, without end; each worker of a DataLoader draws its own."""

    def __init__(self, pictures: Pictures, count: int, size: int) -> None:
        """`count` crops of `size` pixels per batch."""
        self.pictures, self.count, self.size = pictures, count, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches: see `Pictures.batch` and `Pictures.masks`."""
        worker = get_worker_info()
        if worker is not None:
            self.pictures.rng = np.random.default_rng(worker.seed)
        while True:
            yield self.pictures.batch(self.count, self.size), self.pictures.masks(self.count, self.size)

    def drawn(self, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches, made by `workers` processes; 0: by this one, when they are asked for."""
        ahead, context = (8, "fork") if workers else (None, None)
        return iter(
            DataLoader(
                self, batch_size=None, num_workers=workers, prefetch_factor=ahead, multiprocessing_context=context
            )
        )


def pyramid(pictures: list[Pixels]) -> list[Pixels]:
    """Every picture at each of `SIZES` that it reaches."""
    return [shrink(picture, side) for picture in pictures for side in SIZES if min(picture.shape[:2]) >= side]


def crop(rng: np.random.Generator, pool: list[Pixels], size: int) -> Floats:
    """A crop of `size` pixels: float32, 3 x size x size, -1 to 1; mirrored, turned and recoloured at random."""
    picture = pool[rng.integers(len(pool))]
    height, width = picture.shape[:2]
    y, x = rng.integers(height - size + 1), rng.integers(width - size + 1)
    cut = picture[y : y + size, x : x + size]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    if rng.random() < 0.15:
        cut = np.rot90(cut, int(rng.integers(1, 4)))
    values = cut.astype(np.float32) / 127.5 - 1
    if rng.random() < 0.6:
        gain = rng.uniform(0.75, 1.2, (1, 1, 3)) * rng.uniform(0.8, 1.15)
        values = np.clip((values + 1) * gain - 1 + rng.uniform(-0.12, 0.12), -1, 1)
    if rng.random() < 0.15:
        values = values[..., rng.permutation(3)]
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


def cells(rng: np.random.Generator, side: int) -> NDArray[np.bool_]:
    """A mask in latent cells of 8 pixels, side x side; True is painted. Blobs, boxes, strokes and clusters."""
    size = side * 8
    for _ in range(20):
        mask = np.zeros((size, size), np.uint8)
        kind = rng.choice(4, p=[0.4, 0.25, 0.15, 0.2])
        if kind <= 1:
            w, h = rng.uniform(0.15, 0.5, 2) * size
            x, y = rng.uniform(-0.05 * size, 1.05 * size - w), rng.uniform(-0.05 * size, 1.05 * size - h)
            if kind == 0:
                centre, axes = (int(x + w / 2), int(y + h / 2)), (int(w / 2), int(h / 2))
                cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 255, -1)
            else:
                cv2.rectangle(mask, (int(x), int(y)), (int(x + w), int(y + h)), 255, -1)
        elif kind == 2:
            points = (rng.uniform(0, 1, (rng.integers(2, 5), 2)) * size).astype(np.int32)
            cv2.polylines(mask, [points], False, 255, int(max(3, size * rng.uniform(0.02, 0.1))))
        else:
            middle = rng.uniform(0.2, 0.8, 2) * size
            for _ in range(rng.integers(3, 8)):
                x, y = middle + rng.normal(size=2) * 0.1 * size
                cv2.circle(mask, (int(x), int(y)), int(rng.uniform(0.05, 0.16) * size), 255, -1)
        found: NDArray[np.bool_] = np.any(mask.reshape(side, 8, side, 8), axis=(1, 3))
        if 0 < found.mean() < 0.6:
            return found
    return found
