"""The whole command on a card, case by case: `python -m bench.card [--only NAMES] [--seconds 540] [--out FILE]`.

Photographs, masks and a manifest in a folder, weights made on the card, and `inpaint-ops run` as a user starts it.
`--device cpu --model tiny-random --rows 4` runs the program itself on a processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.card.cases import CASES, Case
from bench.card.command import Outcome, Place, run
from bench.card.watch import GB, watch
from bench.program import ROOT
from inpaint_ops import device
from inpaint_ops.records import now
from inpaint_ops.worker.installation import versions


def main() -> None:
    """Print a line per case as it ends, then the notes; save."""
    parser = argparse.ArgumentParser(prog="bench.card")
    parser.add_argument("--only", default="", help="names of cases, with ; between")
    parser.add_argument("--seconds", type=float, default=540.0, help="what does not fit is dropped; default 540")
    parser.add_argument("--model", default="sdxl-random")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rows", type=int, help="rows of each case, instead of its own number")
    parser.add_argument("--out", type=Path, help="where the JSON goes; default: only printed")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    given = parser.parse_args()
    wanted = [name for name in given.only.split(";") if name]
    if unknown := set(wanted) - {case.name for case in CASES}:
        sys.exit(f"--only: there is no {', '.join(sorted(unknown))}; see --list")
    cases = [case for case in CASES if not wanted or case.name in wanted]
    if given.list:
        for case in cases:
            print(f"{case.name:28}  {case.seconds:4.0f} s  {case.asks}")
        return
    measure(cases, given)


def measure(cases: Sequence[Case], given: argparse.Namespace) -> list[Outcome]:
    """The outcomes of `cases`, as far as the time allows; saved after each."""
    began, started_at = time.monotonic(), now()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="bench-card-") as scratch, watch() as watching:
        folder = Path(scratch)
        os.environ.update(HF_HOME=f"{scratch}/hub", TMPDIR=scratch, PYTHONPATH=_path())
        place = Place(folder, given.model, given.device, folder / "warm" / "socket", given.rows)
        head = {
            "program": "card", "command": f"python -m bench.card {' '.join(sys.argv[1:])}".strip(),
            "started_at": started_at.isoformat(), "cores": os.cpu_count(),
            "device": device.describe(given.device).model_dump(mode="json"), "versions": versions(),
        }  # fmt: skip
        with contextlib.ExitStack() as hosts:
            for case in cases:
                if time.monotonic() - began + case.seconds > given.seconds:
                    outcomes.append(Outcome(name=case.name, asks=case.asks, failed="dropped: the time was up"))
                    continue
                if case.start == "fork" and not place.socket.exists():
                    hosts.enter_context(warm_host(place.socket))
                outcomes.append(run(case, place, watching))
                print(line(outcomes[-1]), flush=True)
                if given.out:
                    found = {**head, "outcomes": [one.model_dump(mode="json", exclude_none=True) for one in outcomes]}
                    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for outcome in outcomes:
        for note in outcome.notes:
            print(f"{outcome.name}: {note}")
    return outcomes


def line(outcome: Outcome) -> str:
    """One case in a line."""
    if outcome.failed:
        return f"{outcome.name}: {outcome.failed}"
    parts_of_start = ", ".join(f"{name} {took:.1f}" for name, took in outcome.start.items() if took >= 0.05)
    parts = [
        f"{outcome.counts['done']} of {outcome.counts['rows']} done", f"{outcome.wall:.1f} s",
        f"start {sum(outcome.start.values()):.1f} s ({parts_of_start})",
        *(f"{label} {value:{form}}" for label, value, form in (
            ("images/s painting", outcome.images_per_second_warm, ".3f"), ("painting", outcome.painting, ".1%"),
            ("waiting s/image", outcome.waiting, ".2f"), ("batch", outcome.batch, ".1f"),
            ("kernels %", outcome.kernels, ".0f"), ("CPU s/image", outcome.cpu_per_image, ".2f"),
            ("CPU s", outcome.cpu, ".0f"),
        ) if value is not None),
        *(f"card {label} {value / GB:.2f} GB" for label, value in (
            ("before", outcome.card_before), ("most", outcome.card_most), ("after", outcome.card_after),
        ) if value is not None),
    ]  # fmt: skip
    return f"{outcome.name}: {', '.join(parts)}"


@contextlib.contextmanager
def warm_host(socket: Path) -> Iterator[None]:
    """A warm host that serves at `socket`. Raises RuntimeError where it does not come."""
    socket.parent.mkdir(mode=0o700)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "inpaint_ops.cli", "warm-host", "--socket", str(socket)],
        env=os.environ | {"INPAINT_WARM_HOST": str(socket)}, cwd=socket.parent, start_new_session=True,
    )  # fmt: skip
    try:
        while not socket.exists():
            if process.poll() is not None or time.monotonic() - began > 90:
                raise RuntimeError("the warm host did not come up")
            time.sleep(0.05)
        print(f"warm host: {time.monotonic() - began:.1f} s until it serves", flush=True)
        yield
    finally:
        process.terminate()
        process.wait()


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


if __name__ == "__main__":
    main()
