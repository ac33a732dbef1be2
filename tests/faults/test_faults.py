"""Each fault of the matrix that no shorter test shows once, at a moment of its own; `make faults` is the long form."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from inpaint_ops.model.random_weights import ensure
from tests.faults.catalogue import FAULTS, TRIED, clock_of, no_faketime
from tests.faults.cluster import CLUSTER_FAULTS
from tests.faults.job import Home
from tests.faults.trial import Fault, Outcome, fault_store, run_trial, shared_environment
from tests.support.warm import warm_host

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 1
SHOWN_BY = sorted({fault.shown_by for fault in (*FAULTS, *CLUSTER_FAULTS) if fault.shown_by})
AT_ONCE = 3
"""Trials that run at a time: each waits for most of its time, a minute's outage for all of it."""


pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first one may wait for all


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """Every fault's trial, begun; the slow ones first, so that none is left alone at the end."""
    base = tmp_path_factory.mktemp("faults")
    ensure("tiny-random", base / "cache")
    with (
        fault_store(base / "store") as store,
        warm_host(base, shared_environment(base / "cache")) as host,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        tried = [fault for fault in TRIED if not fault.shown_by and not fault.lacking()]
        yield {
            fault.name: pool.submit(run_trial, fault, SEED, store, folder_of(base, fault), base / "cache", host)
            for fault in sorted(tried, key=lambda fault: not fault.slow)
        }
        pool.shutdown(cancel_futures=True)


def folder_of(base: Path, fault: Fault) -> Path:
    return base / fault.name.replace(" ", "-")


@pytest.mark.parametrize("fault", TRIED, ids=lambda fault: fault.name.replace(" ", "-"))
def test_every_promise_holds_after(
    fault: Fault, trials: dict[str, Future[Outcome]], say: Callable[[str], None]
) -> None:
    if fault.shown_by:
        pytest.skip("faults that a shorter test shows are not tried with the whole job")
    if lacking := fault.lacking():
        pytest.skip(lacking)
    outcome = trials[fault.name].result()
    say(str(outcome))
    assert outcome.recovered, outcome.log


@pytest.mark.parametrize("shown_by", SHOWN_BY)
def test_what_shows_a_fault_instead_is_there(shown_by: str) -> None:
    file, *names = shown_by.partition("[")[0].split("::")
    text = (REPOSITORY / file).read_text()
    assert all(f"class {name}:" in text or f"def {name}(" in text for name in names), shown_by


def test_a_command_whose_clock_is_off_can_sleep(tmp_path: Path) -> None:
    """As it does between two tries of a request: else the trial of the clock would fail when the store is late."""
    if lacking := no_faketime():
        pytest.skip(lacking)
    (tmp_path / "clock").write_text("+1200\n")
    environment = Home(tmp_path / "home").make().environment({}, tmp_path) | clock_of(tmp_path / "clock")
    code = "import time; time.sleep(0.01); print(time.time())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > time.time() + 600
