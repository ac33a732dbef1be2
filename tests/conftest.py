"""Fixtures for all tests, a place of their own for them, and what is said at the end."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import isolation, order, skipped
from tests.support.airflow import site
from tests.support.bench import no_gallery
from tests.support.cluster import cluster_site
from tests.support.stores import (
    aws_environment,
    flaky_storage,
    object_store,
    prefix,
    proxy,
    s3_client,
    s3_prefix,
    storage,
)
from tests.support.warm import forked_workers, shared_warm_host

__all__ = [
    "aws_environment",
    "cluster_site",
    "flaky_storage",
    "forked_workers",
    "no_gallery",
    "object_store",
    "prefix",
    "proxy",
    "s3_client",
    "s3_prefix",
    "shared_warm_host",
    "site",
    "storage",
]

_SAID = pytest.StashKey[list[str]]()
_FOLDER = pytest.StashKey[Path]()
_BEGAN = pytest.StashKey[float]()


# Examples of hypothesis have no time limit: how long one takes says how busy the machine is. They are the same in each
# run, so that none fails by chance; `make shake` looks at others (--hypothesis-profile=explore).
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--begin-within", type=float, help="seconds after which no further test begins")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOLDER] = isolation.isolate(os.environ)
    config.stash[_BEGAN] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests live until the end: no cycles are looked for while they are made, nor among them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    within = item.config.getoption("--begin-within")
    if within is not None and time.monotonic() - item.config.stash[_BEGAN] > within:
        pytest.skip(f"the {within:.0f} seconds were over")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    order.after(item, nextitem)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _FOLDER in config.stash:
        isolation.forget(config.stash[_FOLDER])


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = order.in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    return order.GroupScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def patient_pages() -> Iterator[None]:
    """A list of runs waits until all are read, and a run that goes on until its rows are: a busy machine does not read
    them within the 2 seconds that people wait.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("inpaint_ops.browse.catalogue._WAIT_SECONDS", 600.0)
        patched.setattr("inpaint_ops.browse.run._READ_SECONDS", 600.0)
        yield


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line at the end of the whole session: a figure that is shown, and decides nothing."""
    return request.config.stash.setdefault(_SAID, []).append


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of the processes that share the tests
        session.config.workeroutput["said"] = session.config.stash.get(_SAID, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash.setdefault(_SAID, []).extend(getattr(node, "workeroutput", {}).get("said", []))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in (*config.stash.get(_SAID, []), *skipped.lines(terminalreporter.stats.get("skipped", []))):
        terminalreporter.write_line(line)
    if (seed := config.getoption("randomly_seed", None)) is not None:
        terminalreporter.write_line(f"the same order again: --randomly-seed={seed}")
