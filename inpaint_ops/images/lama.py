"""LaMa, a network that fills holes of pictures (Suvorov et al., 2021), from a user's ONNX file, run by OpenCV."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from inpaint_ops.config import FILL_MODEL_CURE
from inpaint_ops.errors import ModelError, NonFiniteImageError
from inpaint_ops.images.networks import in_short, read_network

SIDE = 512
"""Pixels a side of what the network is given: that of the files which are published."""

IMAGE, MASK = "image", "mask"
"""Its inputs: (1, 3, SIDE, SIDE) float32 RGB of 0 to 1, and (1, 1, SIDE, SIDE) of 0 and 1, where 1 is to be filled."""

_FORM = f"it must take `{IMAGE}` (1, 3, {SIDE}, {SIDE}) and `{MASK}` (1, 1, {SIDE}, {SIDE}) and give back a picture"
_NEAR = 0.1
"""How far the result may be from the picture beside the mask, of 1, on average."""


class Lama:
    """The network in an ONNX file, on the processor. Any thread may use it; one at a time does."""

    def __init__(self, data: bytes, name: str) -> None:
        """Read the file's bytes, and try the network on a drawn picture. `name` is what errors call the file.

        Raises ModelError where the file is no ONNX, OpenCV cannot run it, or its result is not that of a network which
        fills the mask: other inputs, another range, NaN, another order of the channels, the mask the other way round.
        """
        self._lock = threading.Lock()
        self._scale = 1.0
        self._net = read_network(data, name, FILL_MODEL_CURE)
        self._try_out(name)

    def __str__(self) -> str:
        """How it runs, for the ledger."""
        top = round(255 / self._scale)
        return f"run by OpenCV {cv2.__version__} on the processor at {SIDE}x{SIDE}; its result is 0 to {top}"

    def fill(self, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """The picture with its hole filled, (h, w, 3) uint8. What it has outside the hole has lost detail.

        It is scaled until its longer side is SIDE, and continued to a square by its own mirror image. Args: `picture`
        (h, w, 3) uint8 RGB, which holds nothing of interest in the hole; `hole` (h, w) uint8 of 0 and 255. Raises
        NonFiniteImageError.
        """
        height, width = hole.shape
        scale = SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        right, below = SIDE - size[0], SIDE - size[1]
        square = cv2.copyMakeBorder(
            cv2.resize(picture, size, interpolation=smaller), 0, below, 0, right, cv2.BORDER_REFLECT
        )
        masked = cv2.copyMakeBorder(
            cv2.resize(hole, size, interpolation=smaller), 0, below, 0, right, cv2.BORDER_REFLECT
        )
        result = self._run(square.astype(np.float32) / 255, masked > 0) * self._scale
        if not np.isfinite(result).all():
            raise NonFiniteImageError("fill lama: the network's result has NaN or infinity: use another fill")
        filled = np.rint(np.clip(result, 0, 255)).astype(np.uint8)[: size[1], : size[0]]
        back = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(filled, (width, height), interpolation=back))

    def _run(self, picture: np.ndarray, masked: np.ndarray) -> np.ndarray:
        """(SIDE, SIDE, 3) float32 of 0 to 1 and (SIDE, SIDE) bool to what the network makes of them, in its own range.

        Raises cv2.error; ValueError for a result of another shape.
        """
        with self._lock:
            self._net.setInput(np.ascontiguousarray(picture.transpose(2, 0, 1))[None], IMAGE)
            self._net.setInput(masked[None, None].astype(np.float32), MASK)
            result: np.ndarray = np.array(self._net.forward(), np.float32)  # the next call may use its memory again
        if result.shape != (1, 3, SIDE, SIDE):
            raise ValueError(f"its result is {result.shape}")
        return np.moveaxis(result[0], 0, 2)

    def _try_out(self, name: str) -> None:
        """Have it fill one hole, and settle the range of its result. Raises ModelError."""
        picture, masked, under = _drawn()
        try:
            result = self._run(picture, masked)
        except (cv2.error, ValueError, MemoryError) as error:
            raise ModelError(f"{name} cannot be run ({in_short(error)}): {_FORM}; {FILL_MODEL_CURE}") from error
        if not np.isfinite(result).all():
            raise ModelError(f"{name} gives NaN or infinity for a plain picture: {FILL_MODEL_CURE}")
        self._scale = 1.0 if np.median(result[~masked]) > 2 else 255.0
        result = result * (self._scale / 255)
        if np.abs(result - picture)[~masked].mean(axis=0).max() > _NEAR:
            raise ModelError(
                f"{name} changes the picture beside the mask: {_FORM} in RGB of 0 to 1 or 0 to 255, with 1 in the mask "
                f"where it is filled; {FILL_MODEL_CURE}"
            )
        if np.abs(result - under)[masked].mean(axis=0).max() < _NEAR:
            raise ModelError(f"{name} leaves the masked area as it is: {_FORM} with that filled; {FILL_MODEL_CURE}")


def _drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A chequered picture with a hole that holds another colour: (SIDE, SIDE, 3) float32 of 0 to 1, (SIDE, SIDE) bool,
    and that colour.
    """
    squares = (np.add.outer(np.arange(SIDE) // 32, np.arange(SIDE) // 32) % 2) * 0.4 - 0.2
    picture = np.array((0.8, 0.5, 0.2), np.float32) + squares[..., None].astype(np.float32)
    masked = np.zeros((SIDE, SIDE), bool)
    masked[200:300, 180:330] = True
    under = np.array((0.1, 0.9, 0.9), np.float32)
    picture[masked] = under
    return picture, masked, under
