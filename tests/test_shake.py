"""The tests' own tools: isolation, ports, what is skipped, what is picked, and processes that keep a machine busy."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pools
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.ports import Claim, claim_port
from tests import check, shake
from tests.support import isolation, late_threads, order, skipped
from tests.support.waiting import wait_until


def test_nothing_of_another_program_is_seen_here(tmp_path: Path) -> None:
    mine = Path(tempfile.gettempdir()).parent
    assert mine.name.startswith("inpaint-tests-")
    for name in ("TMPDIR", "HOME", "HF_HOME", "XDG_CACHE_HOME", "AIRFLOW_HOME"):
        assert Path(os.environ[name]).is_relative_to(mine), name
    child = "import tempfile; print(tempfile.gettempdir())"
    said = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout.strip()
    assert said == tempfile.gettempdir()


def test_what_whoever_started_the_tests_has_set_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tempfile.gettempdir()
    foreign = {
        "AWS_PROFILE": "night",
        "INPAINT_STORE": "s3://theirs/",
        "HF_TOKEN": "secret",
        "https_proxy": "x",
        "A": "b",
    }
    folder = isolation.isolate(foreign)
    monkeypatch.setattr(tempfile, "tempdir", None)
    try:
        assert foreign["A"] == "b"
        assert not foreign.keys() & {"AWS_PROFILE", "INPAINT_STORE", "HF_TOKEN", "https_proxy"}
        assert Path(foreign["TMPDIR"]).is_dir() and folder.parent == Path(before)
    finally:
        isolation.forget(folder)


def test_a_claimed_port_is_given_to_nobody_else_until_the_last_holder_ends() -> None:
    with closing(claim_port()) as claim:
        with pytest.raises(OSError):
            Claim([claim.port])
        holder = subprocess.Popen(["sleep", "600"], pass_fds=claim.descriptors)
    with pytest.raises(OSError):
        Claim([claim.port])
    holder.kill()
    holder.wait()
    Claim([claim.port]).close()


def test_a_port_on_which_somebody_listens_is_not_claimed() -> None:
    with closing(claim_port()) as claim, socket.create_server(("127.0.0.1", claim.port)):
        claim.close()
        with pytest.raises(OSError):
            Claim([claim.port])


def test_files_of_a_group_share_a_process_and_the_long_ones_come_first() -> None:
    names = [
        "tests/test_a.py::one",
        "tests/dags/test_airflow.py::two",
        "tests/test_a.py::three",
        "tests/dags/test_cluster.py::four",
    ]
    items: list[Any] = [SimpleNamespace(nodeid=name) for name in names]
    assert [item.nodeid for item in order.in_order(items)] == [names[3], names[1], names[0], names[2]]
    assert order.group("tests/plugins/test_ui_browser.py::x") == order.group("tests/dags/test_airflow.py::y")
    root = Path(__file__).parents[1]
    assert all((root / file).exists() for file in order.GROUPS), "a file that moved takes its group along"


def test_a_groups_server_ends_with_the_last_of_its_tests() -> None:
    ended: list[str] = []
    config: Any = SimpleNamespace(stash=pytest.Stash())
    names = ("tests/dags/test_airflow.py::a", "tests/plugins/test_ui_redo.py::b", "tests/test_a.py::c")
    first, second, other = (SimpleNamespace(nodeid=name, config=config) for name in names)
    order.after(first, other)  # nothing was started
    order.ends_with_its_group(config, "site", lambda: ended.append("site"))
    order.after(first, second)
    order.after(other, None)
    assert ended == []
    order.after(second, other)
    order.after(first, None)
    assert ended == ["site"]


def test_a_server_is_shared_by_the_files_of_its_group_alone() -> None:
    items: list[Any] = [SimpleNamespace(nodeid="tests/test_a.py::one", fixturenames=["site"])]
    with pytest.raises(pytest.UsageError, match=r"test_a.py::one asks for `site`: add its file to GROUPS"):
        order.in_order(items)


def test_skips_are_grouped_by_reason_and_come_with_a_cure() -> None:
    reports: list[Any] = [SimpleNamespace(longrepr=("f", 1, "Skipped: no Chromium on this machine")) for _ in range(2)]
    reports.append(SimpleNamespace(longrepr=("f", 1, "Skipped: for another reason")))
    first, second = skipped.lines(reports)
    assert first.startswith(
        "2 tests were skipped: no Chromium on this machine; to run them: `apt-get install chromium`"
    )
    assert second == "1 test was skipped: for another reason"


def reasons_to_skip(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = [one.value for one in node.keywords if one.arg == "reason"]
            if node.func.attr == "skip" and node.args:
                given.append(node.args[0])
            if node.func.attr in ("skip", "skipif", "importorskip"):
                yield from (one.value for one in given if isinstance(one, ast.Constant))


def test_every_reason_to_skip_has_its_cure() -> None:
    tests = Path(__file__).parent
    said = {reason for path in tests.rglob("*.py") for reason in reasons_to_skip(path.read_text())}
    said |= set(re.findall(r'"([^"]* needs [^"]*)"', (tests / "faults/catalogue.py").read_text()))
    assert len(said) >= 6
    assert [reason for reason in sorted(said) if not skipped.cure(reason)] == []


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("inpaint_ops/storage/s3.py", "tests/storage/test_storage.py"),
        ("inpaint_ops/device.py", "tests/device/test_device.py"),
        ("inpaint_ops_airflow/ui/app.py", "tests/plugins/test_ui_app.py"),
        ("tests/test_errors.py", "tests/test_errors.py"),
        ("docker-compose.yaml", "tests/deploy/test_deploy.py"),
    ],
)
def test_what_changed_picks_the_tests_that_are_about_it(path: str, test: str) -> None:
    found = list(check.picked([path]))
    assert test in found
    assert "tests/manifest/test_pairing.py" not in found


def test_what_keeps_the_machine_busy_ends_with_whoever_started_it() -> None:
    code = (
        "import sys, time; from tests import shake\n"
        "with shake.busy(2) as spinning: print(*[one.pid for one in spinning], flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(_runs(pid) for pid in children))
    with shake.busy(1) as (spinning,):
        assert spinning.poll() is None
    assert spinning.poll() is not None


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.parametrize(("drawn", "is_late"), [(0.0, True), (0.99, False)])
def test_threads_and_calls_of_pools_begin_late_by_chance(
    monkeypatch: pytest.MonkeyPatch, drawn: float, is_late: bool
) -> None:
    slept: list[str] = []  # the names of threads: others of this process may begin as well
    monkeypatch.setattr(late_threads, "_chance", SimpleNamespace(random=lambda: drawn, uniform=lambda low, high: high))
    sleep = SimpleNamespace(sleep=lambda seconds: slept.append(f"{threading.current_thread().name} {seconds}"))
    monkeypatch.setattr(late_threads, "time", sleep)
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)  # both are as they were after this test
    monkeypatch.setattr(pools._WorkItem, "run", pools._WorkItem.run)
    late_threads.pytest_configure()
    done: list[str] = []
    thread = threading.Thread(target=done.append, args=["thread"], name="mine")
    thread.start()
    thread.join()
    assert done == ["thread"]
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        assert pool.submit(max, 1, 2).result() == 2
    mine = [one for one in slept if one.startswith(("mine", "pool"))]
    assert mine == ["mine 0.5", "pool_0 0.5", "pool_0 0.5"] * is_late, "a thread; a pool's thread, and its call"


def test_a_round_says_what_failed_with_its_seed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conftest.py").write_text("from hypothesis import settings; settings.register_profile('explore')")
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    alone = ["-n0", f"--rootdir={tmp_path}", "-c", os.devnull, "-p", "no:cacheprovider", str(tmp_path)]
    code, failed = shake.one_round(7, alone)
    assert code == 1
    (line,) = failed
    assert "test_bad" in line
    assert "1 passed" in capfd.readouterr().out
