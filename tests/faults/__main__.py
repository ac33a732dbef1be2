"""The fault matrix: `python -m tests.faults [--trials N] [--only NAME,…] [--warm-host] [--page docs/reliability.md]`.

Each fault is tried N times, at moments that its name and the trial's number choose, so that a trial can be had again.
Prints a line a trial, then the table; exit code 1 if any promise did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from demo.object_store import ObjectStoreServer
from inpaint_ops.model.random_weights import ensure
from tests.faults.catalogue import FAULTS, FORKED
from tests.faults.cluster import CLUSTER_FAULTS, Apart, Outage
from tests.faults.cluster_trials import run_cluster_trials
from tests.faults.trial import Fault, Outcome, fault_store, run_trial
from tests.support.cluster import started

AnyFault = Fault | Apart | Outage
BEGIN, END = "<!-- the table of `make faults` begins -->", "<!-- it ends -->"


def main() -> int:
    """Run the suite."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--trials", type=int, default=10, help="of each fault (default 10)")
    parser.add_argument("--first", type=int, default=1, help="the first trial's number (default 1)")
    parser.add_argument("--only", default="", help="names of faults, or parts of them, separated by commas")
    parser.add_argument("--at-once", type=int, default=2, help="trials of the command's faults at a time (default 2)")
    parser.add_argument("--warm-host", action="store_true", help="workers are forked; without the cluster's faults")
    parser.add_argument("--page", type=Path, help="a page whose table takes this run's lines")
    given = parser.parse_args()
    wanted = [part.strip() for part in given.only.split(",") if part.strip()]

    def chosen(name: str) -> bool:
        return not wanted or any(part in name for part in wanted)

    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(outcome.log or outcome, flush=True)

    faults = [fault for fault in (FORKED if given.warm_host else FAULTS) if chosen(fault.name)]
    cluster = [fault for fault in CLUSTER_FAULTS if chosen(fault.name) and not given.warm_host]
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-faults-") as folder:
        base = Path(folder)
        ensure("tiny-random", base / "cache")
        with fault_store(base / "store") as server, ThreadPoolExecutor(1) as beside:
            seeds = range(given.first, given.first + given.trials)
            commands = beside.submit(_run, faults, seeds, given.at_once, server, base, report)
            if cluster:  # in this thread: what it starts dies with the thread that started it
                with started(server, base / "cluster") as site:
                    run_cluster_trials(cluster, given.trials, site, report, first=given.first)
            commands.result()
    lines = rows([*faults, *cluster], outcomes)
    print(table(lines))
    if given.page:
        given.page.write_text(in_page(given.page.read_text(), lines))
    return 0 if all(outcome.recovered for outcome in outcomes) else 1


def _run(
    faults: Sequence[Fault],
    seeds: range,
    at_once: int,
    server: ObjectStoreServer,
    base: Path,
    report: Callable[[Outcome], None],
) -> None:
    """The command's faults, some at a time and beside the cluster: a trial waits for most of its time."""

    def one(fault: Fault, seed: int) -> None:
        folder = base / f"{fault.name.replace(' ', '-')}-{seed}"
        report(run_trial(fault, seed, server, folder, base / "cache"))

    with ThreadPoolExecutor(at_once) as pool:
        for fault in faults:
            if lacking := fault.lacking():
                print(f"{fault.name}: not tried here: {lacking}", flush=True)
                continue
            for seed in seeds:
                pool.submit(one, fault, seed)


HEAD = "| fault | what happens | tried on | trials | recovered | lost | doubled | worst seconds |"


def rows(faults: Iterable[AnyFault], outcomes: Sequence[Outcome]) -> dict[str, str]:
    """A line of the table for each fault that was tried, by its name."""
    lines = {}
    for fault in faults:
        mine = [outcome for outcome in outcomes if outcome.fault == fault.name]
        if mine:
            counts = len(mine), sum(one.recovered for one in mine), sum(one.lost for one in mine)
            cells = *counts, sum(one.doubled for one in mine), f"{max(one.seconds for one in mine):.0f}"
            shown = " | ".join(map(str, cells))
            lines[fault.name] = f"| {fault.name} | {fault.means} | {datetime.now(UTC):%Y-%m-%d} | {shown} |"
    return lines


def table(lines: Mapping[str, str]) -> str:
    """Markdown, with what it comes to."""
    numbers = [[int(cell) for cell in line.split("|")[4:8]] for line in lines.values()]
    trials, recovered, lost, doubled = map(sum, zip(*numbers, strict=True))
    total = f"{len(lines)} faults, {trials} trials: {recovered} recovered, {lost} rows lost, {doubled} doubled."
    return "\n".join([total, "", HEAD, "|---|---|---|---|---|---|---|---|", *lines.values()])


def in_page(page: str, new: Mapping[str, str]) -> str:
    """The page with the lines of those faults replaced that were tried, and the others as they were."""
    head, rest = page.split(BEGIN)
    old, tail = rest.split(END)
    known = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ") and line != HEAD}
    order = list(dict.fromkeys(fault.name for fault in (*FAULTS, *FORKED, *CLUSTER_FAULTS)))
    lines = {name: {**known, **new}[name] for name in order if name in known or name in new}
    return f"{head}{BEGIN}\n{table(lines)}\n{END}{tail}"


if __name__ == "__main__":
    sys.exit(main())
