"""One message, one line: no name of a file or key forges a line of a log, or commands a terminal (CWE-117, CWE-150)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from inpaint_ops.errors import one_line


class OneLineRecords:
    """A factory of log records that makes one plain line of each message of this package; others pass as they are.

    A formatter or a filter would do it for one handler or logger, and Airflow brings handlers of its own.
    """

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, name: str | None, *arguments: Any, **options: Any) -> logging.LogRecord:
        """A record. Raises nothing: a message that cannot be formatted is left for its handler to tell."""
        record = self._make(name, *arguments, **options)
        if name is not None and name.partition(".")[0] == __package__:  # logging.makeLogRecord, Airflow's way, has none
            try:
                record.msg, record.args = one_line(record.getMessage()), None
            except (TypeError, ValueError, KeyError):
                return record
        return record


def install() -> None:
    """Have every record that this process logs made so; once is enough."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, OneLineRecords):
        logging.setLogRecordFactory(OneLineRecords(make))
