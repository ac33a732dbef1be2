"""What a plan expects of a card's memory, beside what cards have taken: every painted cell below bench/results."""

from __future__ import annotations

import pytest

from bench.results import load_all
from inpaint_ops.tuning.fields import Tuning
from inpaint_ops.tuning.peaks import estimate_peak

CARDS = [(name, results) for name, results in load_all() if results.device and results.device.kind == "cuda"]
MEASURED = [
    pytest.param(Tuning(**result.tuning), result.batch, result.peak.peak_allocated, id=f"{name}: {result.cell.name}")
    for name, results in CARDS
    for result in results.cells
    if result.peak and result.tuning and result.cell.model == "sdxl-random"
]


def test_cards_have_been_measured() -> None:
    assert len(MEASURED) > 30


@pytest.mark.parametrize(("tuning", "batch", "allocated"), MEASURED)
def test_a_plan_asks_for_what_a_card_took_and_not_much_more(tuning: Tuning, batch: int, allocated: int) -> None:
    assert 1.0 < estimate_peak(tuning, batch_size=batch) / allocated < 1.25
