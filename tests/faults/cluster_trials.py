"""Rounds of trials on a cluster: faults that do not touch each other share a round, an outage has one of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.faults.cluster import Apart, Outage, TwoTriggers, note_errors
from tests.faults.cluster_flight import PAINTER, WIDTH, Flight, Site
from tests.faults.trial import Outcome
from tests.support.cluster import ClusterSite


@contextlib.contextmanager
def painting(base: ClusterSite) -> Iterator[Site]:
    """The cluster with one machine of `WIDTH` slots that paints; it goes again, and all else is up."""
    base.cluster.add_machine(PAINTER, "gpu", concurrency=WIDTH, gpus=WIDTH, INPAINT_LEASE_TIMEOUT="60")
    site = Site(base.cluster, base.database, base.broker, base.proxy, base.direct, base.root)
    try:
        yield site
    finally:
        site.keep_up()
        base.cluster.kill_machine(PAINTER)


def run_cluster_trials(
    faults: Sequence[Apart | Outage],
    trials: int,
    base: ClusterSite,
    report: Callable[[Outcome], None],
    *,
    first: int = 1,
) -> None:
    """Put each of `faults` to so many trials, the `first` of that number, on this cluster; `report` each outcome.

    A trial that fails, or a round that cannot be flown, does not stop the others.
    """
    with painting(base) as site:
        apart = [fault for fault in faults if not isinstance(fault, Outage)]
        for round_ in _packed([(fault, seed) for seed in range(first, first + trials) for fault in apart]):
            flights = [site.prepare(fault.name, seed) for fault, seed in round_]
            _report(flights, partial(_fly_apart, site, [fault for fault, _ in round_], flights), report)
        for fault in faults:
            flown, seed = 0, first
            while isinstance(fault, Outage) and flown < trials:
                flights = [site.prepare(fault.name, seed + more) for more in range(min(WIDTH, trials - flown))]
                flown += _report(flights, partial(fault.fly, site, flights), report)
                seed += len(flights)


def _packed(trials: Sequence[tuple[Apart, int]]) -> Iterator[list[tuple[Apart, int]]]:
    """Rounds of what the painting machine can take at once."""
    waiting = list(trials)
    while waiting:
        round_: list[tuple[Apart, int]] = []
        for trial in list(waiting):
            if sum(fault.slots for fault, _ in (*round_, trial)) <= WIDTH:
                round_.append(trial)
                waiting.remove(trial)
        yield round_


def _fly_apart(site: Site, faults: Sequence[Apart], flights: Sequence[Flight]) -> list[Flight]:
    pairs = list(zip(faults, flights, strict=True))
    note_errors(flights, site.fly({flight.run: partial(fault.fly, site, flight) for fault, flight in pairs}))
    # Both of two runs of one name may paint a row at the same time; what counts is what the store took.
    taken = {
        flight.run: [one for one in site.exchanges(flight) if one.status == 200]
        for fault, flight in pairs
        if isinstance(fault, TwoTriggers)
    }
    site.look(flights, taken)
    return list(flights)


def _report(flights: Sequence[Flight], fly: Callable[[], Sequence[Flight]], report: Callable[[Outcome], None]) -> int:
    """Fly a round; returns how many trials it was."""
    try:
        trials = fly()
    except Exception as error:
        trials = flights
        note_errors(trials, {flight.run: error for flight in trials})
    for flight in trials:
        report(flight.outcome())
    return len(trials)
