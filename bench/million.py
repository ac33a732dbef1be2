"""What a run of many rows costs without its painting: plan, a resumed look at what is done, and the report.

`python -m bench.million --rows 100000 --store folder` prints a row of the table per step: seconds of CPU (its own, and
those of the processes that it started), wall, peak memory (its own, and of all together) and requests. Each step is a
process of its own. The records and images are written as a finished run would have left them (an image is its id:
nothing is decoded), so what is measured is the machinery.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.million_memory import PeakTogether
from bench.million_store import Counted, FastPuts, opened
from inpaint_ops.planning import JobOptions, PlannedRow
from inpaint_ops.records import Output
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.runs import Workspace, finish, prepare, unfinished_shards
from inpaint_ops.supervisor.compacting import KeptRecords
from inpaint_ops.supervisor.recorder import Recorder
from tests.support.synthetic_run import record

RUN = "million"
STEPS = ("plan", "resume", "attempts", "finish")
_THREADS = 16
_IMAGES_CHECKED = 256
"""Images whose digests the report compares: as many as `INPAINT_CHECK_IMAGE_BYTES` covers of 4 MB each."""
_SOURCES = 100
"""Images that the rows share: looking for more of them costs a listing, of a thousand per request."""


def main() -> None:
    """Print the table for one number of rows on one kind of store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--steps", default=",".join(STEPS), help="some of plan, resume, attempts, finish")
    parser.add_argument("--single", action="store_true", help="without compacted records, as after killed attempts")
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary folder")
    parser.add_argument("--step", choices=(*STEPS, "paint"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.folder and not chosen.folder.is_dir():
        parser.error(f"--folder: there is no folder {chosen.folder}")
    if chosen.step:
        _measured(chosen.step)
        return
    with (
        tempfile.TemporaryDirectory(prefix="bench-million-", dir=chosen.folder) as folder,
        opened(chosen.store, Path(folder)) as environment,
    ):
        _write_manifest(Path(folder, "manifest.jsonl"), chosen.rows)
        print(
            "| rows | store | step | CPU s | of others | wall s | peak MB | of all | requests per row |\n"
            "|---|---|---|---|---|---|---|---|---|",
            flush=True,
        )
        wanted = [step for step in STEPS if step in chosen.steps.split(",") or step == "plan"]
        for step in [*wanted[:1], *(["paint"] if wanted[1:] else []), *wanted[1:]]:
            found = _in_a_process(step, Path(folder), environment, chosen.rows, compacted=not chosen.single)
            if step != "paint":
                asked = "" if found["requests"] is None else f"{found['requests'] / chosen.rows:.4g}"
                print(
                    f"| {chosen.rows:,} | {chosen.store} | {step} | {found['cpu']:.1f} | {found['others']:.1f} | "
                    f"{found['wall']:.1f} | {found['peak'] / 1e6:.0f} | {found['together'] / 1e6:.0f} | {asked} |",
                    flush=True,
                )


def _write_manifest(path: Path, rows: int) -> None:
    """Rows of `_SOURCES` images and masks, in a folder beside the manifest, whatever the store is."""
    sources = path.parent / "in"
    sources.mkdir()
    for number in range(_SOURCES):
        (sources / f"{number}.png").touch()
        (sources / f"{number}.mask.png").touch()
    with path.open("w") as out:
        for number in range(1, rows + 1):
            at = number % _SOURCES
            row = {"id": _id(number), "image": f"in/{at}.png", "mask": f"in/{at}.mask.png"}
            out.write(json.dumps(row | {"prompt": f"a cup {number}"}) + "\n")


def _id(number: int) -> str:
    return f"cup-{number:07d}"


def _in_a_process(
    step: str, folder: Path, environment: dict[str, str], rows: int, *, compacted: bool
) -> dict[str, Any]:
    more = {
        "INPAINT_MAX_ROWS": str(rows),
        "INPAINT_MAX_MANIFEST_BYTES": str(rows * 1000),
        "INPAINT_CHECK_IMAGE_BYTES": str(_IMAGES_CHECKED * len(_id(0))),
        "BENCH_MANIFEST": str(folder / "manifest.jsonl"),
        "BENCH_COMPACTED": "yes" if compacted else "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "bench.million", "--step", step]
    done = subprocess.run(command, env=os.environ | environment | more, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{step} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(step: str) -> None:
    """Do one step in this process and print what it took, as JSON on the last line."""
    counted = Counted.open(readable=[str(Path(os.environ["BENCH_MANIFEST"]).parent) + "/"])
    started, cpu, together = time.perf_counter(), time.process_time(), PeakTogether()
    if step == "plan":
        prepare(counted.workspace, os.environ["BENCH_MANIFEST"], RUN, JobOptions(model="tiny-random"))
    elif step == "paint":
        _leave_results(counted.workspace)
    elif step == "resume":
        _look_at_what_is_done(counted.workspace)
    elif step == "attempts":
        _look_at_each_shard(counted.workspace)
    else:
        summary = finish(counted.workspace, RUN)
        assert summary.verdict == "VALID", summary.reasons
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(
        json.dumps(
            {
                "wall": time.perf_counter() - started,
                "cpu": time.process_time() - cpu,
                "others": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
                "peak": int(peak[1]) * 1024 if peak else 0,
                "together": together.bytes(),
                "requests": counted.requests,
            }
        )
    )


def _leave_results(workspace: Workspace) -> None:
    """An image and a record per row, as painting would have left them."""
    plan = workspace.plan(RUN)
    assert plan is not None
    layout, fast = workspace.layout(RUN), FastPuts(workspace)

    def put(some: Sequence[PlannedRow], shard: str, number: int, kept: KeptRecords) -> None:
        for row in some:
            place, body = layout.image(row.id, ".png"), row.id.encode()
            fast.put(place, body)
            output = Output(
                uri=place.uri, sha256=sha256(body).hexdigest(), bytes=len(body), width=64, height=64, format="png"
            )
            found = record(row.row, shard=number).model_copy(
                update={"id": row.id, "source": row.image, "mask": row.mask, "output": output, "prompt": row.prompt}
            )
            where = layout.record(shard, row.row)
            written = found.model_dump_json().encode()
            kept.keep(row.row, fast.put(where, written), written)

    with ThreadPoolExecutor(_THREADS) as pool:
        for number, shard in enumerate(plan.shards):
            rows, kept = workspace.shard_rows(plan, shard.name), KeptRecords()
            for ended in [pool.submit(put, some, shard.name, number, kept) for some in _parts(rows, 64)]:
                ended.result()
            if os.environ["BENCH_COMPACTED"]:
                kept.store(workspace.storage, layout, shard.name)


def _parts(rows: Sequence[PlannedRow], size: int) -> Iterator[Sequence[PlannedRow]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _look_at_what_is_done(workspace: Workspace) -> None:
    """What the same command asks first when it goes on with a run: which shards are left."""
    plan = workspace.plan(RUN)
    assert plan is not None
    assert not os.environ["BENCH_COMPACTED"] or not unfinished_shards(workspace, plan)


def _look_at_each_shard(workspace: Workspace) -> None:
    """What an attempt at each shard asks first: which of its rows have ended."""
    plan = workspace.plan(RUN)
    assert plan is not None
    for shard in plan.shards:
        rows = {row.row: row for row in workspace.shard_rows(plan, shard.name)}
        recorder = Recorder(
            workspace.storage, workspace.layout(RUN), shard.name, "look", rows=rows,
            record_bytes=row_bytes(workspace.settings),
        )  # fmt: skip
        assert len(recorder.recorded_rows()) == shard.rows


if __name__ == "__main__":
    main()
