"""What is logged while a row is worked on is kept for that row: by thread, in order, a few lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from inpaint_ops.records import LOG_LINE_CHARS, LOG_LINES
from inpaint_ops.worker.row_lines import RowLines

log = logging.getLogger("tests.row_lines")


@pytest.fixture
def lines() -> Iterator[RowLines]:
    handler = RowLines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def texts(lines: RowLines, row: int) -> list[str]:
    """Without their times."""
    return [line.partition(" tests.row_lines: ")[2] or line for line in lines.take(row)]


def test_warnings_and_errors_are_of_the_rows_at_hand_and_told_once(lines: RowLines) -> None:
    log.warning("of nobody")
    with lines.about(1, 2):
        log.warning("of both %d", 3)
        log.info("not worth it")
        with lines.about(2):
            log.error("of two\nalone")
        log.error("both again")
    log.warning("of nobody")
    assert texts(lines, 1) == ["of both 3", "both again"]
    assert texts(lines, 2) == ["of both 3", "of two alone", "both again"]
    assert texts(lines, 2) == texts(lines, 3) == []


def test_an_error_brings_where_it_came_from(lines: RowLines) -> None:
    with lines.about(1):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            log.exception("it failed")
    first, kind, where = lines.take(1)
    assert " ERROR tests.row_lines: it failed" in first
    assert kind == "ZeroDivisionError: division by zero"
    assert where.startswith("  in test_an_error_brings_where_it_came_from, tests/worker/test_row_lines.py:"[:60])


def test_two_threads_keep_their_rows_apart(lines: RowLines) -> None:
    together = Barrier(2)

    def work(row: int) -> None:
        with lines.about(row):
            together.wait()
            log.warning("row %d", row)
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 2)))
    assert [texts(lines, row) for row in (1, 2)] == [["row 1"], ["row 2"]]


def test_only_the_last_lines_stay_and_none_is_long(lines: RowLines) -> None:
    with lines.about(1):
        for number in range(100):
            log.warning("%d %s", number, "x" * 10_000)
    found = lines.take(1)
    assert len(found) == LOG_LINES
    assert all(len(line) <= LOG_LINE_CHARS for line in found)
    assert " 99 x" in found[-1]
