"""Which tests share a process, and in what order: a server that takes minutes to start is started once.

A file's tests run in one process, so its module's fixtures are made once. Files of one group share a server: the
Airflow of `tests/support/airflow.py`, or the cluster. It ends with the last of them: an idle one takes processor time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

GROUPS = {
    "tests/dags/test_cluster.py": "cluster",
    "tests/faults/test_faults_cluster.py": "cluster",
    "tests/dags/test_airflow.py": "airflow",
    "tests/plugins/test_ui_browser.py": "airflow",
    "tests/plugins/test_ui_requests.py": "airflow",
    "tests/plugins/test_ui_submit.py": "airflow",
    "tests/plugins/test_ui_redo.py": "airflow",
    "tests/plugins/test_ui_deliveries.py": "airflow",
}
LONGEST_FIRST = (
    "cluster", "airflow", "tests/faults/test_faults.py", "tests/security/test_security_iam.py",
    "tests/worker/test_worker.py", "tests/dry_card/test_dry_card.py",
)  # fmt: skip
"""Begun before all others: whatever is begun last keeps one process busy while the other has nothing left to do."""

SERVERS = {"cluster_site": "cluster", "site": "airflow"}
"""The group of each fixture that starts a group's server."""

_CLOSE = pytest.StashKey[dict[str, Callable[[], None]]]()


def group(nodeid: str) -> str:
    """What a test is scheduled with: its file, or the group of its file."""
    file = nodeid.partition("::")[0]
    return GROUPS.get(file, file)


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The same tests, those of one group together, the long ones first; otherwise as they came.

    Raises pytest.UsageError for a test that asks for the server of a group that its file is not of.
    """
    for item in items:
        for fixture in SERVERS.keys() & set(getattr(item, "fixturenames", ())):
            if group(item.nodeid) != SERVERS[fixture]:
                raise pytest.UsageError(f"{item.nodeid} asks for `{fixture}`: add its file to GROUPS in {__name__}")
    rank: dict[str, int] = {name: number for number, name in enumerate(LONGEST_FIRST)}
    for item in items:
        rank.setdefault(group(item.nodeid), len(rank))
    return sorted(items, key=lambda item: rank[group(item.nodeid)])


def ends_with_its_group(config: pytest.Config, fixture: str, close: Callable[[], None]) -> None:
    """Call `close` after the last test of the group that shares what this fixture started."""
    config.stash.setdefault(_CLOSE, {})[SERVERS[fixture]] = close


def after(item: pytest.Item, next_item: pytest.Item | None) -> None:
    """End the server of the test's group, where no test of it follows in this process."""
    ended = group(item.nodeid)
    if next_item is None or group(next_item.nodeid) != ended:
        close = item.config.stash.get(_CLOSE, {}).pop(ended, None)
        if close is not None:
            close()


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """One group to one process at a time, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
