"""A finished run with real files to deliver, and what `sha256sum` says of a delivery."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inpaint_ops.records import Output, Record
from inpaint_ops.report import results_jsonl
from inpaint_ops.runs import Workspace
from tests.support.synthetic_run import put_finished_run

RUN, ROWS, FAILED, REJECTED = "night", 9, 4, 1
PAINTED = {f"row-{row:05d}.png" for row in range(1, ROWS + 1) if row not in (FAILED, ROWS)}


def photo(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def put_run(workspace: Workspace, **changes: Callable[[Record], dict[str, Any]]) -> list[Record]:
    """A finished run with real files: row 4 failed, 9 was rejected; `row_3=...` changes what row 3's record says."""
    _, records = put_finished_run(workspace, RUN, ROWS, failed={FAILED}, rejected=REJECTED)
    mask = io.BytesIO()
    Image.new("L", (60, 40), 255).save(mask, "PNG")
    put, layout, found = workspace.storage.put, workspace.layout(RUN), []
    masked = put(workspace.store.join("photos/mask.png"), mask.getvalue()).location.uri
    for record in records:
        source = put(workspace.store.join(f"photos/{record.row}.png"), photo(record.row)).location.uri
        update: dict[str, Any] = {"source": source, "mask": masked}
        if record.output is not None:
            body = photo(100 + record.row)
            image = layout.image(record.id, ".png")
            put(image, body)
            update["output"] = Output(
                uri=image.uri,
                sha256=hashlib.sha256(body).hexdigest(),
                bytes=len(body),
                width=60,
                height=40,
                format="png",
            )
        changed = record.model_copy(update=update)
        change = changes.get(f"row_{record.row}")
        found.append(changed.model_copy(update=change(changed)) if change else changed)
    put(layout.results, results_jsonl(found))
    return found


def checked(folder: Path) -> set[str]:
    """The files that `sha256sum` finds as the list says; it must find all."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.removesuffix(": OK") for line in done.stdout.splitlines()}
