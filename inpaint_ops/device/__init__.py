"""The devices of this machine: which there are, their condition, and the lease that keeps one process per device.

Importing this package imports no torch.
"""

from inpaint_ops.device.cards import (
    GB,
    Tier,
    VisibleDevice,
    describe,
    environment_for,
    host_slots,
    local_card,
    tier,
    visible_devices,
)
from inpaint_ops.device.choosing import choose_devices
from inpaint_ops.device.lease import (
    MAX_LOSSES,
    Lease,
)
from inpaint_ops.device.waiting import ask_to_wait
from inpaint_ops.device.waiting import inspect as inspect_waiting

__all__ = [
    "GB",
    "MAX_LOSSES",
    "Lease",
    "Tier",
    "VisibleDevice",
    "ask_to_wait",
    "choose_devices",
    "describe",
    "environment_for",
    "host_slots",
    "inspect_waiting",
    "local_card",
    "tier",
    "visible_devices",
]
