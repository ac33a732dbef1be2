"""LPIPS, how unlike two pictures look to a trained network (Zhang et al., 2018), from a user's ONNX file, by OpenCV."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from inpaint_ops.config import LPIPS_MODEL_CURE
from inpaint_ops.errors import ModelError, NonFiniteImageError
from inpaint_ops.images.networks import in_short, read_network

SIDE = 256
"""Pixels a side of what the network is given."""

SOURCE, RESULT = "source", "result"
"""Its inputs: (1, 3, SIDE, SIDE) float32 RGB of -1 to 1, as the package `lpips` takes them. It gives one number."""

_FORM = f"it must take `{SOURCE}` and `{RESULT}` (1, 3, {SIDE}, {SIDE}) and give back one number"
_NOTHING = 1e-3
"""A distance up to here is taken for that of equal pictures; what differs must be farther."""
_MOST = 1000.0


class Lpips:
    """The network in an ONNX file, on the processor. Any thread may use it; one at a time does."""

    side = SIDE

    def __init__(self, data: bytes, name: str) -> None:
        """Read the file's bytes, and try the network on drawn pictures. `name` is what errors call the file.

        Raises ModelError where the file is no ONNX, OpenCV cannot run it, or its result is no distance: other inputs,
        NaN, not 0 for equal pictures, or not more for unlike ones.
        """
        self._lock = threading.Lock()
        self._net = read_network(data, name, LPIPS_MODEL_CURE)
        self._try_out(name)

    def __str__(self) -> str:
        """How it runs, for the ledger."""
        return f"run by OpenCV {cv2.__version__} on the processor at {SIDE}x{SIDE}"

    def distance(self, source: np.ndarray, result: np.ndarray) -> float:
        """How unlike they look: 0 for equal ones, no upper end. Args: (SIDE, SIDE, 3) uint8 RGB. Raises cv2.error,
        NonFiniteImageError.
        """
        found = self._run(source, result)
        if not np.isfinite(found):
            raise NonFiniteImageError("the LPIPS model's result is NaN or infinity")
        return min(max(found, 0.0), _MOST)

    def _run(self, source: np.ndarray, result: np.ndarray) -> float:
        """Raises cv2.error; ValueError for a result of another shape."""
        with self._lock:
            for picture, name in ((source, SOURCE), (result, RESULT)):
                scaled = picture.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
                self._net.setInput(np.ascontiguousarray(scaled)[None], name)
            found = np.array(self._net.forward(), np.float32)
        if found.size != 1:
            raise ValueError(f"its result is {found.shape}")
        return float(found.ravel()[0])

    def _try_out(self, name: str) -> None:
        """Have it compare a drawn picture with itself, and with others. Raises ModelError."""
        drawn = _drawn()
        other = drawn[::-1, :, ::-1]
        try:
            same, unlike, back = self._run(drawn, drawn), self._run(drawn, other), self._run(other, drawn)
        except (cv2.error, ValueError, MemoryError) as error:
            raise ModelError(f"{name} cannot be run ({in_short(error)}): {_FORM}; {LPIPS_MODEL_CURE}") from error
        if not np.isfinite([same, unlike, back]).all():
            raise ModelError(f"{name} gives NaN or infinity for a plain picture: {LPIPS_MODEL_CURE}")
        if abs(same) > _NOTHING:
            raise ModelError(f"{name} gives {same:.4g} for two equal pictures, not 0: {_FORM}; {LPIPS_MODEL_CURE}")
        if not _NOTHING < min(unlike, back) <= max(unlike, back) <= _MOST:
            raise ModelError(
                f"{name} gives {unlike:.4g} and {back:.4g} for two unlike pictures, which is no distance (more than "
                f"{_NOTHING}, up to {_MOST:.0f}): {_FORM}; {LPIPS_MODEL_CURE}"
            )


def _drawn() -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: squares over a slope of colour, unlike itself when it is turned over."""
    squares = (np.add.outer(np.arange(SIDE) // 16, np.arange(SIDE) // 32) % 2) * 60
    slope = np.linspace(0, 190, SIDE)
    picture = np.stack(np.broadcast_arrays(squares + slope[:, None], squares + 40, squares + slope[None, ::-1]), axis=2)
    return picture.astype(np.uint8)
