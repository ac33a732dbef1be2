"""Sums of rows that others have added: a report of many rows is made of the tallies of their shards."""

from __future__ import annotations

import pickle
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.records import STAGES
from inpaint_ops.tallies import tallied
from inpaint_ops.tallies.tally import Tally
from tests.support.simulated_run import a_run


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(4, 40))
def test_tallies_that_follow_each_other_are_the_tally_of_all_their_rows(sizes: list[int], kept: int) -> None:
    """The numbers are the same to the last bit, also where some are put away into files."""
    run = a_run(sum(sizes))
    records = [
        one.model_copy(
            update={"conversions": ("exif",) if at % 3 else (), "change": 1.0 + at % 7, "unguided_steps": at % 4}
        )
        for at, one in enumerate(run.records)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tallied, "_ROWS_IN_MEMORY", kept)
        whole, joined, at = Tally(), Tally(), 0
        for one in records:
            whole.add(one, "a")
        for size in sizes:
            part, some = Tally(), records[at : at + size]
            for one in some:
                part.add(one, "a")
            joined.extend(pickle.loads(pickle.dumps(part)) if size < kept else part, [one.id for one in some])
            at += size
        assert facts_of_tally(joined) == facts_of_tally(whole)


def facts_of_tally(tally: Tally) -> dict[str, object]:
    tally.close("a")
    return {
        "stages": tally.stats(),
        "seconds": tally.stage_seconds(),
        "taken": {stage: [column.tolist() for column in astuple(tally.taken(stage))] for stage in STAGES},
        "workers": tally.workers,
        "windows": tally.windows,
        "span": (tally.first_start, tally.finished, tally.peak),
        "counters": [list(counter.items()) for counter in tally._counters()],
        "slowest": tally.slowest(),
        "gallery": tally.gallery(),
        "ids": list(tally._ids),
        "spreads": [(spread.count, spread.summary()) for spread in tally.spreads],
        "numbers": {name: value for name, value in vars(tally).items() if isinstance(value, int | float)},
    }
