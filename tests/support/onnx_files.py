"""ONNX files with the inputs and outputs of LaMa's and LPIPS's, written here: ModelProto in protobuf's wire format.

The one network fills the mask with the mean of what is seen nearby; the other gives the mean square of the differences.
Opset 17, as the files that are published (onnx.proto has the fields' numbers).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

SIDE = 512
_FLOAT = 1


def lama(
    *,
    image: str = "image",
    mask: str = "mask",
    top: float = 255,
    keeps: bool = False,
    swapped: bool = False,
    nan: bool = False,
    unknown: bool = False,
    elsewhere: str = "",
    side: int = SIDE,
    channels: int = 3,
) -> bytes:
    """One that fills where the mask is 1; its result is of 0 to `top`.

    `keeps`: the mask means the opposite; `swapped`: its result is BGR; `nan`: its result is NaN where it fills;
    `unknown`: it has an operator that does not exist; `elsewhere`: the file of one of its weights.
    """
    across = {"kernel_shape": (1, 191), "strides": (1, 1), "pads": (0, 95, 0, 95), "count_include_pad": 1}
    down = {"kernel_shape": (191, 1), "strides": (1, 1), "pads": (95, 0, 95, 0), "count_include_pad": 1}
    hole, seen_where = ("keep", mask) if keeps else (mask, "keep")
    nodes = [
        _node("Sub", ["one", mask], "keep"),
        _node("Mul", [image, seen_where], "seen"),
        _node("AveragePool", ["seen"], "rows", **across),
        _node("AveragePool", ["rows"], "sum", **down),
        _node("AveragePool", [seen_where], "weights", **across),
        _node("AveragePool", ["weights"], "weight", **down),
        _node("Min" if nan else "Max", ["weight", "nought" if nan else "little"], "divisor"),
        _node("Div", ["sum", "divisor"], "near"),
        _node("Mul", ["near", hole], "patch"),
        _node("Add", ["seen", "patch"], "whole"),
        _node("Gather", ["whole", "order"], "ordered", axis=1),
        _node("Magic" if unknown else "Mul", ["ordered", "top"], "output"),
    ]
    shape = (1, channels, side, side)
    order = (2, 1, 0) if swapped else tuple(range(channels))
    constants = [
        _tensor("one", (1.0,)), _tensor("little", (1e-6,)), _tensor("nought", (0.0,)),
        _tensor("top", (top,), elsewhere),
        _int(1, len(order)) + _int(2, 7) + _bytes(8, b"order") + _bytes(9, struct.pack(f"<{len(order)}q", *order)),
    ]  # fmt: skip
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"lama")
    graph += b"".join(_bytes(5, constant) for constant in constants)
    graph += _bytes(11, _value(image, shape)) + _bytes(11, _value(mask, (1, 1, side, side)))
    graph += _bytes(12, _value("output", shape))
    return _int(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, b"") + _int(2, 17))


LPIPS_SIDE = 256


def lpips(
    *,
    source: str = "source",
    side: int = LPIPS_SIDE,
    nan: bool = False,
    offset: float = 0.0,
    factor: float = 1.0,
    whole: bool = False,
) -> bytes:
    """One that gives `factor` times the mean square of what two pictures differ by, and `offset` more.

    `nan`: NaN for pictures that differ; `whole`: it gives the squares, not their mean.
    """
    nodes = [
        _node("Sub", [source, "result"], "difference"),
        _node("Mul", ["difference", "difference"], "square"),
        _node("Sqrt" if nan else "Identity", ["difference" if nan else "square"], "each"),
        _node("GlobalAveragePool", ["each"], "channels"),
        _node("ReduceMean", ["each" if whole else "channels"], "mean", axes=(1,), keepdims=1),
        _node("Mul", ["mean", "factor"], "scaled"),
        _node("Add", ["scaled", "offset"], "distance"),
    ]
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"lpips")
    graph += _bytes(5, _tensor("factor", (factor,))) + _bytes(5, _tensor("offset", (offset,)))
    shape = (1, 3, side, side)
    graph += _bytes(11, _value(source, shape)) + _bytes(11, _value("result", shape))
    graph += _bytes(12, _value("distance", (1, 1, side, side) if whole else (1, 1, 1, 1)))
    return _int(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, b"") + _int(2, 17))


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, value: bytes, wire: int = 0) -> bytes:
    return _number(number << 3 | wire) + value


def _int(number: int, value: int) -> bytes:
    return _field(number, _number(value))


def _bytes(number: int, value: bytes) -> bytes:
    return _field(number, _number(len(value)) + value, 2)


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    found = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
    found += _bytes(3, f"/{output}".encode()) + _bytes(4, kind.encode())
    for name, value in attributes.items():
        several = not isinstance(value, int)
        values = value if not isinstance(value, int) else (value,)
        body = b"".join(_int(8 if several else 3, one) for one in values)
        found += _bytes(5, _bytes(1, name.encode()) + body + _int(20, 7 if several else 2))
    return found


def _tensor(name: str, values: Sequence[float], elsewhere: str = "") -> bytes:
    found = _int(1, len(values)) + _int(2, _FLOAT) + _bytes(8, name.encode())
    if elsewhere:
        return found + _bytes(13, _bytes(1, b"location") + _bytes(2, elsewhere.encode())) + _int(14, 1)
    return found + _bytes(9, struct.pack(f"<{len(values)}f", *values))


def _value(name: str, shape: Sequence[int]) -> bytes:
    sides = b"".join(_bytes(1, _int(1, side)) for side in shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _int(1, _FLOAT) + _bytes(2, sides)))
