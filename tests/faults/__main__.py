"""The fault matrix: `python -m tests.faults [--trials N] [--only NAME,…] [--page docs/reliability.md]`.

Each fault is tried N times, at moments that its name and the trial's number choose, so that a trial can be had again.
Prints a line a trial, then the table; exit code 1 if any promise did not hold.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from demo.object_store import ObjectStoreServer
from inpaint_ops.model.random_weights import ensure
from tests.faults.catalogue import FAULTS
from tests.faults.cluster import CLUSTER_FAULTS, run_cluster_trials
from tests.faults.trial import Fault, Outcome, fault_store, run_trial

BEGIN, END = "<!-- the table of `make faults` begins -->", "<!-- it ends -->"


def main() -> int:
    """Run the suite."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--trials", type=int, default=10, help="of each fault (default 10)")
    parser.add_argument("--first", type=int, default=1, help="the first trial's number (default 1)")
    parser.add_argument("--only", default="", help="names of faults, or parts of them, separated by commas")
    parser.add_argument("--at-once", type=int, default=2, help="trials of the command's faults at a time (default 2)")
    parser.add_argument("--page", type=Path, help="a page whose table is replaced by this run's")
    given = parser.parse_args()
    wanted = [part.strip() for part in given.only.split(",") if part.strip()]

    def chosen(name: str) -> bool:
        return not wanted or any(part in name for part in wanted)

    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(outcome.log or outcome, flush=True)

    faults = [fault for fault in FAULTS if chosen(fault.name)]
    cluster = [fault for fault in CLUSTER_FAULTS if chosen(fault.name)]
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-faults-") as folder:
        base = Path(folder)
        ensure("tiny-random", base / "cache")
        with fault_store(base / "store") as server, ThreadPoolExecutor(1) as beside:
            seeds = range(given.first, given.first + given.trials)
            commands = beside.submit(_run, faults, seeds, given.at_once, server, base, report)
            if cluster:  # in this thread: what it starts dies with the thread that started it
                run_cluster_trials(cluster, given.trials, server, base / "cluster", report, first=given.first)
            commands.result()
    text = table([*faults, *cluster], outcomes)
    print(text)
    if given.page:
        page = given.page.read_text()
        head, tail = page.split(BEGIN)[0], page.split(END)[1]
        given.page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
    return 0 if all(outcome.recovered for outcome in outcomes) else 1


def _run(
    faults: Sequence[Fault], seeds: range, at_once: int, server: ObjectStoreServer, base: Path, report: object
) -> None:
    """The command's faults, some at a time and beside the cluster: a trial waits for most of its time."""

    def one(fault: Fault, seed: int) -> None:
        folder = base / f"{fault.name.replace(' ', '-')}-{seed}"
        report(run_trial(fault, seed, server, folder, base / "cache"))  # type: ignore[operator]

    with ThreadPoolExecutor(at_once) as pool:
        for fault in faults:
            if lacking := fault.lacking():
                print(f"{fault.name}: not tried here: {lacking}", flush=True)
                continue
            for seed in seeds:
                pool.submit(one, fault, seed)


def table(faults: Iterable[object], outcomes: Sequence[Outcome]) -> str:
    """Markdown: a line a fault, with what was measured."""
    trials = len(outcomes)
    good = sum(outcome.recovered for outcome in outcomes)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {trials} trials, {good} recovered, "
        f"{sum(one.lost for one in outcomes)} rows lost, {sum(one.doubled for one in outcomes)} doubled.",
        "",
        "| fault | what happens | trials | recovered | lost | doubled | worst seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        name, means = fault.name, fault.means  # type: ignore[attr-defined]
        mine = [outcome for outcome in outcomes if outcome.fault == name]
        if not mine:
            lines.append(f"| {name} | {means} | 0 | not tried here | | | |")
            continue
        lines.append(
            f"| {name} | {means} | {len(mine)} | {sum(one.recovered for one in mine)} | "
            f"{sum(one.lost for one in mine)} | {sum(one.doubled for one in mine)} | "
            f"{max(one.seconds for one in mine):.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
