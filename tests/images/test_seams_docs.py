"""docs/seams.md: on the demo's photos, painted by the demo's model, each option lowers what the page says it lowers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from inpaint_ops import images
from inpaint_ops.images import JoinOptions

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_seams", DOCS / "seams/make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_seams"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def painted(make: ModuleType) -> list[Any]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = list(make.paint_demo())
    torch.set_num_threads(threads)
    assert len(rows) == 8
    return rows


def median(rows: list[Any], options: JoinOptions, field: str) -> float:
    values = []
    for row in rows:
        joined = row.joined(options)
        assert np.array_equal(joined.pixels[row.mask == 0], row.source.pixels[row.mask == 0])
        values.append(getattr(images.measure(joined.pixels, joined.weights), field))
    return float(np.median(values))


@pytest.mark.parametrize("blend", ["feather", "poisson", "auto"])
def test_each_blend_lowers_the_seam(painted: list[Any], blend: Any) -> None:
    assert median(painted, JoinOptions(blend=blend), "seam_contrast") < 0.6 * median(
        painted, JoinOptions(), "seam_contrast"
    )


@pytest.mark.parametrize("match", ["mean", "histogram"])
def test_each_match_lowers_the_colour_shift(painted: list[Any], match: Any) -> None:
    assert median(painted, JoinOptions(match=match), "colour_shift") < 0.7 * median(
        painted, JoinOptions(), "colour_shift"
    )


def test_grain_brings_the_noise_to_that_of_the_ring(painted: list[Any]) -> None:
    assert median(painted, JoinOptions(), "grain_ratio") < 0.7
    assert 0.8 < median(painted, JoinOptions(grain="match", seed=3), "grain_ratio") < 1.2


def test_multi_band_leaves_more_of_a_seam_than_poisson(make: ModuleType, painted: list[Any]) -> None:
    found = [images.measure(make.multi_band(row), row.mask).seam_contrast for row in painted]
    assert np.median(found) > 1.3 * median(painted, JoinOptions(blend="poisson"), "seam_contrast")


def test_the_page_names_each_way_that_is_shown(make: ModuleType) -> None:
    page = (DOCS / "seams.md").read_text()
    assert all(f"| {name} |" in page for name in make.WAYS)
    assert all((DOCS / f"seams/{name}.jpg").exists() and f"seams/{name}.jpg" in page for name in make.PICTURES)


def test_sharpening_brings_the_detail_nearer_to_the_ring_s_on_each_photo(painted: list[Any]) -> None:
    for row in painted:
        before, after = row.joined(JoinOptions()), row.joined(JoinOptions(sharpen="match"))
        assert np.array_equal(after.pixels[row.mask == 0], row.source.pixels[row.mask == 0])
        soft = images.measure(before.pixels, before.weights).sharpness_ratio
        assert soft < images.measure(after.pixels, after.weights).sharpness_ratio <= 1.1, row.name
    assert median(painted, JoinOptions(sharpen="match"), "sharpness_ratio") > 1.15 * median(
        painted, JoinOptions(), "sharpness_ratio"
    )
