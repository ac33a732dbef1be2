"""The driver's own library, NVML, by NVIDIA's binding (`nvidia-ml-py`): opened for one question, never at import.

The library comes with the driver (in containers: the driver capability `utility`). Where it is missing or may not be
used, there are no cards. It answers for all processes alike: it does not read `CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds after which a driver that does not answer counts as none: a broken card can block a call for good."""


def ask(question: Callable[[Any], _T]) -> _T | None:
    """What `question`, which is given the binding's module, returns; None where the driver is absent, fails or hangs.

    It runs in a thread of its own, so a call that never returns costs the caller TIMEOUT seconds and no more.
    """
    answer: Future[_T | None] = Future()

    def run() -> None:
        try:
            answer.set_result(_ask(question))
        except BaseException as error:  # the caller's to raise
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True, name="nvml").start()
    try:
        return answer.result(TIMEOUT)
    except TimeoutError:
        _log.warning("NVIDIA's driver has not answered for %.0f s: it counts as absent; see the kernel's log", TIMEOUT)
        return None


def _ask(question: Callable[[Any], _T]) -> _T | None:
    import pynvml  # 8 000 lines that Airflow's processes do not need

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no library, no driver, no permission, two versions of them
        return None
    try:
        return question(pynvml)
    except pynvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def known(function: Callable[..., Any], *arguments: Any) -> Any:
    """What an NVML function returns, or None where this card or driver does not tell.

    Raises NVMLError_GpuIsLost when the card has fallen off the bus: then nothing that it says counts.
    """
    import pynvml

    try:
        return function(*arguments)
    except pynvml.NVMLError_GpuIsLost:
        raise
    except pynvml.NVMLError:  # not supported, no permission, a function that the driver is too old for
        return None
