"""A user's network in ONNX, as OpenCV runs it on the processor."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

from inpaint_ops.errors import ModelError

_ELSEWHERE = b"location"
"""What an ONNX file with a tensor in another one has in it: the key of that file's name (`TensorProto.external_data`).
OpenCV would read any file of this machine so. The same number can be written in several ways, so the bytes before the
word decide nothing.
"""


def read_network(data: bytes, name: str, cure: str) -> Any:
    """The cv2.dnn.Net of an ONNX file's bytes; errors call the file `name`, and end in the cure. Raises ModelError."""
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        raise ModelError(f"{name} needs OpenCV 5 or newer, this is {cv2.__version__}: install a newer one")
    if _ELSEWHERE in data:
        raise ModelError(f"{name} names other files (`location`) for its weights, and none is opened: {cure}")
    if not data:
        raise ModelError(f"{name} is empty: {cure}")
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8), cv2.dnn.ENGINE_NEW)
    except (cv2.error, MemoryError) as error:
        raise ModelError(f"{name} is no ONNX file that OpenCV can read ({in_short(error)}): {cure}") from error
    if network.empty():
        raise ModelError(f"{name} has operators that OpenCV {cv2.__version__} does not know: {cure}")
    return network


def in_short(error: BaseException) -> str:
    """An error of OpenCV's in short: its own words come after the place in its code."""
    text = " ".join(str(error).split()).rsplit("error: ", 1)[-1]
    text = re.sub(r"^\(-\d+:[^)]*\) *|in function '[^']*' *", "", text).strip()
    return text[:160] or type(error).__name__
