"""The messages between the parent and the measuring process."""

from __future__ import annotations

from bench.cells import Cell
from inpaint_ops.records import DeviceInfo, Model


class Request(Model):
    """Measure this cell; begin no further repeat once `seconds` are used."""

    cell: Cell
    seconds: float


class Started(Model):
    """The process has imported what it needs."""

    parts: dict[str, float]
    device: DeviceInfo
    versions: dict[str, str]
