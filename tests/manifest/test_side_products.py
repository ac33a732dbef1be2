"""The field `side_products` of a row: a list or a text, over what the job says."""

from __future__ import annotations

from typing import Any

import pytest

from inpaint_ops.config import Settings, load_settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, job_options, planned
from tests.support.manifests import only_rejection, read

ROW = {"image": "a.png", "mask": "m.png", "prompt": "x"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [("mask, patch", ["patch", "mask"]), (["preview", "preview"], ["preview"]), ("none", []), ([], []),
     ("", None), (None, None), (" , ", [])],
)  # fmt: skip
def test_a_row_lists_them_in_several_ways(given: Any, meant: Any) -> None:
    parsed = read([ROW | {"side_products": given}])
    assert not parsed.rejected, parsed.rejected[0].error.message
    assert parsed.accepted[0].side_products == meant
    assert read([parsed.accepted[0].as_manifest_row()]).accepted[0].side_products == meant


@pytest.mark.parametrize("given", ["layer", ["patch", 7], 7, {"patch": True}, "Patch"])
def test_what_is_none_of_them_is_rejected_with_the_field(given: Any) -> None:
    error = only_rejection(read([ROW | {"side_products": given, "id": "bad"}, ROW]))
    assert "side_products" in error and "patch, mask, preview" in error and "row 1" in error


def test_a_row_has_its_own_or_the_jobs() -> None:
    job = JobOptions.model_validate({"model": "m", "side_products": "preview,mask"})

    def settled(given: Any) -> tuple[str, ...]:
        row = AcceptedRow(row=1, id="a", image="s3://b/a", mask="s3://b/m", prompt="x", side_products=given)
        return planned(row, job).parameters.side_products

    assert settled(None) == ("mask", "preview") and settled("none") == () and settled(["patch"]) == ("patch",)


def test_the_settings_say_so_unless_the_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPAINT_SIDE_PRODUCTS", "mask,patch")
    settings = load_settings()
    assert job_options(settings).side_products == ("patch", "mask")
    assert job_options(settings, side_products="none").side_products == ()
    with pytest.raises(ConfigError, match=r"side_products: 'thumbs' is none of patch, mask, preview"):
        job_options(Settings(), side_products=["thumbs"])
    monkeypatch.setenv("INPAINT_SIDE_PRODUCTS", "masks")
    with pytest.raises(ConfigError, match=r"INPAINT_SIDE_PRODUCTS: .*'masks' is none of"):
        load_settings()
