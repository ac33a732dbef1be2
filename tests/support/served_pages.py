"""The pages behind a real server, signed in, without an Airflow: for what a browser does with them.

The store holds a finished run `night` of 120 rows: pictures of 2400 x 1600 pixels for line 1, small ones for the
others; line 7 failed with a source that is gone, line 8 without any source, and line 120 was rejected. Lines 50 and 90
have visible seams. Who is signed in, and in which role, is in the cookies `user` and `role`: somebody who may look.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import uvicorn
from PIL import Image

os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.common.db.common import _get_session
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from demo.ports import claim_port
from inpaint_ops.browse import RunViews
from inpaint_ops.config import Settings
from inpaint_ops.records import Measures, Output, Record
from inpaint_ops.report import results_jsonl, timings_parquet
from inpaint_ops.runs import Workspace
from inpaint_ops_airflow.ui.app import create_app
from tests.support.synthetic_run import put_finished_run
from tests.support.waiting import wait_until

ROWS, LARGE = 120, (2400, 1600)
PREFIX = "/airflow/inpaint"
AIRFLOWS_SANDBOX = "allow-scripts allow-same-origin allow-forms allow-downloads"
"""What Airflow 3.3 allows the pages of a plugin in its frame (its `Iframe.tsx`)."""


@dataclass(frozen=True)
class ServedPages:
    """Where the pages are, and their store."""

    url: str
    workspace: Workspace
    app: FastAPI


def photo(size: tuple[int, int], seed: int) -> bytes:
    """A PNG whose every part looks different: a gradient under a grid."""
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    lines = ((across // 50 + down // 50) % 2) * 60
    pixels = np.stack(
        [across * 195 // size[0] + lines, down * 195 // size[1] + lines, (across + seed * 37) % 196 + lines]
    )
    sink = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def with_pictures(workspace: Workspace, run: str, records: list[Record]) -> None:
    """Put the files that the records name, and the records that name them."""
    layout, put = workspace.layout(run), workspace.storage.put
    mask = io.BytesIO()
    Image.new("L", (60, 40), 255).save(mask, "PNG")
    masked = put(workspace.store.join("photos/mask.png"), mask.getvalue()).location.uri
    found = []
    for record in records:
        size = LARGE if record.row == 1 else (60, 40)
        source = workspace.store.join(f"photos/{record.row}.png")
        if record.row not in (7, 8):
            put(source, photo(size, record.row))
        update: dict[str, object] = {"source": None if record.row == 8 else source.uri, "mask": masked}
        if record.output is not None:
            image = layout.image(record.id, ".png")
            body = photo(size, record.row + 1)
            put(image, body)
            contrast = {50: 6.0, 90: 3.0}.get(record.row, 1 + record.row % 7 / 100)
            update["measures"] = Measures(seam_contrast=contrast)
            update["output"] = Output(
                uri=image.uri, sha256="0" * 64, bytes=len(body), width=size[0], height=size[1], format="png"
            )
        found.append(record.model_copy(update=update))
    put(layout.results, results_jsonl(found))
    put(layout.timings, timings_parquet(found))


def _user(request: Request) -> SimpleAuthManagerUser:
    cookies = request.cookies
    return SimpleAuthManagerUser(username=cookies.get("user", "someone"), role=cookies.get("role", "viewer"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPages]:
    """The pages at a port of their own, for somebody who may look."""
    folder = tmp_path_factory.mktemp("served")
    workspace = Workspace.open(Settings(scratch=folder / "scratch"), store=str(folder / "store"))
    _, records = put_finished_run(workspace, "night", ROWS, failed={7, 8}, rejected=1)
    with_pictures(workspace, "night", records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(airflow_app._AuthManagerState, "instance", SimpleAuthManager())
        patch.setattr(DagModel, "get_team_name", lambda dag_id, **_: None)
        for wait in ("WAIT_SECONDS", "_TOGETHER_SECONDS"):  # a machine that is busy
            patch.setattr(f"inpaint_ops_airflow.ui.pictures.{wait}", 600.0)
        pages = create_app(RunViews(workspace, keep=False))
        pages.dependency_overrides[_get_session] = lambda: None
        pages.dependency_overrides[get_user] = _user
        around = FastAPI()
        around.mount(PREFIX, pages)
        address = f"{PREFIX}/runs/night/?embedded=true"
        frame = f'<iframe sandbox="{AIRFLOWS_SANDBOX}" src="{address}" width="1200" height="800"></iframe>'
        around.get("/airflow/frame", response_class=HTMLResponse)(lambda: f"<!DOCTYPE html>{frame}")
        claim = claim_port()
        server = uvicorn.Server(uvicorn.Config(around, host="127.0.0.1", port=claim.port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield ServedPages(f"http://127.0.0.1:{claim.port}{PREFIX}", workspace, pages)
        finally:
            server.should_exit = True
            thread.join()
            claim.close()
