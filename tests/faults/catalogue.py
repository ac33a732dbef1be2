"""The faults that the command line alone can meet: processes, storage, credentials, disks, memory, weights, clocks."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.faults.trial import Fault, Trial


def _signal_worker(number: signal.Signals) -> Callable[[Trial], None]:
    return lambda trial: trial.at_a_moment(lambda: trial.signal_worker(number))


PROCESSES = (
    Fault("worker killed", "SIGKILL of the worker", _signal_worker(signal.SIGKILL)),
    Fault("worker crashed", "SIGSEGV of the worker", _signal_worker(signal.SIGSEGV)),
    Fault(
        "task killed",
        "SIGKILL of the command, the worker's supervisor",
        lambda trial: trial.at_a_moment(lambda: trial.signal_command(signal.SIGKILL)),
    ),
)

FAULTS: tuple[Fault, ...] = PROCESSES
