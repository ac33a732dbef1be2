"""A row's variants as units: seeds, numbers and names; which rows are refused; the score and the pick."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.layout import variant_name
from inpaint_ops.manifest import MAX_SEED, AcceptedRow, ParsedManifest
from inpaint_ops.planning import JobOptions, job_options, planned
from inpaint_ops.protocol import unit_name, unit_number
from inpaint_ops.records import ErrorInfo, Measures, Output, Pick, Record, fit_score, pick_of, row_record
from inpaint_ops.variants import seed_of_variant, settle, units_of

JOB = JobOptions(model="m")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(number: int, name: str, **wishes: object) -> AcceptedRow:
    return AcceptedRow.model_validate(
        {"row": number, "id": name, "image": "s3://b/i", "mask": "s3://b/m", "prompt": "x", **wishes}
    )


def test_seeds_are_as_documented() -> None:
    assert seed_of_variant(7, 0) == 7
    assert seed_of_variant(7, 1) == 0x772444A00DC2, "the first 48 bits of the SHA-256 of 7.1"


@given(st.integers(0, MAX_SEED))
def test_the_seeds_of_a_row_differ_and_fit_a_row_and_a_json_number(seed: int) -> None:
    seeds = [seed_of_variant(seed, variant) for variant in range(16)]
    assert len(set(seeds)) == 16 and all(0 <= one < 2**53 for one in seeds[1:])
    assert seeds == [seed_of_variant(seed, variant) for variant in range(16)]


@given(st.integers(1, 2**31 - 1), st.integers(0, 15), st.integers(1, 2**31 - 1), st.integers(0, 15))
def test_no_two_units_share_a_number(one: int, k: int, other: int, j: int) -> None:
    assert (unit_number(one, k) == unit_number(other, j)) == ((one, k) == (other, j))
    assert unit_number(one, None) == unit_number(one, 0) == one <= 2**53
    assert unit_name(unit_number(one, k)) == (f"{one}.{k}" if k else str(one))


def test_a_row_without_variants_is_one_unit_as_it_stands() -> None:
    one = planned(row(1, "a", seed=5), JOB)
    [unit] = units_of(one)
    assert unit.row is one and unit.variant is None and unit.number == 1
    three = units_of(planned(row(2, "b", seed=5, variants=3), JOB))
    assert [unit.variant for unit in three] == [0, 1, 2]
    assert [unit.row.parameters.seed for unit in three] == [seed_of_variant(5, k) for k in range(3)]


NAMES = st.sampled_from(["a", "A", "a.0", "a.1", "A.1", "a.1.0", "a.1.1", "b", "b.15", "b.16", "é", "é.0"])


@given(st.lists(st.tuples(NAMES, st.sampled_from([None, 1, 2, 16])), max_size=8), st.sampled_from([1, 2, 16]))
def test_the_images_of_what_is_accepted_have_names_of_their_own(
    rows: list[tuple[str, int | None]], variants: int
) -> None:
    distinct = {name.casefold(): (name, count) for name, count in rows}.values()
    parsed = ParsedManifest(tuple(row(n, name, variants=count) for n, (name, count) in enumerate(distinct, 1)), ())
    job = JOB.model_copy(update={"variants": variants})
    kept, work = settle(parsed, job)
    names = [
        variant_name(unit.row.id, unit.variant).casefold()
        for one in kept.accepted
        for unit in units_of(planned(one, job))
    ]
    assert len(names) == len(set(names)) == sum(work.images)
    assert kept.rows == parsed.rows
    for bad in kept.rejected:
        assert bad.error.field == "variants" and f"row {bad.row}: variants: " in bad.error.message


def record(variant: int, measures: Measures | None = None, *, failed: bool = False) -> Record:
    output = Output(uri=f"/a.{variant}.png", sha256="0" * 64, bytes=1, width=1, height=1, format="png")
    error = ErrorInfo(type="FlatImageError", stage="denoise", message="flat", permanent=True)
    return Record(
        id="a", row=1, status="failed" if failed else "done", attempt="x", variant=variant, seed=variant,
        output=None if failed else output, error=error if failed else None, measures=measures,
        started_at=NOW, finished_at=NOW,
    )  # fmt: skip


GOOD = Measures(seam_contrast=1.0, colour_shift=1.0, sharpness_ratio=1.0, grain_ratio=1.0)


def test_the_score_is_one_for_a_patch_that_nothing_tells_from_its_surroundings_and_falls_with_each_measure() -> None:
    assert fit_score(GOOD) == 1.0
    assert fit_score(GOOD.model_copy(update={"seam_contrast": 2.5})) == pytest.approx(1 / 2)
    assert fit_score(GOOD.model_copy(update={"colour_shift": 9.0})) == pytest.approx(1 / 2)
    assert fit_score(GOOD.model_copy(update={"sharpness_ratio": 4.0})) == pytest.approx(1 / 2)
    assert fit_score(GOOD.model_copy(update={"grain_ratio": 0.25})) == pytest.approx(1 / 2)
    assert fit_score(GOOD.model_copy(update={"flatness": 1.0})) == 1.0
    assert fit_score(None) is None and fit_score(Measures()) is None


def test_best_is_the_highest_score_and_first_the_first_that_has_an_image() -> None:
    poor = GOOD.model_copy(update={"seam_contrast": 8.0})
    variants = row_record([record(0, failed=True), record(1, poor), record(2, GOOD), record(3, GOOD)], "first").variants
    first, best = pick_of(variants, "first"), pick_of(variants, "best")
    assert first is not None and best is not None and (first.variant, best.variant, best.by) == (1, 2, "best")
    unmeasured = row_record([record(0), record(1)], "best")
    assert unmeasured.pick is not None and unmeasured.pick.variant == 0
    assert row_record([record(0, failed=True)], "best").pick is None


@pytest.mark.parametrize(
    ("clips", "fits", "picked", "by"),
    [
        ((0.2, 0.3, 0.25), (1.0, 8.0, 1.0), 1, "clip"),
        ((0.3, 0.3, 0.3), (8.0, 1.0, 1.0), 1, "clip"),
        ((None, -0.2, -0.1), (1.0, 1.0, 8.0), 2, "clip"),
        ((None, 0.0, None), (1.0, 8.0, 1.0), 1, "clip"),
        ((None, None, None), (8.0, 8.0, 1.0), 2, "best"),
    ],
)
def test_clip_is_the_highest_clip_score_and_without_any_the_best_fit(
    clips: tuple[float | None, ...], fits: tuple[float, ...], picked: int, by: str
) -> None:
    records = [
        record(number, GOOD.model_copy(update={"seam_contrast": fit, "clip": clip}))
        for number, (clip, fit) in enumerate(zip(clips, fits, strict=True))
    ]
    found = row_record([*records, record(3, failed=True)], "clip").pick
    assert found is not None and (found.variant, found.by) == (picked, by)
    assert row_record([record(0), record(1)], "clip").pick == Pick(variant=0, by="best")


def test_a_job_that_picks_by_clip_names_a_model() -> None:
    with pytest.raises(ConfigError, match=r"pick clip: there is no model to score by: give the folder"):
        job_options(Settings(), pick="clip")
    assert job_options(Settings(), pick="clip", clip_model="/m/clip").pick == "clip"


def test_a_record_whose_pick_is_none_of_its_variants_is_refused() -> None:
    whole = row_record([record(0), record(1)], "first")
    assert Record.model_validate_json(whole.model_dump_json()) == whole
    fields = whole.model_dump(mode="json")
    for change in (
        {"pick": {"variant": 1, "by": "first"}}, {"pick": None}, {"variants": fields["variants"][1:]},
        {"variants": []}, {"pick": {"variant": 16, "by": "first"}}, {"pick": {"variant": 0, "by": "chance"}},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            Record.model_validate(fields | change)
    reviewed = fields | {"pick": {"variant": 1, "by": "review"}, "output": fields["variants"][1]["output"]}
    assert Record.model_validate(reviewed).output == whole.variants[1].output
