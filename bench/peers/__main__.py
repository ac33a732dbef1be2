"""Our program beside what people would use instead: the same rows, model and store, in turns.

    python -m bench.peers [--rows 200] [--broken 10] [--rounds 5] [--ray PYTHON] [--iopaint COMMAND]

Prints three tables: what became of the rows, seconds and memory as medians with the spread, and ratios of CPU seconds
paired by round. `--ray` is a Python that has `ray[data]` (bench/peers/requirements.txt says how), `--iopaint` the
command of an installation of its own; each is left out without.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from bench.peers import job
from bench.peers.usage import cpu_seconds, sample
from demo.airflow_stack import AirflowStack
from demo.object_store import ObjectStoreServer
from inpaint_ops.model.random_weights import ensure
from inpaint_ops.storage.s3_client import make_s3_client

STEPS = 4
_DAG = "inpaint_manifest"
OURS, OUR_DAG = "inpaint-ops", "inpaint-ops, its DAG"


@dataclass
class Found:
    """What one program did, over all its rounds."""

    runs: list[dict[str, float]] = field(default_factory=list)
    """Of each round: wall and cpu seconds, peak bytes, exit code."""
    rows: dict[str, Any] = field(default_factory=dict)
    """Of the last round: what became of the rows."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.peers")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--broken", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", default=",1", help="values of OMP_NUM_THREADS, with commas between; empty: not set"
    )
    parser.add_argument("--dag", action="store_true", help="our DAG in an Airflow that runs already, too")
    parser.add_argument("--ray", metavar="PYTHON")
    parser.add_argument("--iopaint", metavar="COMMAND")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-peers-") as folder:
        work = Path(folder)
        model = ensure("tiny-random", work / "hub")
        with ObjectStoreServer(work / "objects") as server:
            bench = Bench(work, server, model, job_of(server, given.rows, given.broken))
            for threads in given.threads.split(","):
                with airflow(work / f"airflow-{threads}", bench, threads) if given.dag else nullcontext() as stack:
                    found = bench.measure(given.rounds, threads, stack, ray=given.ray, iopaint=given.iopaint)
                print(
                    f"\n## OMP_NUM_THREADS {threads or 'not set'}, {given.rows} rows, {given.broken} of them broken\n"
                )
                print(tables(found, given.rows, bench.job), flush=True)


def job_of(server: ObjectStoreServer, rows: int, broken: int) -> job.Job:
    """The rows, in the server's bucket."""
    client = make_s3_client(server.session(), endpoint_url=server.endpoint)
    made = job.make(
        lambda key, body: client.put_object(Bucket=server.bucket, Key=f"in/{key}", Body=body), rows=rows, broken=broken
    )
    client.put_object(Bucket=server.bucket, Key="in/job.jsonl", Body=made.manifest)
    return made


@contextmanager
def airflow(home: Path, bench: Bench, threads: str) -> Iterator[AirflowStack]:
    """A real Airflow that knows our DAGs and the bench's store."""
    environment = bench.environment(threads) | {
        "INPAINT_STORE": f"{bench.base}dag/",
        "INPAINT_ALLOWED_PREFIXES": f"{bench.base}in/",
        "INPAINT_MODEL": str(bench.model),
        "INPAINT_SCRATCH": str(home / "scratch"),
        "INPAINT_INBOX_SCHEDULE": "@yearly",
        "INPAINT_STANDING_SCHEDULE": "@yearly",
    }
    stack = AirflowStack(home / "home", environment)
    try:
        stack.start()
        stack.wait_for_dags(_DAG)
        stack.unpause(_DAG)
        yield stack
    finally:
        stack.stop()


class Bench:
    """The programs over one store."""

    def __init__(self, work: Path, server: ObjectStoreServer, model: Path, made: job.Job) -> None:
        self._work, self._server, self.model, self.job = work, server, model, made
        self._client = make_s3_client(server.session(), endpoint_url=server.endpoint)
        self.base = f"s3://{server.bucket}/"
        self._size = ""
        self._number = 0

    def measure(
        self, rounds: int, threads: str, stack: AirflowStack | None, *, ray: str | None, iopaint: str | None
    ) -> dict[str, Found]:
        """Every program once per round, in turns from the first and from the last."""
        here = sys.executable
        programs = (
            {OURS: ""}
            | ({OUR_DAG: ""} if stack else {})
            | {
                "a loop over boto3 and diffusers": f"{here} -m bench.peers.loop",
            }
        )
        if ray:
            programs["Ray Data"] = f"{ray} -m bench.peers.ray_loop"
        if iopaint:
            programs["IOPaint (OpenCV, no diffusion)"] = f"{here} -m bench.peers.iopaint_folder --iopaint {iopaint}"
        found = {name: Found() for name in programs}
        for number in range(rounds):
            order = list(programs) if number % 2 == 0 or not self._size else list(programs)[::-1]
            for name in order:
                self._number += 1
                out = f"out-{self._number}/"
                if name == OUR_DAG and stack is not None:
                    out = "dag/"
                    used = self._run_dag(stack)
                else:
                    used = self._run(self._command(name, programs[name], out), threads)
                found[name].runs.append(used)
                found[name].rows = self._outcome(name, out)
                print(f"round {number + 1}: {name}: {used['cpu']:.1f} CPU s, {used['wall']:.1f} s", flush=True)
        return found

    def _command(self, name: str, start: str, out: str) -> list[str]:
        manifest, to = f"{self.base}in/job.jsonl", f"{self.base}{out}"
        if name == OURS:
            options = ["--run", "night", "--model", str(self.model), "--steps", str(STEPS), "--device", "cpu"]
            limits = ["--failure-threshold", "1"]
            return [sys.executable, "-m", "inpaint_ops.cli", "run", manifest, "--out", to, *options, *limits]
        command = [*start.split(" "), "--manifest", manifest, "--out", to]
        if "iopaint_folder" not in start:
            command += ["--model", str(self.model), "--steps", str(STEPS), "--size", self._size]
        return command

    def environment(self, threads: str) -> dict[str, str]:
        """What leads a program to the store."""
        more = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self._work / "hub")}
        return dict(self._server.env) | more | ({"OMP_NUM_THREADS": threads} if threads else {})

    def _run_dag(self, stack: AirflowStack) -> dict[str, float]:
        """Trigger the DAG and wait for its end. CPU and memory are Airflow's own too, while the run goes on."""
        parents = [psutil.Process(one.pid) for one in stack.processes.values()]
        peak, over = [0], threading.Event()
        sampler = threading.Thread(target=sample, args=(psutil.Process(), peak, over))
        before, began = cpu_seconds(parents), time.perf_counter()
        sampler.start()
        conf = {"manifest": f"{self.base}in/job.jsonl", "run": f"night-{self._number}", "steps": STEPS}
        run_id = stack.trigger(_DAG, conf | {"failure_threshold": 1})
        state = stack.wait_for_run(_DAG, run_id)
        used = {"wall": time.perf_counter() - began, "cpu": cpu_seconds(parents) - before}
        over.set()
        sampler.join()
        if state != "success":
            why = re.findall(r'"exc_value":"[^"]*"', stack.task_logs(_DAG, run_id))
            print(f"the DAG run is {state}: {why}", file=sys.stderr)
        return used | {"peak": peak[0], "code": float(state != "success")}

    def _run(self, command: Sequence[str], threads: str) -> dict[str, float]:
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment |= self.environment(threads) | {"PYTHONPATH": "."}
        to = self._work / "usage.json"
        with (self._work / "log.txt").open("wb") as log:
            measured = [sys.executable, "-m", "bench.peers.usage", str(to), *command]
            subprocess.run(measured, env=environment, stdout=log, stderr=log, check=True)
        used: dict[str, float] = json.loads(to.read_text())
        if used["code"] not in (0, 3):
            print((self._work / "log.txt").read_text()[-2000:], file=sys.stderr)
        return used

    def _outcome(self, name: str, out: str) -> dict[str, Any]:
        """How many healthy rows have an image, and have the source's own pixels outside of the mask; and the rest."""
        run = {OURS: "runs/night/", OUR_DAG: f"runs/night-{self._number}/"}.get(name, "")
        prefix = f"{out}{run}images/" if run else out
        named = self._named(name, f"{out}{run}")
        done = exact = painted = silent = 0
        for number, row in enumerate(self.job.rows):
            body = self._get(f"{prefix}{row['id']}.png")
            if row["id"] in self.job.broken:
                painted += body is not None
                silent += body is None and row["id"] not in named
                continue
            if body is None:
                continue
            done += 1
            pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
            outside = ~job.mask(number)
            exact += bool(pixels.shape == job.source(number).shape and (pixels == job.source(number))[outside].all())
        return {"done": done, "exact": exact, "painted": painted, "named": len(named), "silent": silent}

    def _named(self, name: str, out: str) -> set[str]:
        """The rows that the program itself says have no image."""
        if name in (OURS, OUR_DAG):
            records = [json.loads(line) for line in (self._get(f"{out}results.jsonl") or b"").splitlines()]
            sizes = [one["working_size"] for one in records if one["status"] == "done"]
            self._size = self._size or "{}x{}".format(*sizes[0])
            return {one["id"] for one in records if one["status"] != "done"}
        if "IOPaint" in name:
            log = (self._work / "log.txt").read_text(errors="replace")
            return {str(row["id"]) for row in self.job.rows if re.search(rf"(?i)error.*{row['id']}\b", log)}
        return {json.loads(line)["id"] for line in (self._get(f"{out}errors.jsonl") or b"").splitlines()}

    def _get(self, key: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self._server.bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None


def tables(found: dict[str, Found], rows: int, made: job.Job) -> str:
    """The three tables as Markdown."""
    healthy = rows - len(made.broken)
    lines = [
        f"| | of {healthy} healthy rows done | untouched pixels exact | broken rows: painted | named | neither |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        got = one.rows
        lines.append(
            f"| {name} | {got['done']} | {got['exact']} | {got['painted']} | {got['named']} | {got['silent']} |"
        )
    lines += [
        "",
        "| | CPU s | wall s | healthy images per second | peak MB | CPU s over ours, paired |",
        "|---|---|---|---|---|---|",
    ]
    ours = [run["cpu"] for run in found[OURS].runs]
    for name, one in found.items():
        cpu, wall, peak = ([run[part] for run in one.runs] for part in ("cpu", "wall", "peak"))
        ratios = [theirs / mine for theirs, mine in zip(cpu, ours, strict=True)]
        rate = [one.rows["done"] / seconds for seconds in wall]
        cells = [_spread(cpu, 1), _spread(wall, 1), _spread(rate, 2), _spread([b / 1e6 for b in peak], 0)]
        lines.append(f"| {name} | {' | '.join(cells)} | {_spread(ratios, 2)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
