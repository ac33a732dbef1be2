"""A worker that an image has taken over says what it likes: out of turn, without end, without measure."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inpaint_ops.errors import WorkerProtocolError, WorkerStalledError
from inpaint_ops.protocol import MAX_ITEMS, Event, Item, Job, bounded, parse_event
from inpaint_ops.runs import finish
from inpaint_ops.supervisor.pipes import LineTooLongError, printed_pieces, whole_lines
from inpaint_ops.supervisor.worker_process import MAX_PENDING, MAX_PRINTED_BYTES, MAX_PRINTED_LINES, WorkerProcess
from tests.attacks.worker.bench import SCRIPT, Attacked
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_gallery")

SAID = {
    "done_twice": ("which it does not have", "its source is 2x1"),
    "ready_twice": ("reported twice",),
    "unknown_row_done": ("ended row 4711",),
    "unknown_row_failed": ("ended row 4711",),
    "unknown_row_begun": ("began row 4711",),
    "goodbye_unasked": ("before it was asked",),
    "fatal_of_a_permanent_kind": ("it stopped: ModelError",),
    "naive_time": ("no event",),
    "time_out_of_range": ("no event",),
    "not_a_number": ("no event",),
    "infinity": ("no event",),
    "negative": ("no event",),
    "negative_memory": ("no event",),
    "number_of_a_thousand_digits": ("no event",),
    "deep": ("no event",),
    "many_values": ("no event",),
    "garbage": ("no event",),
    "unknown_kind": ("no event",),
    "line_without_end": ("without an end of line",),
    "flood_of_steps": ("without a row ended",),
    "flood_of_warnings": ("more than 500 warnings",),
}


@pytest.mark.parametrize("attack", SAID)
def test_a_worker_out_of_turn_is_killed_and_the_other_rows_go_on(tmp_path: Path, attack: str) -> None:
    """The attack: an event that no honest worker sends then, or at all."""
    bench = Attacked(tmp_path)
    bench.attack(attack).run()
    bench.assert_only_the_evil_row_failed(*SAID[attack])
    faults = {fault.kind: fault for fault in finish(bench.workspace, "run").faults}
    assert faults["worker_died"].count >= 2  # a refusal may come when the worker is gone already
    assert "killed: it" in faults["worker_died"].what or "refused" in faults["worker_died"].what


@pytest.mark.parametrize("attack", ["done before ready", "device uuid"])
def test_a_worker_that_begins_out_of_turn_paints_nothing(tmp_path: Path, attack: str) -> None:
    """The attack: a row is ended before there is one; a device's name is an option of the driver's tool."""
    bench = Attacked(tmp_path)
    with pytest.raises(WorkerProtocolError, match=r"3 workers in a row .* killed: it sent"):
        bench.attack(attack).run()
    assert bench.records() == {}
    bench.assert_nothing_left()


def test_a_worker_that_reads_nothing_is_found_by_its_silence(tmp_path: Path) -> None:
    """The attack: its commands fill their pipe, and whoever writes them would wait for ever."""
    bench = Attacked(tmp_path, stall_timeout=1.0)
    run = bench.attack("deaf")
    run.rows = [row.model_copy(update={"prompt": "x" * 200_000}) for row in run.rows]
    with pytest.raises(WorkerStalledError):
        run.run()
    bench.assert_nothing_left()


def test_who_a_worker_is_is_not_its_own_word(tmp_path: Path) -> None:
    """The attack: it names another process and another machine."""
    bench = Attacked(tmp_path)
    bench.attack("missing").run()
    workers = [record.worker for record in bench.records().values() if record.worker]
    assert workers
    assert all(worker.pid != 1 and worker.host != "elsewhere" for worker in workers)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every line of the log."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger("inpaint_ops")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_no_line_of_the_log_is_forged(tmp_path: Path, said: list[str]) -> None:
    """The attack: ends of lines and what steers a terminal, printed and in events."""
    bench = Attacked(tmp_path)
    bench.attack("forged_lines").run()
    assert [line for line in said if "forged" in line]
    for line in said:
        assert line.isprintable(), line
        assert not line.startswith("ERROR")
    assert bench.statuses() == ["done", "failed", "done"]


@pytest.mark.parametrize("attack", ["flood_on_standard_output", "flood_of_lines"])
def test_a_flood_of_output_is_cut_and_said_to_be(tmp_path: Path, said: list[str], attack: str) -> None:
    """The attack: 300 MB on standard output by each worker, most of it one line; a million lines."""
    bench = Attacked(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bench.attack(attack).run()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024, "kilobytes, of 300 MB"
    printed = [line for line in said if "| y" in line or "| line" in line]
    assert printed
    assert max(map(len, printed)) < 9000
    assert sum(map(len, printed)) < 2 * 1.1 * MAX_PRINTED_BYTES, "of two workers"
    assert len(printed) <= 2 * MAX_PRINTED_LINES
    assert len([line for line in said if "the rest is left out" in line]) == 2
    assert len([line for line in said if "were left out of the log" in line]) == 2
    assert bench.statuses() == ["done", "failed", "done"]


def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    """The attack: 400 MB of events without a newline."""
    bench = Attacked(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bench.attack("line_without_end").run()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "kilobytes, of 400 MB"
    bench.assert_only_the_evil_row_failed("without an end of line")


def test_a_child_that_keeps_the_pipes_open_holds_nobody_up(tmp_path: Path) -> None:
    """The attack: a process outside of the worker's group holds its events and its output open, for an hour."""
    bench = Attacked(tmp_path)
    try:
        bench.attack("detached_child").run()
        assert bench.statuses() == ["done", "failed", "done"]
    finally:
        for pid in (bench.loot / "children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_a_flood_of_events_waits_in_the_pipe(tmp_path: Path) -> None:
    """The attack: events faster than anybody can handle them fill the supervisor's memory."""
    held: list[Event] = []
    codes: list[int] = []
    command = [sys.executable, str(SCRIPT), "flood_of_steps", str(tmp_path)]
    worker = WorkerProcess.start(
        cwd=tmp_path, on_event=held.append, on_exit=codes.append, command=command, pending=lambda: len(held)
    )
    worker.send(Job(model="m", scratch=str(tmp_path)))
    item: dict[str, Any] = {"image": "i", "mask": "m", "output": "o", "seed": 1, "steps": 1, "guidance_scale": 1}
    worker.send(Item(row=1, id="a", prompt="evil", strength=1, **item))
    counts: list[int] = []

    def nothing_comes_any_more() -> bool:
        counts.append(len(held))
        return len(held) > MAX_PENDING and len(counts) > 10 and len(set(counts[-10:])) == 1

    wait_until(nothing_comes_any_more)  # though it would write for ever
    worker.kill()
    wait_until(lambda: bool(codes))
    assert len(held) <= MAX_PENDING + 3 * 64 * 1024 // 36, "what was in the pipe comes on top: 36 bytes each"


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 64))
def test_lines_come_whole_or_not_at_all(chunks: list[bytes], limit: int) -> None:
    """The attack: ends of lines anywhere among the pieces in which a pipe is read."""
    *lines, _ = b"".join(chunks).split(b"\n")
    got = []
    try:
        for line in whole_lines(chunks, limit):
            got.append(line)
    except LineTooLongError:
        assert any(len(line) > limit for line in b"".join(chunks).split(b"\n"))
        assert got == lines[: len(got)]
    else:
        assert got == lines
        assert all(len(line) <= limit for line in lines)


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 16))
def test_what_is_printed_comes_in_pieces_and_nothing_is_lost(chunks: list[bytes], limit: int) -> None:
    """The attack: a printed line longer than anybody should hold."""
    pieces = list(printed_pieces(chunks, limit))
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert b"".join(pieces) == b"".join(chunks).replace(b"\n", b"").replace(b"\r", b"")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_what_passes_is_bounded(value: Any) -> None:
    """The attack: any JSON at all."""
    try:
        kept = bounded(value)
    except ValueError:
        return
    text = json.dumps(kept, ensure_ascii=False)
    assert "NaN" not in text or "NaN" in str(value)
    assert text.isprintable()


@pytest.mark.parametrize("rows", [MAX_ITEMS, MAX_ITEMS + 1])
def test_a_list_is_as_long_as_the_limit(rows: int) -> None:
    """The attack: one value more than the limit."""
    line = json.dumps({"kind": "begun", "rows": list(range(1, rows + 1)), "stage": "paint"})
    if rows <= MAX_ITEMS:
        parse_event(line)
    else:
        with pytest.raises(ValidationError, match="more than 1,000 values"):
            parse_event(line)
