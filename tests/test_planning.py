"""Rows to shards, and the parameters that a row is painted with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.config import Settings, load_settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.layout import RunLayout, check_run_name, run_name_from
from inpaint_ops.locations import parse
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, Plan, estimate, job_options, parameters, split_rows
from inpaint_ops.records import ColdStart, Counts, ModelIdentity, RunSummary, now


def row(number: int = 1, **wishes: object) -> AcceptedRow:
    fields = {"row": number, "id": f"r{number}", "image": "s3://b/i", "mask": "s3://b/m", "prompt": "x", **wishes}
    return AcceptedRow.model_validate(fields)


@given(st.integers(0, 300), st.integers(1, 50), st.integers(1, 20))
def test_every_row_is_in_exactly_one_shard_in_order(rows: int, shard_rows: int, max_shards: int) -> None:
    accepted = [row(number + 1) for number in range(rows)]
    shards = split_rows(accepted, shard_rows=shard_rows, max_shards=max_shards)
    assert [item for _, part in shards for item in part] == accepted
    assert len(shards) <= max_shards
    assert len({shard.name for shard, _ in shards}) == len(shards)
    for shard, part in shards:
        assert (shard.rows, shard.first_row, shard.last_row) == (len(part), part[0].row, part[-1].row)


def test_a_row_wins_over_the_job_and_steps_over_quality() -> None:
    job = JobOptions(model="m", quality="good", guidance_scale=5.0)
    assert parameters(row(), job).steps == 20
    assert parameters(row(quality="best"), job).steps == 50
    assert parameters(row(steps=7), job).steps == 7
    assert parameters(row(), job.model_copy(update={"steps": 11})).steps == 11
    assert parameters(row(quality="high"), job.model_copy(update={"steps": 11})).steps == 30
    assert parameters(row(), job).guidance_scale == 5.0
    assert parameters(row(guidance_scale=1.0, strength=0.5), job).strength == 0.5


def test_a_row_without_a_seed_gets_the_same_one_every_time() -> None:
    job = JobOptions(model="m")
    assert parameters(row(1), job).seed == parameters(row(1, prompt="another"), job).seed
    assert parameters(row(1), job).seed != parameters(row(2), job).seed
    assert parameters(row(1, seed=0), job).seed == 0


def test_what_was_chosen_wins_over_the_settings() -> None:
    settings = Settings(model="a", batch_size=2, use_xformers=False, failure_threshold=0.5)
    job = job_options(settings, steps=None, model="b", failure_threshold=0.0)
    assert (job.model, job.failure_threshold) == ("b", 0.0)
    assert (job.tuning_overrides, job.use_xformers) == ({"batch_size": 2}, False)
    assert job_options(settings, batch_size=8).tuning_overrides["batch_size"] == 8
    with pytest.raises(ConfigError, match="steps"):
        job_options(settings, steps=0)


@pytest.mark.parametrize("name", ["INPAINT_BATCH_SIZE", "INPAINT_STALL_TIMEOUT", "USE_XFORMERS"])
def test_a_bad_setting_is_one_error_that_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "many")
    with pytest.raises(ConfigError, match=name):
        load_settings()


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", ".hidden", "x" * 200, "a b", "ü"])
def test_a_run_name_is_one_safe_part_of_a_key(name: str) -> None:
    with pytest.raises(ConfigError, match="run name"):
        check_run_name(name)


@given(st.text(max_size=300))
def test_any_text_makes_a_run_name(text: str) -> None:
    name = run_name_from(text)
    assert check_run_name(name) == name


def test_every_object_of_a_run_lies_below_it() -> None:
    layout = RunLayout(parse("s3://b/p"), "night")
    assert layout.root.uri == "s3://b/p/runs/night/"
    for place in (
        layout.plan,
        layout.image("a", ".png"),
        layout.record("00000", 7),
        layout.shard("00001"),
        layout.report,
    ):
        assert layout.root.contains(place)
    assert layout.record("00000", 7).uri == "s3://b/p/runs/night/records/00000/0000007.json"


def _plan(rows: int) -> Plan:
    shards = split_rows([row(number + 1) for number in range(rows)], shard_rows=10, max_shards=100)
    return Plan(
        run="r", manifest="m", manifest_sha256="0", job=JobOptions(model="m"), rows=rows, rejected=0, rejected_rows=(),
        shards=tuple(shard for shard, _ in shards), created_at=now(),
    )  # fmt: skip


def test_an_estimate_comes_from_earlier_runs_of_the_model_or_is_unknown() -> None:
    assert estimate(_plan(30), []).seconds is None
    past = RunSummary(
        run="past", verdict="VALID", manifest="m", manifest_sha256="0", job={},
        model=ModelIdentity(name="m", random_weights=False), versions={}, devices=(), workers=1,
        counts=Counts(rows=1, done=1, failed=0, rejected=0), cold_start=ColdStart(load=60.0), seconds=1.0,
        images_per_second=1.0, images_per_second_warm=0.5, gpu_seconds_per_image=2.0, stages={},
        stage_seconds={}, peak_memory=None,
        ledger=(), started_at=None, finished_at=None,
    )  # fmt: skip
    assert estimate(_plan(30), [past]).seconds == 3 * 60.0 + 30 * 2.0
    assert estimate(_plan(30), [past], devices=3).seconds == 60.0 + 20.0
    assert estimate(_plan(30), [past.model_copy(update={"model": None})]).seconds is None
