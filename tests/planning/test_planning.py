"""Rows to shards, and the parameters that a row is painted with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.config import READ_BY_THE_DAGS, Settings, load_settings, misspelt_variables
from inpaint_ops.errors import ConfigError
from inpaint_ops.layout import RunLayout, check_run_name, run_name_from
from inpaint_ops.locations import parse
from inpaint_ops.manifest import AcceptedRow, ParsedManifest
from inpaint_ops.planning import (
    JobOptions,
    job_options,
    parameters,
    split_rows,
    steps_that_run,
)
from inpaint_ops.records import DeviceInfo
from inpaint_ops.row_work import reject_rows_without_steps, row_work
from inpaint_ops.tuning import Tuning, check_choices, choose


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


def test_guidance_ends_where_the_row_says_then_the_job_and_not_where_there_is_none() -> None:
    job = JobOptions(model="m", guidance_cutoff=0.6)
    assert parameters(row(), job).guidance_cutoff == 0.6
    assert parameters(row(guidance_cutoff=0.5), job).guidance_cutoff == 0.5
    assert parameters(row(guidance_cutoff=1.0), job).guidance_cutoff == 1.0, "a row may have guidance to the end"
    assert parameters(row(guidance_scale=1.0), job).guidance_cutoff == 1.0, "the job's is for rows with guidance"
    settled = parameters(row(), JobOptions(model="m"))
    assert settled.guidance_cutoff == 1.0 and "guidance_cutoff" not in settled.model_dump(), "as it was before"
    assert "guidance_cutoff" in job.identity()


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"guidance_scale": 1.0},
            r"^guidance_cutoff 0.6 would have no effect: guidance is off \(guidance_scale 1\): leave",
        ),
        (
            {"few_step": "lcm"},
            r"^guidance_cutoff 0.6 would .* \(guidance_scale 1, few_step lcm\): leave guidance_cutoff out",
        ),
    ],
)
def test_a_job_without_guidance_that_would_cut_it_off_is_refused(chosen: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job_options(Settings(), model="m", guidance_cutoff=0.6, **chosen)
    job_options(Settings(), model="m", guidance_cutoff=1.0, **chosen)
    for value in (0.0, 1.1):
        with pytest.raises(ConfigError, match=r"^guidance_cutoff: "):
            job_options(Settings(), model="m", guidance_cutoff=value)


def test_a_row_without_guidance_that_would_cut_it_off_is_rejected_when_the_run_is_planned() -> None:
    def of(number: int, **fields: Any) -> AcceptedRow:
        return AcceptedRow(row=number, id=f"r{number}", image="s3://b/a.png", mask="s3://b/m.png", prompt="x", **fields)

    rows = (
        of(1, guidance_cutoff=0.5),
        of(2, guidance_cutoff=0.5, guidance_scale=5.0),
        of(3),
        of(4, guidance_cutoff=1.0),
        of(5, guidance_cutoff=0.5, guidance_scale=0.5),
    )
    job = job_options(Settings(), model="m", few_step="lcm")
    kept, work = reject_rows_without_steps(ParsedManifest(rows, ()), job)
    assert [one.row for one in kept.accepted] == [2, 3, 4]
    assert list(work.steps) == [4, 4, 4] and list(work.unguided) == [2, 0, 0]
    first, last = kept.rejected
    assert first.error.message == (
        "row 1: guidance_cutoff: 0.5 would have no effect: guidance is off (guidance_scale 1, few_step lcm): leave "
        "guidance_cutoff out, or choose a guidance_scale above 1"
    )
    assert (first.error.field, first.error.permanent) == ("guidance_cutoff", True)
    assert "(guidance_scale 0.5): leave" in last.error.message, "its own scale"


def test_the_edge_is_the_rows_then_its_feather_then_the_jobs() -> None:
    job = JobOptions(model="m", blend="poisson", match="mean", grain="match", sharpen="match", fill="telea")
    settled = parameters(row(), job)
    assert (settled.blend, settled.match, settled.grain) == ("poisson", "mean", "match")
    assert (settled.sharpen, settled.fill) == ("match", "telea")
    settled = parameters(row(blend="hard", match="none", grain="none", sharpen="none", fill="original"), job)
    assert (settled.blend, settled.match, settled.grain) == ("hard", "none", "none")
    assert (settled.sharpen, settled.fill) == ("none", "original")
    assert parameters(row(mask_blur=2.0), job).blend == "feather", "a row's own field wins over the job's"
    assert parameters(row(mask_blur=2.0, blend="auto"), job).blend == "auto"
    settled = parameters(row(), JobOptions(model="m"))
    assert (settled.blend, settled.match, settled.grain) == ("hard", "none", "none"), "as it was before"
    assert settled.fill == "original" and "fill" not in settled.model_dump()
    assert {"blend", "match", "grain", "sharpen", "fill", "names", "side_products"} <= set(job.identity())


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


@pytest.mark.parametrize(("steps", "strength", "ran"), [(30, 0.9999, 29), (30, 1.0, 30), (50, 0.5, 25), (1, 1.0, 1)])
def test_the_steps_that_run_are_those_that_the_strength_leaves(steps: int, strength: float, ran: int) -> None:
    assert steps_that_run(steps, strength) == ran


def test_a_row_that_no_step_is_left_for_is_rejected_when_the_run_is_planned() -> None:
    rows = [
        AcceptedRow(row=1, id="a", image="s3://b/a.png", mask="s3://b/m.png", prompt="a cup", steps=1),
        AcceptedRow(row=2, id="b", image="s3://b/a.png", mask="s3://b/m.png", prompt="a cup", steps=1, strength=1.0),
        AcceptedRow(row=3, id="c", image="s3://b/a.png", mask="s3://b/m.png", prompt="a cup"),
    ]
    kept, work = reject_rows_without_steps(ParsedManifest(tuple(rows), ()), JobOptions(model="m"))
    assert work == row_work(kept.accepted, JobOptions(model="m")) and list(work.steps) == [1, 29]
    assert [row.row for row in kept.accepted] == [2, 3]
    (bad,) = kept.rejected
    assert bad.error.message.startswith("row 1: steps: 1 at a strength of 0.9999 leave no denoising step: ask for")
    assert (bad.error.type, bad.error.field, bad.error.permanent) == ("RowError", "steps", True)
    assert not reject_rows_without_steps(ParsedManifest(tuple(rows[2:]), ()), JobOptions(model="m", steps=2))[
        0
    ].rejected


ENVIRONMENT = "INPAINT_TUNING INPAINT_TUNING_SET INPAINT_BATCH_SIZE USE_XFORMERS INPAINT_SCHEDULER".split()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    def make(**variables: str) -> Settings:
        for name in ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return make


GPU = DeviceInfo(kind="cuda", name="a card", total_memory=80 * 10**9, free_memory=79 * 10**9)


def tuning_of(job: JobOptions) -> Tuning:
    """What the planner makes of the job on a large card, as the worker asks it."""
    return choose(
        GPU, preset=job.tuning, overrides=job.tuning_overrides, use_xformers=job.use_xformers, expected_rows=500
    ).tuning


def test_what_wins_for_a_field_of_the_tuning_is_as_documented(environment: Callable[..., Settings]) -> None:
    """docs/settings.md, "The tuning: what wins": each step up the ladder overrules all below it."""
    ladder: list[tuple[dict[str, str], dict[str, Any], int]] = [
        ({"INPAINT_TUNING": "notes"}, {}, 4),  # the notes' table for 80 GB
        ({"INPAINT_BATCH_SIZE": "5"}, {}, 5),
        ({"INPAINT_TUNING_SET": "batch_size=6"}, {}, 6),
        ({}, {"batch_size": 7}, 7),
        ({}, {"tuning_overrides": {"batch_size": 8}}, 8),
    ]
    variables: dict[str, str] = {}
    chosen: dict[str, Any] = {}
    for more, options, expected in ladder:
        variables, chosen = variables | more, chosen | options
        assert tuning_of(job_options(environment(**variables), **chosen)).batch_size == expected


def test_use_xformers_beats_the_preset_and_loses_to_the_field(environment: Callable[..., Settings]) -> None:
    notes = {"INPAINT_TUNING": "notes"}
    assert tuning_of(job_options(environment(**notes))).attention == "xformers"
    off = environment(**notes, USE_XFORMERS="false")
    assert tuning_of(job_options(off)).attention == "sdpa"
    assert tuning_of(job_options(off, use_xformers=True)).attention == "xformers"
    field = environment(**notes, USE_XFORMERS="false", INPAINT_TUNING_SET='{"attention": "default"}')
    assert tuning_of(job_options(field)).attention == "default"
    assert tuning_of(job_options(field, tuning_overrides={"attention": "xformers"})).attention == "xformers"
    assert tuning_of(job_options(field, tuning="auto")).attention == "default", "a field beats any preset"


@pytest.mark.parametrize("name", Tuning.model_fields)
def test_each_field_can_be_set_from_the_environment(environment: Callable[..., Settings], name: str) -> None:
    values = {
        "dtype": "bfloat16", "attention": "default", "attention_slicing": True, "vae_tiling": True,
        "vae_tile_size": 256, "vae_slicing": False, "channels_last": False, "fuse_qkv": True, "compile": "max-autotune",
        "offload": "group", "batch_size": 3, "release_text_encoders": False,
    }  # fmt: skip
    for text in (f"{name}={json.dumps(values[name]).strip(chr(34))}", json.dumps({name: values[name]})):
        job = job_options(environment(INPAINT_TUNING_SET=text))
        assert job.tuning_overrides == {name: values[name]}
        assert getattr(tuning_of(job), name) == values[name]


@pytest.mark.parametrize("text", ["vae_tiling", "{not json", '["vae_tiling"]'])
def test_a_tuning_that_cannot_be_read_names_its_variable(environment: Callable[..., Settings], text: str) -> None:
    with pytest.raises(ConfigError, match="INPAINT_TUNING_SET"):
        environment(INPAINT_TUNING_SET=text)


def test_the_scheduler_is_the_jobs_and_a_part_of_its_identity(environment: Callable[..., Settings]) -> None:
    settings = environment(INPAINT_SCHEDULER="dpmpp_2m")
    assert job_options(settings).scheduler == "dpmpp_2m"
    assert job_options(settings, scheduler="ddim").identity()["scheduler"] == "ddim"
    with pytest.raises(ConfigError, match="scheduler"):
        job_options(settings, scheduler="magic")


def test_the_edge_of_a_job_is_the_settings_unless_it_is_chosen(environment: Callable[..., Settings]) -> None:
    settings = environment(INPAINT_BLEND="auto", INPAINT_MATCH="mean", INPAINT_GRAIN="match", INPAINT_FILL="mean")
    job = job_options(settings)
    assert (job.blend, job.match, job.grain, job.fill) == ("auto", "mean", "match", "mean")
    assert job_options(settings, blend="hard").blend == "hard"
    with pytest.raises(ConfigError, match="blend"):
        job_options(settings, blend="soft")


def test_an_option_that_a_job_has_not_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"a job has no option 'tunning'; did you mean 'tuning'\?"):
        job_options(Settings(), tunning="fast")
    with pytest.raises(ConfigError, match="a job has no option 'xyzzy'; leave it out"):
        job_options(Settings(), xyzzy=1)
    with pytest.raises(ConfigError, match=r"there is no tuning field 'vae_tilling'; did you mean 'vae_tiling'\?"):
        check_choices("auto", {"vae_tilling": True})


def test_a_variable_that_is_misspelt_is_named_with_the_one_that_was_meant() -> None:
    assert misspelt_variables(["INPAINT_TUNNING", "INPAINT_STORES", "PATH"]) == [
        "INPAINT_STORES is no setting and has no effect; did you mean INPAINT_STORE?",
        "INPAINT_TUNNING is no setting and has no effect; did you mean INPAINT_TUNING?",
    ]
    ours = [f"INPAINT_{name.upper()}" for name in Settings.model_fields]
    assert not misspelt_variables([*ours, *READ_BY_THE_DAGS, "INPAINT_CPU_SLOTS", "INPAINT_NS", "INPAINT"])


def test_the_variables_that_the_dags_read_are_known() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "dags").glob("*.py"), *(root / "inpaint_ops_airflow").rglob("*.py")]
    read = {name for file in files for name in re.findall(r'"(INPAINT_[A-Z0-9_]+)"', file.read_text())}
    assert read - {f"INPAINT_{name.upper()}" for name in Settings.model_fields} == set(READ_BY_THE_DAGS)


@pytest.mark.parametrize(
    ("few_step", "lora", "expected"),
    [
        ("lcm", "lcm-lora-sdxl.safetensors", ("lcm", 4, 1.0, 1.0)),
        ("lightning", "sdxl_lightning_8step_lora.safetensors", ("euler_trailing", 8, 1.0, 1.0)),
        ("lightning", None, ("euler_trailing", 4, 1.0, 1.0)),
        ("hyper", "Hyper-SDXL-2steps-lora.safetensors:0.9", ("ddim_trailing", 2, 1.0, 1.0)),
        ("hyper", "s3://b/Hyper-SDXL-12steps-CFG-lora.safetensors", ("ddim_trailing", 12, 7.5, 1.0)),
    ],
)
def test_few_steps_are_sampled_as_their_authors_ask(
    few_step: str, lora: str | None, expected: tuple[str, int, float, float]
) -> None:
    loras = [lora] if lora else None
    job = job_options(Settings(), model="m", few_step=few_step, loras=loras)
    assert (job.scheduler, job.steps, job.guidance_scale, job.strength) == expected
    assert steps_that_run(expected[1], job.strength) == expected[1], "0.9999 would drop one"
    chosen = job_options(
        Settings(), model="m", few_step=few_step, loras=loras, steps=6, guidance_scale=1.5, strength=0.5
    )
    assert (chosen.steps, chosen.guidance_scale, chosen.strength) == (6, 1.5, 0.5)
    assert (
        job.identity()["few_step"] == few_step and job_options(Settings(), model="m", loras=loras).scheduler == "model"
    )


def test_what_few_steps_cannot_have_is_refused() -> None:
    for chosen, says in (
        ({"few_step": "lightning", "loras": ["sdxl_lightning_1step_x0.safetensors"]}, "one step needs a sampling"),
        ({"few_step": "lcm", "scheduler": "heun"}, "sets the scheduler lcm: leave out heun"),
        ({"few_step": "turbo"}, "one of lcm, lightning, hyper"),
    ):
        with pytest.raises(ConfigError, match=says):
            job_options(Settings(), model="m", **chosen)
    job = job_options(Settings(), model="m", few_step="lcm")
    rows = [
        AcceptedRow(row=1, id="a", image="s3://b/a.png", mask="s3://b/m.png", prompt="a cup", quality="good"),
        AcceptedRow(row=2, id="b", image="s3://b/a.png", mask="s3://b/m.png", prompt="a cup", steps=6),
        AcceptedRow(row=3, id="c", image="s3://b/a.png", mask="s3://b/m.png", prompt="a cup"),
    ]
    kept, work = reject_rows_without_steps(ParsedManifest(tuple(rows), ()), job)
    assert ([row.id for row in kept.accepted], list(work.steps)) == (["b", "c"], [6, 4])
    (bad,) = kept.rejected
    assert bad.error.field == "quality" and "good means 20 steps, and the job paints in few (lcm)" in bad.error.message
