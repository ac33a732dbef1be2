"""The page of the fault matrix: every fault is in it, and a run of some replaces their lines alone."""

from __future__ import annotations

from pathlib import Path

from tests.faults.__main__ import BEGIN, END, in_page, rows
from tests.faults.catalogue import FAULTS, FORKED
from tests.faults.cluster import CLUSTER_FAULTS
from tests.faults.trial import Outcome

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
FIRST, SECOND = FAULTS[:2]


def tried(name: str, *seconds: float, lost: int = 0) -> list[Outcome]:
    return [Outcome(name, seed, "loading", lost, 0, one, ()) for seed, one in enumerate(seconds)]


def test_a_run_of_some_faults_replaces_their_lines_alone() -> None:
    empty = f"before\n{BEGIN}\n{END}\nafter\n"
    both = in_page(empty, rows(FAULTS, [*tried(SECOND.name, 5.0), *tried(FIRST.name, 1.0, 3.4)]))
    assert both.startswith(f"before\n{BEGIN}\n2 faults, 3 trials: 3 recovered, 0 rows lost, 0 doubled.\n")
    assert both.index(f"| {FIRST.name} |") < both.index(f"| {SECOND.name} |"), "in the catalogue's order"
    assert both.endswith(f"{END}\nafter\n")
    assert "| 2 | 2 | 0 | 0 | 3 |" in both
    worse = in_page(both, rows(FAULTS, tried(FIRST.name, 7.0, lost=1)))
    assert "2 faults, 2 trials: 1 recovered, 1 rows lost, 0 doubled." in worse
    assert "| 1 | 0 | 1 | 0 | 7 |" in worse and "| 1 | 1 | 0 | 0 | 5 |" in worse


def test_the_page_tells_of_every_fault_and_of_no_row_lost_or_doubled() -> None:
    lines = [line for line in PAGE.read_text().split(BEGIN)[1].split(END)[0].splitlines() if line.startswith("| ")]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[1:]}
    forked = [name for name in cells if name.endswith(", forked")]
    assert [name for name in cells if name not in forked] == [fault.name for fault in (*FAULTS, *CLUSTER_FAULTS)]
    assert {*forked} <= {fault.name for fault in FORKED}
    for name, (_, _, trials, recovered, lost, doubled, _) in cells.items():
        assert (int(trials) >= 10, recovered, lost, doubled) == (True, trials, "0", "0"), name
