"""What every task of the DAGs needs: our errors as Airflow's, and an end that the kernel and SIGTERM can enforce."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise our errors as Airflow's: a permanent one fails the task at once, a transient one leaves it its retries."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from inpaint_ops.errors import InpaintOpsError

    try:
        yield
    except InpaintOpsError as error:
        kind = AirflowFailException if error.permanent else AirflowException
        raise kind(f"{type(error).__name__}: {error}") from error


def die_with_parent() -> None:
    """Have the kernel kill this task when its Airflow supervisor dies, and exit with 143 on SIGTERM.

    Without the first, a task whose supervisor was killed runs on beside its own retry; without the second, Airflow's
    task runner answers SIGTERM by calling `on_kill` and goes on.
    """
    from inpaint_ops import worker

    worker.die_with_parent(os.getppid())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
