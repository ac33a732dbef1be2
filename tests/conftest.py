"""Fixtures for all tests; the stores are real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.stores import aws_environment, flaky_storage, object_store, prefix, proxy, s3_client, s3_prefix, storage

__all__ = [
    "aws_environment",
    "flaky_storage",
    "object_store",
    "prefix",
    "proxy",
    "s3_client",
    "s3_prefix",
    "storage",
]

_SAID = pytest.StashKey[list[str]]()


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(_SAID, []):
        terminalreporter.write_line(line)
