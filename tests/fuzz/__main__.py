"""`python -m tests.fuzz TARGET... [--seconds N] [--runs N] [--keep FOLDER]`: fuzz one target or several.

The fuzzer ends its process, so each of several targets gets a fork of this one: importing and instrumenting the modules
takes longer than a short fuzzing, and is done once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import atheris

MANIFEST = ["inpaint_ops.manifest", "inpaint_ops.locations", "inpaint_ops.errors"]
STORED = ["inpaint_ops.storage.stored", "inpaint_ops.records", "inpaint_ops.errors"]
GUIDED_BY = {
    "jsonl": MANIFEST,
    "csv": MANIFEST,
    "parquet": [*MANIFEST, "inpaint_ops.manifest.parquet"],
    "prompts": ["inpaint_ops.manifest.pairing", "inpaint_ops.errors"],
    "keys": MANIFEST[1:],
    "source": ["inpaint_ops.images", "PIL"],
    "mask": ["inpaint_ops.images", "PIL"],
    "pictures": ["inpaint_ops.images", "inpaint_ops.previews", "PIL"],
    "placing": ["inpaint_ops.images"],
    "commands": ["inpaint_ops.protocol", "inpaint_ops.worker"],
    "events": ["inpaint_ops.protocol", "inpaint_ops.records"],
    "claim": ["inpaint_ops.inbox", "inpaint_ops.layout", "inpaint_ops.errors"],
    "plan": [*STORED, "inpaint_ops.planning"],
    "record": [*STORED, "inpaint_ops.run_files.counted", "inpaint_ops.report"],
    "progress": [*STORED, "inpaint_ops.browse"],
    "notes": [*STORED, "inpaint_ops.runs.attempts", "inpaint_ops.report"],
    "timings": ["inpaint_ops.machine.parquet_columns", "inpaint_ops.browse"],
}
"""The modules whose branches guide a target. To instrument everything takes longer than CI's whole fuzzing."""
MEMORY_MB = 2048
HANG_SECONDS = 20


def main() -> int:
    """Fuzz until time or runs are over, or a promise is broken: the input is then kept, and the exit code is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", choices=GUIDED_BY, metavar="TARGET", help=", ".join(GUIDED_BY))
    parser.add_argument("--seconds", type=int, default=0, help="how long for each; default: no limit")
    parser.add_argument(
        "--runs", type=_runs, default=("-1",), help="inputs for each, or one number for each target: 9,5"
    )
    parser.add_argument("--seed", type=int, default=1, help="0: another one each time")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that reached new code, to go on from")
    parser.add_argument("--artifacts", type=Path, default=Path(), help="a folder for the input that broke a promise")
    given = parser.parse_args()
    if len(given.runs) not in (1, len(given.targets)):
        parser.error(f"--runs has {len(given.runs)} numbers for {len(given.targets)} targets")
    runs = dict(zip(given.targets, given.runs if len(given.runs) > 1 else given.runs * len(given.targets), strict=True))
    guided_by = sorted({module for target in given.targets for module in GUIDED_BY[target]})
    with atheris.instrument_imports(include=guided_by):
        from tests.fuzz import targets  # noqa: F401
    if len(given.targets) == 1:
        _fuzz(given.targets[0], runs[given.targets[0]], given)
    return max(_in_a_fork(target, runs[target], given) for target in given.targets)


def _runs(text: str) -> tuple[str, ...]:
    return tuple(str(int(number)) for number in text.split(","))


def _in_a_fork(target: str, runs: str, given: argparse.Namespace) -> int:
    """Fuzz in a process of its own; its exit code, which the last line of what it prints says too."""
    print(f"fuzzing {target}", file=sys.stderr, flush=True)
    child = os.fork()
    if child == 0:
        _fuzz(target, runs, given)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"fuzzing {target} ended with {code}", file=sys.stderr, flush=True)
    return abs(code)


def _fuzz(name: str, runs: str, given: argparse.Namespace) -> NoReturn:
    """Fuzz one target in this process, and end it."""
    from tests.fuzz.targets import CORPUS, TARGETS

    keep = given.keep / name if given.keep and len(given.targets) > 1 else given.keep
    keep = keep or Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    keep.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={given.seconds}",
            f"-runs={runs}",
            f"-seed={given.seed}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-timeout={HANG_SECONDS}",
            f"-max_len={target.longest}",
            f"-artifact_prefix={given.artifacts}{os.sep}",
            "-print_final_stats=1",
            str(keep),
            str(CORPUS / name),
        ],
        target.run,
    )
    atheris.Fuzz()
    raise AssertionError("the fuzzer ends its process")


if __name__ == "__main__":
    sys.exit(main())
