"""The process that measures: cells come on standard input, results go to a descriptor, one JSON line each.

Started as `python -m bench.child --results-fd N --parent PID --spawned EPOCH --device D --folder PATH`.
"""

from __future__ import annotations

import time

_BEGAN = time.time()

import argparse  # noqa: E402 - the time of the first line is what is asked for
import os  # noqa: E402
import sys  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402

from inpaint_ops.worker import die_with_parent  # noqa: E402


def main() -> None:
    """Measure what is asked until standard input ends; then end at once, without the libraries' own teardown."""
    parser = argparse.ArgumentParser(prog="bench.child")
    parser.add_argument("--results-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--spawned", type=float, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    die_with_parent(given.parent)
    from bench.request import Request, Started
    from inpaint_ops.worker.imports import set_environment
    from inpaint_ops.worker.installation import versions

    set_environment()
    began = time.perf_counter()
    from bench.painting import Bench
    from inpaint_ops import device

    parts = {"interpreter": _BEGAN - given.spawned, "imports": time.perf_counter() - began}
    import torch

    cudnn = str(torch.backends.cudnn.version() or "")  # type: ignore[no-untyped-call]
    more = {"cuda": torch.version.cuda, "cudnn": cudnn, "triton": _triton()}
    bench = Bench(given.device, given.folder, parts, given.spawned)
    with os.fdopen(given.results_fd, "w", encoding="utf-8") as results:
        found = versions() | {name: text for name, text in more.items() if text}
        started = Started(parts=parts, device=device.describe(given.device), versions=found)
        print(started.model_dump_json(), file=results, flush=True)
        for line in sys.stdin:
            request = Request.model_validate_json(line)
            print(bench.measure(request.cell, request.seconds).model_dump_json(), file=results, flush=True)
    os._exit(0)


def _triton() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
