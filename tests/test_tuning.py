"""The planner: every card of the notes' table, every override, and a reason for each choice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.errors import ConfigError
from inpaint_ops.records import DeviceInfo
from inpaint_ops.tuning import (
    PRESETS,
    AttentionProbe,
    Tuning,
    Workload,
    allowance,
    choose,
    count_peak,
    count_phases,
    estimate_peak,
    memory_budget,
)

CPU = DeviceInfo(kind="cpu", name="processor", total_memory=16 * 10**9, free_memory=12 * 10**9)


def card(size: float, free: float | None = None) -> DeviceInfo:
    """A GPU of `size` GB of which 0.5 GB are taken."""
    left = size - 0.5 if free is None else free
    return DeviceInfo(kind="cuda", name=f"{size} GB", total_memory=int(size * 1e9), free_memory=int(left * 1e9))


CARDS = {size: card(size) for size in (10, 24, 40, 80, 141)}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("device", [CPU, *CARDS.values()], ids=lambda device: device.name)
def test_every_field_has_a_reason_and_the_estimate_fits(device: DeviceInfo, preset: str) -> None:
    choice = choose(device, preset=preset, expected_rows=500)
    assert set(choice.reasons) == set(Tuning.model_fields)
    assert all(choice.reasons.values())
    if device.kind == "cuda":
        assert choice.estimated_peak <= memory_budget(device)
        assert choice.estimated_peak == estimate_peak(choice.tuning)


def test_auto_grows_the_batch_with_the_card() -> None:
    batches = [choose(device, expected_rows=500).tuning.batch_size for device in CARDS.values()]
    assert batches == sorted(batches)
    assert batches[0] < batches[-1]
    for device in CARDS.values():
        tuning = choose(device, expected_rows=500).tuning
        assert (tuning.dtype, tuning.attention, tuning.attention_slicing) == ("float16", "sdpa", False)
        assert (tuning.compile, tuning.offload) == ("off", "none")


def test_auto_on_10_gb_paints_whole_and_tiles_the_vae_where_memory_demands_it() -> None:
    assert not choose(CARDS[10], expected_rows=500).tuning.vae_tiling
    assert choose(CARDS[10], expected_rows=500).tuning.offload == "none"
    for device, workload in ((CARDS[10], Workload(vae_upcast=True)), (card(10, free=7.8), Workload())):
        choice = choose(device, workload=workload, expected_rows=500)
        assert choice.tuning.vae_tiling
        assert choice.tuning.vae_tile_size == 512
        assert "estimated" in choice.reasons["vae_tiling"]
        assert choice.tuning.offload == "none"


def test_a_card_in_use_by_another_is_planned_by_its_free_memory() -> None:
    choice = choose(card(80, free=7), expected_rows=500)
    assert choice.tuning.offload != "none"
    assert choice.estimated_peak <= memory_budget(card(80, free=7))


def test_a_card_too_small_for_anything_is_told_so() -> None:
    choice = choose(card(1, free=0.5))
    assert choice.tuning.offload == "sequential"
    assert "may not fit" in choice.reasons["batch_size"]


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_no_batch_is_larger_than_the_job(rows: int) -> None:
    assert choose(CARDS[80], expected_rows=rows).tuning.batch_size <= rows


def test_notes_has_on_what_the_notes_have_on() -> None:
    for device in CARDS.values():
        choice = choose(device, preset="notes")
        tuning = choice.tuning
        assert (tuning.dtype, tuning.attention) == ("float16", "xformers")
        assert tuning.attention_slicing
        assert tuning.vae_tiling
        assert choice.asked == {}
    assert choose(CARDS[80], preset="notes").tuning.batch_size == 4


def test_low_memory_saves_memory_on_every_card() -> None:
    for device in CARDS.values():
        low = choose(device, preset="low-memory", expected_rows=500)
        assert low.estimated_peak < choose(device, preset="auto", expected_rows=500).estimated_peak
        assert low.tuning.batch_size == 1
        assert not low.tuning.attention_slicing


def test_fast_compiles_only_where_the_rows_repay_it() -> None:
    assert choose(CARDS[80], preset="fast", expected_rows=10).tuning.compile == "off"
    assert choose(CARDS[80], preset="fast", expected_rows=5000).tuning.compile == "regional"
    assert choose(CARDS[80], preset="fast", expected_rows=10).tuning.fuse_qkv


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cpu_computes_in_float32_without_xformers_whatever_is_asked(preset: str) -> None:
    choice = choose(CPU, preset=preset, overrides={"dtype": "float16", "offload": "model"}, use_xformers=True)
    assert choice.tuning.dtype == "float32"
    assert choice.tuning.attention == "sdpa"
    assert choice.tuning.offload == "none"
    assert choice.asked == {"dtype": "float16", "attention": "xformers", "offload": "model"}
    assert "float16 was asked for" in choice.reasons["dtype"]
    assert "xFormers" in choice.reasons["attention"]


def test_use_xformers_is_weaker_than_an_override_and_stronger_than_a_preset() -> None:
    gpu = CARDS[24]
    assert choose(gpu, preset="notes", use_xformers=False).tuning.attention == "sdpa"
    assert choose(gpu, preset="notes", use_xformers=False).reasons["attention"] == "USE_XFORMERS=false"
    assert choose(gpu, preset="auto", use_xformers=True).tuning.attention == "xformers"
    by_hand = choose(gpu, preset="auto", use_xformers=False, overrides={"attention": "xformers"})
    assert by_hand.tuning.attention == "xformers"
    assert by_hand.reasons["attention"] == "set by hand"


OVERRIDES: list[tuple[str, Any, Any]] = [
    ("dtype", "bfloat16", "bfloat16"),
    ("attention", "default", "default"),
    ("attention_slicing", "true", True),
    ("vae_tiling", True, True),
    ("vae_tile_size", "256", 256),
    ("vae_slicing", False, False),
    ("channels_last", "false", False),
    ("fuse_qkv", "on", True),
    ("compile", "max-autotune", "max-autotune"),
    ("offload", "group", "group"),
    ("batch_size", "16", 16),
    ("release_text_encoders", 0, False),
]


def test_the_overrides_below_cover_every_field() -> None:
    assert [name for name, _, _ in OVERRIDES] == list(Tuning.model_fields)


@pytest.mark.parametrize(("name", "given_value", "expected"), OVERRIDES)
@pytest.mark.parametrize("preset", PRESETS)
def test_each_field_can_be_set_by_hand(preset: str, name: str, given_value: object, expected: object) -> None:
    overrides = {name: given_value, "dtype": "bfloat16" if name == "dtype" else None}
    if name in ("fuse_qkv", "compile"):  # notes' attention has no fused form; compile and offload exclude each other
        overrides |= {"attention": "sdpa", "offload": "none"}
    choice = choose(CARDS[141], preset=preset, overrides=overrides)
    assert getattr(choice.tuning, name) == expected
    assert choice.reasons[name] == "set by hand"


def probed(why_not: dict[str, str] | None = None, **milliseconds: float) -> AttentionProbe:
    seconds = {name.replace("_", "-"): value / 1e3 for name, value in milliseconds.items()}
    return AttentionProbe(
        device="card", dtype="float16", shape=(2, 10, 4096, 64), seconds=seconds, why_not=why_not or {}
    )


@pytest.mark.parametrize(
    ("probe", "expected", "words"),
    [
        (probed(sdpa=1.0, sdpa_cudnn=0.6, sdpa_flash=1.0, xformers=1.0), "sdpa-cudnn", "sdpa-cudnn 0.6 ms"),
        (probed(sdpa=1.0, sdpa_cudnn=0.98), "sdpa", "no kernel beats PyTorch's own choice by 5%"),
        (probed(sdpa=1.0, xformers=0.8), "xformers", "measured on this card"),
        (probed(), "sdpa", "parity is expected"),
        (None, "sdpa", "parity is expected"),
    ],
)
def test_auto_takes_the_attention_that_was_measured_to_be_fastest(
    probe: AttentionProbe | None, expected: str, words: str
) -> None:
    choice = choose(CARDS[80], probe=probe)
    assert choice.tuning.attention == expected
    assert words in choice.reasons["attention"]
    assert choose(CPU, probe=probe).tuning.attention == "sdpa"


def test_attention_that_the_probe_saw_fail_is_refused_and_the_ledger_is_told() -> None:
    probe = probed({"xformers": "no kernel image"}, sdpa=1.0)
    for choice in (choose(CARDS[24], preset="notes", probe=probe), choose(CARDS[24], use_xformers=True, probe=probe)):
        assert choice.tuning.attention == "sdpa"
        assert choice.asked["attention"] == "xformers"
        assert "no kernel image" in choice.reasons["attention"]


def test_use_xformers_false_keeps_the_kernel_that_was_measured() -> None:
    probe = probed(sdpa=1.0, sdpa_cudnn=0.5, xformers=0.4)
    assert choose(CARDS[80], probe=probe).tuning.attention == "xformers"
    assert choose(CARDS[80], probe=probe, use_xformers=False).tuning.attention == "sdpa"
    by_hand = choose(CARDS[80], probe=probe, overrides={"attention": "sdpa-cudnn"}, use_xformers=False)
    assert by_hand.tuning.attention == "sdpa-cudnn"


def test_slicing_set_by_hand_is_really_meant() -> None:
    choice = choose(CARDS[24], overrides={"attention_slicing": True})
    assert choice.tuning.attention == "sliced"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "turbo"}, "'turbo'.*low-memory"),
        ({"overrides": {"atention": "sdpa"}}, "'atention'.*attention_slicing"),
        ({"overrides": {"batch_size": 0}}, "batch_size.*0"),
        ({"overrides": {"batch_size": "many"}}, "batch_size.*many"),
        ({"overrides": {"vae_tile_size": 100}}, "vae_tile_size.*100"),
        ({"overrides": {"compile": "yes"}}, "compile.*yes"),
    ],
)
def test_what_is_unknown_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(CPU, **arguments)


@given(
    size=st.floats(0.5, 200),
    share=st.floats(0, 1),
    preset=st.sampled_from(PRESETS),
    rows=st.integers(1, 10**6),
    native=st.sampled_from([64, 256, 512, 1024]),
    overrides=st.dictionaries(st.sampled_from([name for name, _, _ in OVERRIDES]), st.none(), max_size=3),
    xformers=st.sampled_from([None, True, False]),
)
def test_any_card_and_job_get_a_plan(
    size: float, share: float, preset: str, rows: int, native: int, overrides: dict[str, Any], xformers: bool | None
) -> None:
    device = card(size, free=size * share)
    values = {name: value for name, value, _ in OVERRIDES if name in overrides}
    choice = choose(
        device, preset=preset, overrides=values, workload=Workload(native), expected_rows=rows, use_xformers=xformers
    )
    assert set(choice.reasons) == set(Tuning.model_fields)
    fits = choice.estimated_peak <= memory_budget(device)
    assert fits or "may not fit" in choice.reasons["batch_size"]


def test_the_peak_is_what_was_counted_and_one_allowance() -> None:
    """CUDA's context is no part of it: the card's free memory has left it out already."""
    for preset in PRESETS:
        choice = choose(CARDS[80], preset=preset)
        tuning = choice.tuning
        assert choice.counted_peak == count_peak(tuning) == max(count_phases(tuning).values())
        assert choice.estimated_peak - choice.counted_peak == allowance(tuning) > 0
    small = choose(CARDS[80], overrides={"offload": "sequential", "vae_tiling": True, "vae_tile_size": 256})
    assert small.estimated_peak < 0.9e9


@pytest.mark.parametrize("preset", ["notes", "low-memory"])
@pytest.mark.parametrize("native", [64, 512, 1024])
def test_tiles_that_are_planned_trigger_whatever_the_vaes_own_size_is(preset: str, native: int) -> None:
    """SDXL's base VAE has tiles of 1024 pixels, which never tile an image of 1024."""
    for device in (CPU, CARDS[24]):
        tuning = choose(device, preset=preset, workload=Workload(native)).tuning
        assert tuning.vae_tiling
        assert tuning.vae_tile_size is not None and tuning.vae_tile_size < native


def test_tiles_by_hand_and_tiles_for_lack_of_memory_have_a_size_too() -> None:
    for choice in (choose(CARDS[80], overrides={"vae_tiling": True}), choose(card(10, free=7.8))):
        assert (choice.tuning.vae_tiling, choice.tuning.vae_tile_size) == (True, 512)
        assert "half of the native size" in choice.reasons["vae_tile_size"]
    by_hand = choose(CARDS[80], overrides={"vae_tiling": True, "vae_tile_size": 256})
    assert by_hand.tuning.vae_tile_size == 256


@pytest.mark.parametrize(
    ("milliseconds", "expected", "words"),
    [
        ({"contiguous": 2.0, "channels_last": 1.0}, True, "channels_last 1 ms"),
        ({"contiguous": 2.0, "channels_last": 1.97}, False, "not faster by 5%"),
        ({"contiguous": 2.0, "channels_last": 3.0}, False, "not faster"),
        ({}, False, "not measured on this card"),
    ],
)
@pytest.mark.parametrize("preset", ["auto", "fast", "low-memory"])
def test_channels_last_only_where_the_card_was_measured_to_be_faster_with_it(
    preset: str, milliseconds: dict[str, float], expected: bool, words: str
) -> None:
    layouts = {name: value / 1e3 for name, value in milliseconds.items()}
    choice = choose(CARDS[80], preset=preset, probe=probed(sdpa=1.0).model_copy(update={"layouts": layouts}))
    assert choice.tuning.channels_last is expected
    assert words in choice.reasons["channels_last"]
    assert not choose(CPU, preset=preset).tuning.channels_last


def test_a_vae_in_32_bits_and_prompts_that_are_not_known_take_more() -> None:
    plain = count_phases(Tuning(dtype="float16", release_text_encoders=True))
    upcast = count_phases(Tuning(dtype="float16", release_text_encoders=True), Workload(vae_upcast=True))
    assert upcast["decode"] - plain["decode"] > 1.5e9
    assert upcast["denoise"] == plain["denoise"]
    unknown = count_phases(Tuning(dtype="float16", release_text_encoders=True), Workload(prompts_known=False))
    kept = count_phases(Tuning(dtype="float16", release_text_encoders=False))
    assert unknown == kept
    assert unknown["decode"] - plain["decode"] == pytest.approx(1.64e9, rel=0.01)
