"""A look at a job in a process of its own, with limits, so that a large manifest costs Airflow's api-server nothing.

`ask` starts `python -m inpaint_ops_airflow.preflight`, which reads a task as JSON and answers with a line of JSON per
part, as soon as the part is known. What is not known when the time is over stays unknown, and is named.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

MEMORY = 2 * 2**30
"""Bytes of heap and private mappings, at most."""
AT_ONCE = 2
"""Looks at the same time; a further one is refused."""
_REPLY_BYTES = 4 * 2**20
_LOGGED = 2000
_COMMAND = [sys.executable, "-m", "inpaint_ops_airflow.preflight"]

_places = threading.BoundedSemaphore(AT_ONCE)


class BusyError(Exception):
    """As many looks as may be are under way."""


@contextmanager
def _place() -> Iterator[None]:
    if not _places.acquire(blocking=False):
        raise BusyError
    try:
        yield
    finally:
        _places.release()


def ask(task: dict[str, Any], *, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """Have a task done; the lines of its answer, and why it has no more: "" where it came to its end.

    The process has this one's environment, which says where the store is. `seconds` are for all of it, its start
    included. Raises BusyError.
    """
    from inpaint_ops.machine.limited_process import how_it_ended, kill
    from inpaint_ops_airflow.workspace import without_airflow

    with _place(), tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [*_COMMAND, str(round(seconds) + 1)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=without_airflow(),  # to import Airflow takes longer than to look at most jobs
            start_new_session=True,
        )
        over = threading.Event()

        def end() -> None:
            over.set()
            kill(process)

        timer = threading.Timer(seconds, end)
        timer.start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            try:
                process.stdin.write(json.dumps(task).encode())
                process.stdin.close()
            except BrokenPipeError:
                pass
            body = process.stdout.read(_REPLY_BYTES)
        finally:
            timer.cancel()
            kill(process)
            process.stdout.close()
        complaints.seek(max(0, complaints.tell() - _LOGGED))
        complained = complaints.read().decode(errors="replace")
    lines = [json.loads(line) for line in body.split(b"\n")[:-1]]
    if lines and lines[-1] == {"over": True}:
        return lines[:-1], ""
    if over.is_set():
        return lines, f"the {seconds:.0f} seconds for it were over (INPAINT_PREFLIGHT_SECONDS)"
    ended = how_it_ended(process.returncode)
    log.warning("the look at a job %s: %s", ended, " ".join(complained.split()))
    return lines, f"its process {ended}; the log of Airflow's api-server says more"


def main() -> None:
    """Do the task on standard input, in so many seconds of a processor as the argument says."""
    from inpaint_ops.machine.limited_process import close_to_others, die_with_parent, limit, yield_to_others

    close_to_others()  # the store's keys are in its environment
    die_with_parent()
    yield_to_others()
    limit(data_bytes=MEMORY, cpu_seconds=int(sys.argv[1]))
    task = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer

        def say(line: str) -> None:
            answers.write(line + "\n")
            answers.flush()

        for line in _done(task, say):
            say(json.dumps(line))


def _done(task: dict[str, Any], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    from inpaint_ops.errors import InpaintOpsError
    from inpaint_ops.submitting import look_at, parse_request, write_manifest
    from inpaint_ops_airflow.workspace import open_workspace

    request, run = parse_request(task["request"]), task["run"]
    workspace = open_workspace()
    if task["what"] == "write":
        try:
            manifest, rows = write_manifest(workspace, request, run)
            yield {"manifest": manifest, "rows": rows}
        except InpaintOpsError as error:
            yield {"problem": str(error)}
    else:
        look_at(workspace, request, run, lambda found: say(found.model_dump_json()), devices=task["devices"])
    yield {"over": True}


if __name__ == "__main__":
    main()
