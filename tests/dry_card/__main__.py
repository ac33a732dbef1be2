"""`python -m tests.dry_card [NAME…]`: paint the cases on a card that is not there, and print what was counted."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.dry_card import cases, pretended_card


def main() -> int:
    """The number of cases that failed."""
    parser = argparse.ArgumentParser(prog="tests.dry_card", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases; all of them where none is named")
    parser.add_argument("--json", action="store_true", help="a line of JSON per case, instead of the table")
    given = parser.parse_args()
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        parser.error("the dry card needs a C++ compiler: install g++")
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    from tests.dry_card import tracing

    broken = 0
    for way in () if given.names or given.json else tracing.WAYS:  # before torch is made to believe in a card
        try:
            print(f"dynamo, compile {way}: {tracing.trace(way)} graphs, none broken", flush=True)
        except Exception as error:
            print(f"dynamo, compile {way}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
            broken += 1
    with tempfile.TemporaryDirectory() as folder:
        mode, counter = pretended_card.install(cases.CARD, compiler, Path(folder))
    from tests.dry_card import painting, verdicts

    painting.stand_ins()
    done = []
    for case in cases.named(given.names):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) if case.from_folder or case.from_file or case.loras else None
            if folder is not None:
                painting.write_folder(case, folder)
            with mode, counter:
                finding = painting.paint(case, counter, folder)
        gc.collect()
        done.append((case, finding))
        wrong = list(verdicts.faults(case, finding))
        if given.json:
            print(json.dumps(dataclasses.asdict(finding) | {"faults": wrong}), flush=True)
        else:
            print(f"{finding.seconds:5.1f} s  {case.name}: {'; '.join(wrong) or 'ok'}", flush=True)
    if not given.json:
        print(f"\n{verdicts.table(done)}")
    return broken + sum(any(verdicts.faults(case, finding)) for case, finding in done)


if __name__ == "__main__":
    sys.exit(main())
