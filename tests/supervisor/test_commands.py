"""Every option of a row reaches its worker, and everything that a worker measures reaches the row's record."""

from __future__ import annotations

from pathlib import Path

from inpaint_ops.manifest import Row
from inpaint_ops.planning import PaintParameters, PlannedRow
from inpaint_ops.protocol import Done, Failed, Item, Ready
from inpaint_ops.records import MaskMeaning, Measured, Painted, Record, WorkerReport, WorkerSetup
from inpaint_ops.supervisor.commands import item_command
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.variants import Unit

OPTIONS = {
    "mask_channel": "alpha", "mask_threshold": 9, "mask_invert": True, "mask_dilate": 3, "mask_blur": 1.5, "crop": 64,
    "format": "webp", "prompt_2": "an oil painting", "negative_prompt_2": "a photo",
}  # fmt: skip
ELSEWHERE = {
    "image", "mask",  # as paths of the downloaded files
    "quality",  # settled as steps
    "extra",  # for the record alone
}  # fmt: skip


def test_a_worker_gets_every_option_of_a_row_by_its_own_name() -> None:
    parameters = PaintParameters(
        seed=5,
        steps=7,
        guidance_scale=3.0,
        guidance_cutoff=0.6,
        strength=0.5,
        blend="auto",
        match="mean",
        grain="match",
        sharpen="match",
        fill="noise",
        side_products=("mask",),
    )
    row = PlannedRow(
        row=2, id="a", image="s3://b/a.jpg", mask="s3://b/a.png", prompt="a boat", negative_prompt="fog",
        parameters=parameters, **OPTIONS,
    )  # fmt: skip
    assert set(Row.model_fields) == ELSEWHERE | set(OPTIONS) | set(PaintParameters.model_fields) | {
        "id", "prompt", "negative_prompt",
    }, "a new field of a row: give it a value here, and Item a field of its name"  # fmt: skip
    item = item_command(RowFiles(Unit(row), Path("/scratch/2")))
    expected = OPTIONS | parameters.model_dump() | {"id": "a", "prompt": "a boat", "negative_prompt": "fog"}
    assert {name: getattr(item, name) for name in expected} == expected
    assert set(expected) <= set(Item.model_fields)
    assert all(value != Row.model_fields[name].default for name, value in OPTIONS.items()), "each differs from none"


def test_events_and_what_is_stored_share_their_parts() -> None:
    """A field that is added to a shared part is in the worker's event and in the stored record at once."""
    for part, kinds in (
        (Measured, (Done, Failed, Record)),
        (Painted, (Done, Record)),
        (WorkerSetup, (Ready, WorkerReport)),
        (MaskMeaning, (Record,)),
    ):
        assert all(issubclass(kind, part) for kind in kinds), part.__name__
    shared = set(Painted.model_fields) | {"row", "started_at", "finished_at"}
    both = set(Done.model_fields) & set(Record.model_fields) - shared
    assert both == {"output"}, "a local path in the event, the stored object in the record; all else is stated once"
