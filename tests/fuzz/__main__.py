"""`python -m tests.fuzz TARGET [--seconds N] [--runs N] [--keep FOLDER]`: fuzz one target in this process."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

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
    "timings": ["inpaint_ops.browse.columns", "inpaint_ops.browse"],
}
"""The modules whose branches guide a target. To instrument everything takes longer than CI's whole fuzzing."""
MEMORY_MB = 2048
HANG_SECONDS = 20


def main() -> None:
    """Fuzz until time or runs are over, or a promise is broken: the input is then kept, and the exit code is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=GUIDED_BY)
    parser.add_argument("--seconds", type=int, default=0, help="how long; default: no limit")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs; default: no limit")
    parser.add_argument("--seed", type=int, default=1, help="0: another one each time")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that reached new code, to go on from")
    parser.add_argument("--artifacts", type=Path, default=Path(), help="a folder for the input that broke a promise")
    given = parser.parse_args()
    keep = given.keep or Path(tempfile.mkdtemp(prefix=f"fuzz-{given.target}-"))
    keep.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=GUIDED_BY[given.target]):
        from tests.fuzz.targets import CORPUS, TARGETS
    target = TARGETS[given.target]
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={given.seconds}",
            f"-runs={given.runs}",
            f"-seed={given.seed}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-timeout={HANG_SECONDS}",
            f"-max_len={target.longest}",
            f"-artifact_prefix={given.artifacts}{os.sep}",
            "-print_final_stats=1",
            str(keep),
            str(CORPUS / given.target),
        ],
        target.run,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
