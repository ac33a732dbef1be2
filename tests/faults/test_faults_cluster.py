"""The short form for a cluster: each of its faults that no shorter test shows, once, at a fixed seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.cluster import CLUSTER_FAULTS, Apart, Outage
from tests.faults.cluster_trials import run_cluster_trials
from tests.faults.trial import Outcome
from tests.support.cluster import ClusterSite
from tests.support.machines import can_rename_hosts

pytestmark = [
    pytest.mark.skipif(
        not can_rename_hosts(), reason="machines need UTS namespaces: be root, or allow user namespaces"
    ),
    pytest.mark.cluster,
    pytest.mark.timeout(3600),  # the first one waits for all
]


@pytest.fixture(scope="module")
def outcomes(cluster_site: ClusterSite, say: Callable[[str], None]) -> dict[str, Outcome]:
    found: list[Outcome] = []
    run_cluster_trials([fault for fault in CLUSTER_FAULTS if not fault.shown_by], 1, cluster_site, found.append)
    for outcome in found:
        say(f"{outcome.fault} ({outcome.moment}): over {outcome.seconds:.0f} s later")
    return {outcome.fault: outcome for outcome in found}


@pytest.mark.parametrize("fault", CLUSTER_FAULTS, ids=lambda fault: fault.name)
def test_a_run_in_a_cluster_recovers_by_itself(fault: Apart | Outage, outcomes: dict[str, Outcome]) -> None:
    if fault.shown_by:
        pytest.skip("faults that a shorter test shows are not tried with the whole job")
    outcome = outcomes[fault.name]
    assert outcome.recovered, outcome
