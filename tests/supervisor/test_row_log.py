"""A row's record keeps the last lines that were logged of it: few, on one line each, without what is secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpaint_ops.records import LOG_BYTES, LOG_LINE_CHARS, LOG_LINES
from inpaint_ops.supervisor.row_log import kept
from tests.support.bench import Bench


def test_a_row_that_had_nothing_to_say_has_no_field_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "fail"])
    bench.shard_run().run()
    for row in (1, 2):
        body = bench.workspace.storage.get(bench.layout.record("00000", row))
        assert "log" not in json.loads(body)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_rows_that_a_worker_held_when_it_died_say_so(tmp_path: Path, batch: int) -> None:
    bench = Bench(tmp_path, ["ok", "SIGKILL once", "ok"])
    bench.shard_run(batch=batch).run()
    assert bench.statuses() == ["done"] * 3
    log = bench.records()[2].log
    assert len(log) == 1
    assert "ended (killed by SIGKILL" in log[0]
    assert log[0].split(" ")[2] == "WARNING"


def test_a_row_that_is_set_aside_tells_of_each_worker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "SIGKILL", "ok"])
    bench.shard_run().run()
    log = bench.records()[2].log
    assert len(log) == 2
    assert all("SIGKILL" in line for line in log)
    assert (bench.records()[1].log, bench.records()[3].log) == ((), ())


def test_what_a_worker_says_of_a_row_is_cut_to_plain_lines_without_secrets(tmp_path: Path) -> None:
    said = "log: got https://h/a?X-Amz-Signature=abc|https://user:word@h/b|ends"
    bench = Bench(tmp_path, [said])
    bench.shard_run().run()
    log = bench.records()[1].log
    assert log == ("got https://h/a", "https://h/b", "ends")
    assert kept(["\x1b[31mred\nERROR forged"]) == ("\\x1b[31mred ERROR forged",)


def test_a_worker_that_says_too_much_is_not_believed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "log: " + "|".join("x" * 100)])
    bench.shard_run().run()
    assert bench.statuses() == ["done", "failed"]


@pytest.mark.parametrize(
    ("lines", "first", "count"),
    [
        ([], None, 0),
        (["a"] * LOG_LINES, "a", LOG_LINES),
        ([str(n) for n in range(25)], "... 6 earlier lines are in the task's log", LOG_LINES),
        (["é" * LOG_LINE_CHARS] * 10, "... 6 earlier lines are in the task's log", 5),
        (["y" * 5000], "y" * (LOG_LINE_CHARS - 1) + "…", 1),
    ],
)
def test_the_last_lines_are_kept_and_those_before_are_counted(lines: list[str], first: str | None, count: int) -> None:
    found = kept(lines)
    assert len(found) == count
    assert next(iter(found), None) == first
    assert sum(len(line.encode()) for line in found) <= LOG_BYTES
    if lines:
        assert found[-1].rstrip("…").startswith(lines[-1][:300])
    assert all(len(line) <= LOG_LINE_CHARS for line in found)
    assert len(found) <= LOG_LINES


def test_a_rows_record_has_the_lines_of_all_its_variants_and_no_more_than_it_takes(tmp_path: Path) -> None:
    long = "|".join(f"{number} {'z' * 300}" for number in range(9))
    bench = Bench(tmp_path, [f"log: {long}"], variants=3)
    bench.shard_run().run()
    record = bench.records()[1]
    assert [len(one.log) for one in record.variants] == [9, 9, 9]
    assert sum(len(line.encode()) for line in record.log) <= LOG_BYTES
    assert record.log[-1] == f"8 {'z' * 300}"
