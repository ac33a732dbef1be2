"""A run whose row has variants, for the pages' tests."""

from __future__ import annotations

from inpaint_ops.layout import variant_name
from inpaint_ops.records import ErrorInfo, Output, Record, row_record
from inpaint_ops.report import results_jsonl
from inpaint_ops.runs import Workspace
from tests.support.served_pages import photo
from tests.support.synthetic_run import put_finished_run

RUN = "tries"


def put_variants(workspace: Workspace) -> Record:
    """A run whose first row has three variants, of which the last has no image."""
    _, records = put_finished_run(workspace, RUN, 2)
    layout, first = workspace.layout(RUN), records[0]
    tries = []
    for variant in range(3):
        image = layout.image(variant_name(first.id, variant), ".png")
        body = photo((60, 40), 10 + variant)
        output = Output(uri=image.uri, sha256="0" * 64, bytes=len(body), width=60, height=40, format="png")
        update: dict[str, object] = {"variant": variant, "seed": variant, "output": output}
        if variant < 2:
            workspace.storage.put(image, body)
        else:
            error = ErrorInfo(type="FlatImageError", stage="denoise", message="one flat colour", permanent=True)
            update |= {"status": "failed", "output": None, "error": error}
        tries.append(first.model_copy(update=update))
    row = row_record(tries, "first")
    workspace.storage.put(layout.results, results_jsonl([row, *records[1:]]))
    return row
