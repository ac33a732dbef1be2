"""A shard whose workers are forked from a warm host: the same promises, and reports that say how each was started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inpaint_ops.supervisor import starting
from tests.support.bench import SCRIPT, Bench
from tests.support.warm import light_host

REPOSITORY = Path(__file__).resolve().parents[2]


def scripted(journal: Path) -> str:
    """What a forked process does: it is the scripted worker."""
    arguments = ["scripted", "--events-fd", "3", "--batch", "2", "--journal", str(journal)]
    return f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
sys.argv = {arguments!r} + ["--parent", str(os.getppid())]
from tests.support.scripted_worker import main
main()
"""


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV", "exit"])
def test_one_poison_row_never_stops_the_others(tmp_path: Path, death: str) -> None:
    with light_host(tmp_path, scripted(tmp_path / "journal")) as host:
        bench = Bench(tmp_path, ["ok", "ok", death, "ok", "ok", "ok"], warm_host=host.socket)
        run = bench.shard_run()
        run.worker_command = None
        result = run.run()
        assert bench.statuses() == ["done", "done", "failed", "done", "done", "done"]
        assert result.failed == 1
        error = bench.records()[3].error
        assert error is not None
        assert (error.type, error.permanent) == ("WorkerDiedError", True)
        assert {"SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV", "exit": "out of luck"}[death] in error.message
        reports = bench.workers()
        assert {(report.started_by, report.not_forked) for report in reports} == {("fork", "")}
        assert len(reports) == result.workers > 1
        pids = {note["pid"] for note in bench.notes()}
        assert {report.worker.pid for report in reports} <= pids
        bench.assert_nothing_left()


def test_a_report_says_why_a_worker_was_not_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "warm" / "socket"
    bench = Bench(tmp_path, ["ok", "ok"], warm_host=str(socket))
    command = (sys.executable, str(SCRIPT), "--journal", str(bench.journal))
    monkeypatch.setattr(starting, "WORKER_COMMAND", command)
    run = bench.shard_run()
    run.worker_command = None
    run.run()
    assert bench.statuses() == ["done", "done"]
    (report,) = bench.workers()
    assert report.started_by == "exec"
    assert report.not_forked.startswith(f"no warm host at {socket}: ")


def test_without_a_warm_host_nothing_is_said_of_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"])
    bench.shard_run().run()
    assert [(report.started_by, report.not_forked) for report in bench.workers()] == [("exec", "")]
