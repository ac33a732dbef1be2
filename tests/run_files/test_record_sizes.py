"""What a shard's records may weigh together, before they are taken for somebody else's: ours never weigh more."""

from __future__ import annotations

from typing import Any

import pytest

from inpaint_ops.config import SIDE_PRODUCTS
from inpaint_ops.planning import PaintParameters, PlannedRow
from inpaint_ops.records import (
    MAX_VARIANTS,
    Batch,
    Joining,
    Measures,
    Memory,
    Output,
    PaintedRegion,
    PaintedTile,
    Record,
    SideProductFile,
    Thumbnail,
    Timings,
    Variant,
    WorkerInfo,
    now,
)
from inpaint_ops.records.measures import SCORES
from inpaint_ops.records.painted import LOG_BYTES, LOG_LINES
from inpaint_ops.records.rows import Pick
from inpaint_ops.run_files.record_sizes import BYTES_PER_RECORD, weight

STORE = "s3://a-bucket-with-quite-a-long-name/and/a/prefix/runs/a-run-of-the-night-20261126/"
THIRD = 1 / 3
FIGURES = Measures.model_fields.keys() - {"models", "score_problem"}
TIMES = Timings(**dict.fromkeys(Timings.model_fields, 100 * THIRD))
BATCH = Batch(id="00000r0001_1f2e3d4c-1f2e3d4c-12-00063", size=64)
MEASURES = Measures(**dict.fromkeys(FIGURES, THIRD), models=dict.fromkeys(SCORES, "m" * 160), score_problem="x" * 1000)
LOG = ("x" * (LOG_BYTES // LOG_LINES),) * LOG_LINES
BOX = (10_000, 10_000, 11_024, 11_024)


def row(**options: Any) -> PlannedRow:
    crop = options.pop("crop", "none")
    chosen = PaintParameters(
        seed=1,
        steps=30,
        guidance_scale=7.5,
        guidance_cutoff=THIRD,
        strength=0.9,
        side_products=SIDE_PRODUCTS,
        **options,
    )
    return PlannedRow(
        row=7, id="sofa-" + "x" * 100, image=STORE + "a.jpg", mask=STORE + "a.png", prompt="a sofa", crop=crop,
        parameters=chosen,
    )  # fmt: skip


def files(name: str) -> dict[str, Any]:
    return {
        "output": Output(
            uri=f"{STORE}images/{name}", sha256="f" * 64, bytes=10**8, width=10**4, height=10**4, format="png"
        ),
        "thumbnails": tuple(
            Thumbnail(size=size, uri=f"{STORE}thumbnails/{name}.{size}.webp", sha256="f" * 64, bytes=10**6)
            for size in (256, 1600)
        ),
        "side_products": tuple(
            SideProductFile(
                kind=kind, uri=f"{STORE}side_products/{name}.{kind}.png", sha256="f" * 64, bytes=10**8, width=10**4,
                height=10**4,
            )
            for kind in SIDE_PRODUCTS
        ),
        "measures": MEASURES,
        "batch": BATCH,
        "timings": TIMES,
        "memory": Memory(peak_allocated=10**11, peak_reserved=10**11),
        "worker": WorkerInfo(pid=10**6, host="gpu-worker-12.cluster.internal", device="cuda:0 H200", started_at=now()),
        "steps": 30,
    }  # fmt: skip


def record(of: PlannedRow, **fields: Any) -> Record:
    return Record(
        id=of.id, row=of.row, status="done", guidance_cutoff=THIRD, unguided_steps=300,
        attempt="00000-1f2e3d4c", prompt=of.prompt, source=of.image, mask=of.mask,
        started_at=now(), finished_at=now(), log=LOG,
        conversions=("a sentence of what was converted, of some length",) * 8,
        **(files(f"{of.id}.0.png") | fields),
    )  # fmt: skip


JOINING = Joining(
    blend="feather", feather=THIRD, seams=dict.fromkeys(("hard", "poisson", "feather"), THIRD), match="mean",
    shift=(THIRD,) * 3, grain="match", grain_added=THIRD, sharpen="match", sharpened=THIRD,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["one", "tiles", "regions", "variants"])
def test_the_largest_records_of_our_own_weigh_no_more_than_is_allowed(kind: str) -> None:
    if kind == "one":
        planned, fields = row(), dict[str, Any](joining=JOINING)
    elif kind == "tiles":
        tile = PaintedTile(box=BOX, working_size=(1024, 1024), number=63, batch=BATCH, timings=TIMES)
        planned, fields = row(crop="tiles"), {"tiles": (tile,) * 64, "joining": JOINING}
    elif kind == "regions":
        region = PaintedRegion(box=BOX, working_size=(1024, 1024), batch=BATCH, timings=TIMES, joining=JOINING)
        planned, fields = row(crop="regions"), {"regions": (region,) * 16}
    else:
        planned = row(variants=MAX_VARIANTS)
        several = tuple(
            Variant(
                variant=number, status="done", seed=2**62, score=THIRD, started_at=now(), finished_at=now(),
                **files(f"{planned.id}.{number}.png"),
            )
            for number in range(MAX_VARIANTS)
        )  # fmt: skip
        fields = {"variants": several, "pick": Pick(variant=0)}
    body = record(planned, **fields).model_dump_json()
    assert len(body) <= BYTES_PER_RECORD + weight(planned)
    assert len(body) > 2000
