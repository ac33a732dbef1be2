"""A report that several processes have read the rows for is, byte for byte, the one that this process alone makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpaint_ops.records import Record
from inpaint_ops.report import trace
from inpaint_ops.run_files.compacted import compact
from inpaint_ops.runs import finish, results, summing
from inpaint_ops.tallies.row_sums import RowSums
from tests.support.child_processes import KillsOne, children
from tests.support.painted_run import Painted

MODULE = "inpaint_ops.tallies.summing_process"
FILES = "run.json", "report.html", "results.jsonl", "failed.jsonl", "timings.parquet", "trace.json"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Reports are shared by two processes; how many rows each stretch has that they summed up."""
    stretches: list[int] = []
    extend = RowSums.extend

    def noted(self: RowSums, later: RowSums, ids: list[str]) -> None:
        stretches.append(len(ids))
        extend(self, later, ids)

    monkeypatch.setattr(RowSums, "extend", noted)
    monkeypatch.setattr(results, "processes_for", lambda rows, fewest: 2)
    monkeypatch.setattr(trace, "TRACE_ROWS", 100)
    return stretches


def alone(run: Painted, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    with monkeypatch.context() as patched:
        patched.setattr(results, "processes_for", lambda rows, fewest: 0)
        return report_of(run)


def report_of(run: Painted) -> dict[str, bytes]:
    finish(run.workspace, "run")
    return {name: run.read(name) for name in FILES}


def compacted(run: Painted) -> None:
    for shard in run.plan.shards:
        run.compact(shard.name)


def test_every_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: list[int]) -> None:
    run = Painted(tmp_path, 500, variants_every=17)
    compacted(run)
    expected = alone(run, monkeypatch)
    assert not shared
    assert report_of(run) == expected
    drawn = json.loads(expected["run.json"])["trace_rows"]
    assert sum(shared) == 490 - drawn > 300, "all rows but those that the trace shows and the rejected ones"
    assert len(shared) > len(run.plan.shards), "rejected rows lie between them"


def test_every_file_is_the_same_after_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: list[int]
) -> None:
    run = Painted(tmp_path, 500, variants_every=17)
    compacted(run)
    run.retry(1, "failed,p5,p100", fails=4)
    run.retry(2, "failed,rejected", fails=1000)
    expected = alone(run, monkeypatch)
    assert report_of(run) == expected
    assert sum(shared) > 300


def test_every_file_is_the_same_where_rows_are_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: list[int]
) -> None:
    run = Painted(tmp_path, 900, variants_every=23)
    compacted(run)
    places = {shard.name: shard.first_row for shard in run.plan.shards}
    drawn = trace.sample_shards({shard.name: shard.rows for shard in run.plan.shards})
    odd = [name for name in places if name not in drawn]

    def record(at: int, row: int = 3) -> Path:
        return Path(run.layout.record(odd[at], places[odd[at]] + row).key)

    def changed(at: int, **values: object) -> None:
        """The record, and the compacted one with it, as if an attempt had written it."""
        found = Record.model_validate_json(record(at).read_bytes()).model_copy(update=values)
        record(at).write_text(found.model_dump_json())

    record(0).unlink()
    record(1).write_text("{")
    changed(2, attempt="later")
    Path(run.layout.compacted_shard(odd[3]).key).unlink()
    Path(run.layout.compacted_shard(odd[4]).key).write_bytes(compact({}))
    Path(run.layout.compacted_shard(odd[5]).key).write_bytes(b"nothing")
    changed(6, id="p1")
    run.compact(odd[6])
    done = [Record.model_validate_json(record(at, 4).read_bytes()) for at in (7, 8)]
    images = [Path(one.output.uri) for one in done if one.output is not None]
    images[0].unlink()
    images[1].write_bytes(b"x" * images[1].stat().st_size)
    record(9, 400).write_text("{}")
    shard = Path(run.layout.shard(odd[10]).key)
    shard.write_bytes(shard.read_bytes().replace(b'"p', b'"q', 1))
    changed(11, prompt="x" * 2**20)
    run.compact(odd[11])
    changed(12, flags=("grain_ratio_low",))
    run.compact(odd[12])
    expected = alone(run, monkeypatch)
    assert report_of(run) == expected
    untouched = [shard.rows for shard in run.plan.shards if shard.name in odd[12:]]
    assert sum(shared) >= sum(untouched)
    swapped = b"its image is not the one of its record"
    assert swapped in expected["run.json"], "the rows were gone through twice"


@pytest.mark.parametrize("when", ["at once", "later"])
def test_rows_of_a_process_that_is_killed_are_read_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: list[int], caplog: pytest.LogCaptureFixture, when: str
) -> None:
    run = Painted(tmp_path, 600)
    compacted(run)
    expected = alone(run, monkeypatch)
    kill, files = KillsOne(MODULE), summing._files

    def kill_one(*asked: object) -> object:
        if when == "at once" or shared:
            kill()
        return files(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(summing, "_files", kill_one)
    assert report_of(run) == expected
    assert kill.pid and f"process {kill.pid}, which had some of the rows, was ended by SIGKILL" in caplog.text
    assert not children(MODULE)


def test_a_report_that_loses_all_of_its_processes_is_made_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: list[int]
) -> None:
    run = Painted(tmp_path, 300)
    compacted(run)
    expected = alone(run, monkeypatch)
    monkeypatch.setattr(summing, "_MODULE", "inpaint_ops.no_such_module")
    assert report_of(run) == expected
    assert not shared and not children(MODULE)
