"""Log records are one line each, also in a process whose own handlers make them anew, as Airflow's tasks do."""

from __future__ import annotations

import io
import logging

import inpaint_ops.logs


def test_a_record_is_one_line_and_can_be_made_anew() -> None:
    inpaint_ops.logs.install()
    seen = io.StringIO()

    class Copying(logging.StreamHandler[io.StringIO]):
        """As structlog's formatter in Airflow: it formats a copy of the record."""

        def emit(self, record: logging.LogRecord) -> None:
            super().emit(logging.makeLogRecord(record.__dict__))

    handler = Copying(seen)
    log = logging.getLogger("inpaint_ops.tests.logs")
    log.addHandler(handler)
    try:
        log.error("row %s failed", "a\nb")
        logging.makeLogRecord({"name": "other", "msg": "two\nlines"})
    finally:
        log.removeHandler(handler)
    lines = seen.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("row a")
