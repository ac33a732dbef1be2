"""Which tests share a process, and in what order: a server that takes minutes to start is started once.

A file's tests run in one process, so its module's fixtures are made once. Files of one group share session fixtures:
the Airflow of `tests/support/airflow.py`, or the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
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
LONGEST_FIRST = ("cluster", "airflow", "tests/faults/test_faults.py", "tests/security/test_security_iam.py")
"""Begun before all others: whatever is begun last keeps one process busy while the other has nothing left to do."""


def group(nodeid: str) -> str:
    """What a test is scheduled with: its file, or the group of its file."""
    file = nodeid.partition("::")[0]
    return GROUPS.get(file, file)


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The same tests, those of one group together, the long ones first; otherwise as they came."""
    rank: dict[str, int] = {name: number for number, name in enumerate(LONGEST_FIRST)}
    for item in items:
        rank.setdefault(group(item.nodeid), len(rank))
    return sorted(items, key=lambda item: rank[group(item.nodeid)])


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """One group to one process at a time, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
