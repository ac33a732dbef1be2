"""Outliers of a run are found in constant memory, and the page shows them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inpaint_ops.records import MaskArea, Measures, Record
from inpaint_ops.report import render_page, results_jsonl
from inpaint_ops.tallies.spread import FLAGS, MEASURES, Spread, find_flags, spreads
from inpaint_ops.tallies.tally import MOST_FLAGGED, Tally
from tests.support.simulated_run import Run, record

BY_NAME = {measure.name: measure for measure in MEASURES}


def row(number: int, **values: float) -> Record:
    common: dict[str, float] = {"seam_contrast": 1.1, "colour_shift": 8, "flatness": 0.1,
                                "sharpness_ratio": 0.9, "grain_ratio": 0.8, "change": 30,
                                "clip": 0.27, "lpips": 0.3, "mask_share": 0.1}  # fmt: skip
    common |= {name: value * (1 + number % 7 / 100) for name, value in common.items()} | values
    change, area = common.pop("change"), MaskArea(box=(0, 0, 9, 9), share=common.pop("mask_share"))
    return record(number, change=change, mask_area=area, measures=Measures(**common))


def flags_of(records: list[Record]) -> list[list[str]]:
    def column(name: str) -> np.ndarray:
        values = [BY_NAME[name].of(one) for one in records]
        return np.array([math.nan if value is None else value for value in values])

    return find_flags(spreads(records), column, len(records)).flags


@pytest.mark.parametrize(
    ("odd", "flags"),
    [
        ({"seam_contrast": 3.0}, ["seam_contrast_high"]),
        ({"seam_contrast": 0.3}, []),
        ({"colour_shift": 60.0}, ["colour_shift_high"]),
        ({"change": 2.5}, ["change_low"]),
        ({"change": 200.0}, []),
        ({"flatness": 1.0}, ["flatness_high"]),
        ({"sharpness_ratio": 0.2, "grain_ratio": 4.0}, ["sharpness_ratio_low", "grain_ratio_high"]),
        ({"seam_contrast": 1.15, "grain_ratio": 0.75}, []),
        ({"clip": 0.1}, ["clip_low"]),
        ({"clip": -0.1}, ["clip_low"]),
        ({"clip": 0.9}, []),
        ({"lpips": 0.001}, ["lpips_low"]),
        ({"lpips": 0.9}, ["lpips_high"]),
        ({"lpips": 900.0}, ["lpips_high"]),
        ({"mask_share": 0.9}, ["mask_share_high"]),
        ({"mask_share": 0.0001}, ["mask_share_low"]),
        ({"mask_share": 0.24}, []),
    ],
)
def test_a_row_far_from_the_others_is_flagged_on_the_side_that_counts(odd: dict[str, float], flags: list[str]) -> None:
    records = [row(number) for number in range(1, 40)]
    found = flags_of([*records, row(40, **odd), record(41, "failed"), record(42)])
    assert found == [[]] * 39 + [flags, [], []] and set(flags) <= set(FLAGS)


def test_cosines_below_0_are_spread_and_flagged_like_others() -> None:
    records = [row(number, clip=-0.4 + number % 5 / 500) for number in range(1, 40)]
    assert flags_of([*records, row(40, clip=-0.6), row(41, clip=0.9)])[-2:] == [["clip_low"], []]
    spread = Spread(BY_NAME["clip"])
    for one in records:
        spread.add(one)
    found = spread.summary()
    assert found is not None and found.median == pytest.approx(-0.396, abs=0.002)
    assert found.low is not None and -0.5 < found.low < -0.41


def test_scores_by_different_models_are_not_compared() -> None:
    def scored(number: int, model: str, **values: float) -> Record:
        one = row(number, **values)
        assert one.measures is not None
        measures = one.measures.model_copy(update={"models": {"clip": model}})
        return one.model_copy(update={"measures": measures})

    alike = [scored(number, "b32 0123", clip=0.3) for number in range(1, 60)]
    assert flags_of([*alike, scored(60, "b32 0123", clip=0.1)])[-1] == ["clip_low"]
    mixed = [*alike, scored(60, "l14 4567", clip=0.1)]
    assert not any(flags_of(mixed)), "0.1 of another model may be much"
    summary = Run(mixed, []).summary()
    assert summary.measures["clip"].models == ("b32 0123", "l14 4567") and summary.measures["clip"].low is None
    [line] = [line for line in summary.warnings if "scored by different models (b32 0123, l14 4567)" in line]
    assert line.startswith("CLIP score, picture to prompt: ")


def test_limits_are_three_and_a_half_robust_deviations_from_the_median() -> None:
    values = np.exp2(np.random.default_rng(3).normal(0.5, 0.4, 5000))
    spread = Spread(BY_NAME["grain_ratio"])
    for number, value in enumerate(values, 1):
        spread.add(row(number, grain_ratio=float(value)))
    found = spread.summary()
    assert found is not None and found.count == 5000
    logs = np.log2(values)
    reach = 3.5 / 0.6745 * np.median(abs(logs - np.median(logs)))
    assert math.log2(found.median) == pytest.approx(np.median(logs), abs=1 / 64)
    assert math.log2(found.high or 1) == pytest.approx(np.median(logs) + reach, abs=0.1)
    assert math.log2(found.low or 1) == pytest.approx(np.median(logs) - reach, abs=0.1)
    assert math.log2(found.p5) == pytest.approx(np.percentile(logs, 5), abs=1 / 32)
    assert math.log2(found.p95) == pytest.approx(np.percentile(logs, 95), abs=1 / 32)
    bars = spread.bars()
    assert len(bars) <= 32 and sum(count for *_, count in bars) == 5000
    for low, high, count in bars[1:-1]:
        assert count == pytest.approx(((values >= low) & (values < high)).sum(), abs=1)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_the_ends_of_each_scale_are_counted(measure: object) -> None:
    name = measure.name  # type: ignore[attr-defined]
    ends = {
        "ratio": (0.0, 1100.0), "levels": (0.0, 255.0), "share": (0.0, 1.0), "cosine": (-1.0, 1.0),
        "distance": (0.0, 1000.0),
    }[BY_NAME[name].scale]  # fmt: skip
    spread = Spread(BY_NAME[name])
    for number, value in enumerate(ends * 15, 1):
        spread.add(row(number, **{name: value}))
    found = spread.summary()
    assert found is not None and found.count == 30 and not np.isnan(spread.scores(np.array(ends))).any()


def test_a_small_run_flags_nothing_and_equal_rows_have_room() -> None:
    few = [row(number) for number in range(1, 19)]
    assert not any(flags_of([*few, row(19, seam_contrast=200.0)]))
    equal = [row(number, grain_ratio=1.0, flatness=0.1) for number in range(1, 40)]
    assert not any(flags_of([*equal, row(40, grain_ratio=1.1, flatness=0.12)]))
    seamless = [row(number, seam_contrast=0.9, colour_shift=0.2) for number in range(1, 40)]
    assert not any(flags_of([*seamless, row(40, seam_contrast=1.24, colour_shift=3.9)]))
    assert flags_of([*seamless, row(40, seam_contrast=1.5, colour_shift=9)])[-1] == [
        "seam_contrast_high", "colour_shift_high",
    ]  # fmt: skip


def test_a_runs_summary_counts_its_flags() -> None:
    run = Run([*(row(number) for number in range(1, 60)), row(60).model_copy(update={"flags": FLAGS[:2]})], [])
    summary = run.summary()
    assert (summary.flags, summary.flagged) == (dict.fromkeys(FLAGS[:2], 1), 1)
    assert set(summary.measures) == set(BY_NAME)


def test_a_run_without_measures_has_no_such_section() -> None:
    run = Run([record(number) for number in range(1, 40)], [])
    assert run.summary().measures == {} and "How the patches fit" not in render_page(run.summary(), run.records)
    assert b'"flags"' not in results_jsonl(run.records)


def test_the_farthest_rows_are_listed_first() -> None:
    tally = Tally()
    for number in range(1, 100):
        tally.add_flags(number, ["flatness_high"], score=float(number % 50))
    assert tally.most_flagged()[:4] == [49, 99, 48, 98] and len(tally.most_flagged()) == MOST_FLAGGED


@pytest.mark.parametrize(("large", "others", "says"), [(4, 0, False), (5, 0, True), (20, 20, False), (21, 20, True)])
def test_masks_that_mostly_cover_their_picture_are_a_warning(large: int, others: int, says: bool) -> None:
    shares = [0.93] * large + [0.4999] * others
    summary = Run([row(number, mask_share=share) for number, share in enumerate(shares, 1)], []).summary()
    found = [line for line in summary.warnings if "change mask_invert" in line]
    assert [line.startswith(f"In {large} of {large + others} images the mask covers") for line in found] == [
        True
    ] * says


def test_what_is_above_a_value_is_counted_to_a_bin() -> None:
    spread = Spread(BY_NAME["mask_share"])
    for number, share in enumerate((0.0, 0.4999, 0.5, 0.75, 1.0), 1):
        spread.add(row(number, mask_share=share))
    assert [spread.above(value) for value in (0.0, 0.5, 0.9)] == [4, 2, 1]
