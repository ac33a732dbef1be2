"""`format: source` on its way: a format for each row when the run is planned, the same for worker and store."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.locations import parse
from inpaint_ops.manifest import OutputNames
from inpaint_ops.planning import JobOptions, PlannedRow, planned
from inpaint_ops.supervisor.commands import expected_output, item_command
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.variants import Unit
from tests.support.manifests import read


@pytest.mark.parametrize(
    ("name", "format"), [("a.jpg", "jpeg"), ("b.TIFF", "tiff"), ("c.heic", "png"), ("d.avif", "avif"), ("e.jxl", "jxl")]
)
def test_the_worker_and_the_store_are_told_the_same_format(name: str, format: str) -> None:  # noqa: A002
    rows = [{"image": name, "mask": "m.png", "prompt": "x", "format": "source"}]
    [row] = read(rows).accepted
    settled: PlannedRow = planned(row, JobOptions(model="m"))
    files = RowFiles(Unit(settled), Path("/scratch/1"))
    item = item_command(files)
    assert (item.format, item.as_source) == (format, True)
    assert expected_output(files, Settings(), 0).format == format
    assert settled.as_manifest_row()["format"] == "source", "a failed row asks for it again"
    assert PlannedRow.model_validate(settled.as_shard_line()).output_format == format
    ending = {"jpeg": ".jpg", "tiff": ".tiff", "png": ".png", "avif": ".avif", "jxl": ".jxl"}[format]
    names = OutputNames("{stem}-{ext}.{ext}", parse("s3://bucket/photos/"))
    assert names.name(row).endswith(ending[1:])


def test_a_row_that_asks_for_a_format_gets_it() -> None:
    [row] = read([{"image": "a.jpg", "mask": "m.png", "prompt": "x", "format": "webp"}]).accepted
    item = item_command(RowFiles(Unit(planned(row, JobOptions(model="m"))), Path("/scratch/1")))
    assert (item.format, item.as_source) == ("webp", False)
