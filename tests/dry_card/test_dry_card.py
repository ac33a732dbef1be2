"""The full-size model in float16 on a CUDA card that is not there: the short cases; `make dry-card` runs all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dry_card import tracing
from tests.dry_card.cases import CASES
from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = [case.name for case in CASES if case.short]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def findings() -> dict[str, dict[str, Any]]:
    """What the short cases came to, by name: painted in one process, whose torch believes in a card."""
    if not (shutil.which("g++") or shutil.which("c++")):
        pytest.skip("the dry card needs a C++ compiler: install g++")
    done = subprocess.run(
        [sys.executable, "-m", "tests.dry_card", "--json", *SHORT], cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=3.5 * PATIENCE,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(SHORT), done.stderr[-2000:]
    return {one["name"]: one for one in found}


@pytest.mark.parametrize("name", SHORT)
def test_a_case_paints_on_the_dry_card_as_planned(findings: dict[str, dict[str, Any]], name: str) -> None:
    """No error, every entry of the ledger in effect, no wait for the card, and a peak as the plan counts it."""
    assert findings[name]["faults"] == []


def test_the_short_cases_meet_what_a_plan_must_count(findings: dict[str, dict[str, Any]]) -> None:
    """The figures are of the full-size model: its weights alone are 6.9e9 bytes in 16 bits."""
    assert findings["auto"]["peaks"]["load"] == pytest.approx(6.94e9, rel=0.005)
    assert findings["fast"]["peak"] - findings["auto"]["peak"] == pytest.approx(1.30e9, rel=0.02), "fused projections"


def test_group_offload_paints_with_a_vae_that_is_cast_to_float32(findings: dict[str, dict[str, Any]]) -> None:
    """The VAE stays out of the hooks, which would bring its float16 copies back; its decode is then twice as large."""
    found = findings["force_upcast, offload group"]
    assert found["errors"] == []
    assert found["peaks"]["decode"] == pytest.approx(2 * (1.606e9 + 0.007e9 + 0.167e9), rel=0.01)
    assert found["peaks"]["denoise"] < 0.6e9, "the UNet's weights come layer by layer"


def test_memory_that_ran_out_leaves_nothing_behind(findings: dict[str, dict[str, Any]]) -> None:
    found = findings["memory for 4 of 8"]
    assert any("8 rows at once did not fit" in text for text in found["warnings"])
    assert found["left"] == pytest.approx(found["held"], abs=50e6)


def test_dynamo_traces_the_full_size_models_blocks_without_a_break() -> None:
    """The other ways trace the whole UNet, which takes minutes: `make dry-card`."""
    assert tracing.trace("regional") >= 1


def test_every_preset_offload_and_dtype_is_a_case() -> None:
    assert {case.preset for case in CASES} == {"auto", "notes", "low-memory", "fast"}
    assert {case.offloads for case in CASES} == {"none", "model", "group", "sequential"}
    assert {case.overrides.get("dtype", "float16") for case in CASES} == {"float16", "bfloat16", "float32"}
    assert {case.overrides.get("batch_size") for case in CASES if not case.lacks_memory} >= {1, 2, 4, 8}
    upcast = {case.offloads for case in CASES if case.upcast}
    assert upcast == {"none", "model", "group", "sequential"}
    assert {case.preset for case in CASES if case.upcast} == {"auto", "notes", "low-memory", "fast"}
    assert {case.overrides.get("batch_size") for case in CASES if case.upcast} >= {1, 2, 4, 8}
    folders = [case for case in CASES if case.from_folder]
    assert {case.offloads for case in folders} == {"none", "model", "group", "sequential"}
    assert {case.overrides.get("dtype", "float16") for case in folders} == {"float16", "bfloat16", "float32"}
    assert {case.fail_in for case in CASES} >= {"load", "prompts", "encode", "denoise", "decode", "return"}
    assert len({case.name for case in CASES}) == len(CASES)
