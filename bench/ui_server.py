"""What a server of the pages spends on a run of many rows: seconds of its own processor, by a client beside it.

The server is uvicorn in a process of its own, with what it starts to decode pictures; the client and the store are
counted in neither. Rights are left out, since Airflow has them.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from demo.object_store import ObjectStoreServer
from inpaint_ops.browse import RunViews
from inpaint_ops.config import Settings
from inpaint_ops.images import thumbnails
from inpaint_ops.records import Thumbnail
from inpaint_ops.report import results_jsonl
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops_airflow.ui.data import PAGE
from tests.support.synthetic_run import put_finished_run

STORE = "s3://inpaint/served/"
WAIT_SECONDS = 300.0


def tree_cpu(pid: int) -> float:
    """Seconds of the processor of a process and all below it, the ended ones too."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task").glob("*/children")
    children = {int(child) for path in below for child in path.read_text().split()}
    return sum(map(int, fields[11:15])) / ticks + sum(map(tree_cpu, children))


def workspace_of(server: ObjectStoreServer, scratch: Path) -> Workspace:
    """The store that the run lies in."""
    s3 = make_s3_client(server.session(), endpoint_url=server.endpoint)
    return Workspace.open(Settings(scratch=scratch), store=STORE, s3_client=lambda: s3)


def put_run(workspace: Workspace, rows: int) -> None:
    """A finished run of `rows` rows, of which each of the first page has thumbnails of a 12-megapixel photo."""
    _, records = put_finished_run(workspace, "served", rows, shard_rows=200)
    layout, put = workspace.layout("served"), workspace.storage.put
    noise = np.random.default_rng(1).integers(0, 256, (188, 250, 3), np.uint8)
    small = list(thumbnails(np.ascontiguousarray(cv2.resize(noise, (4000, 3000), interpolation=cv2.INTER_CUBIC))))
    for at, record in enumerate(records[:PAGE]):
        assert record.output is not None
        image, named = layout.image(record.id, ".png"), []
        for longest, data in small:
            place = put(layout.thumbnail(image, longest), data).location
            named.append(Thumbnail(size=longest, uri=place.uri, sha256=sha256(data).hexdigest(), bytes=len(data)))
        output = record.output.model_copy(update={"uri": image.uri})
        records[at] = record.model_copy(update={"output": output, "thumbnails": tuple(named)})
    put(layout.results, results_jsonl(records))


def _serve(environment: dict[str, str], port: int, scratch: Path) -> None:
    """In a process of its own, until it is ended."""
    os.environ.update(environment)
    import uvicorn

    from inpaint_ops_airflow.ui.access import may_deliver, may_read_runs, may_review, may_trigger_runs, reviewer
    from inpaint_ops_airflow.ui.app import create_app

    workspace = Workspace.open(Settings(scratch=scratch), store=STORE)
    app = create_app(RunViews(workspace, keep=False))
    for right in (may_read_runs, may_trigger_runs):
        app.dependency_overrides[right.dependency] = lambda: None
    app.dependency_overrides[reviewer.dependency] = lambda: "cid"
    for may in (may_review, may_deliver):
        app.dependency_overrides[may.dependency] = lambda: True
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


@contextmanager
def _server(server: ObjectStoreServer, scratch: Path) -> Iterator[tuple[httpx.Client, Callable[[], float]]]:
    """A client of a fresh server, and what that has spent, in milliseconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(server.env, port, scratch), daemon=True)
    process.start()
    pid: Any = process.pid
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
            deadline = time.monotonic() + WAIT_SECONDS
            while True:
                try:
                    client.get("/runs/warm-up/").raise_for_status()  # imports, templates
                    break
                except httpx.TransportError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)
            yield client, lambda: tree_cpu(pid) * 1000
    finally:
        process.terminate()
        process.join()


def measure(server: ObjectStoreServer, folder: Path, rows: int, rounds: int) -> tuple[float, float]:
    """Print and return ms of the server's processor: the first page for a server that has never seen the run, and 48
    thumbnails of it; the medians of `rounds` fresh servers.
    """
    workspace = workspace_of(server, folder / "scratch")
    put_finished_run(workspace, "warm-up", 8)
    put_run(workspace, rows)
    page = ["/runs/served/", "/api/runs/served/rows"]
    together = [f"/api/runs/served/thumbnails?rows={','.join(map(str, range(1, PAGE + 1)))}"]
    one_by_one = [f"/api/runs/served/rows/{row}/pictures/result?size=256" for row in range(1, PAGE + 1)]
    asked = {
        "first page, with its gallery": page,
        "48 thumbnails": together,
        "the same page again": page,
        "the same thumbnails again": together,
        "the same one by one": one_by_one,
    }
    spent: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(rounds):
        with _server(server, folder / f"scratch-{number}") as (client, cpu):
            for name, paths in asked.items():
                before = cpu()
                for path in paths:
                    client.get(path).raise_for_status()
                spent[name].append(cpu() - before)
    print(f"a run of {rows:,} rows, on a server of its own; ms of its processor, median (least to most) of {rounds}")
    for name, found in spent.items():
        print(f"  {name:<30}{np.median(found):>6.0f} ({min(found):.0f} to {max(found):.0f})")
    return float(np.median(spent["first page, with its gallery"])), float(np.median(spent["48 thumbnails"]))
