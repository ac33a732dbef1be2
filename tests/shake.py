"""`python -m tests.shake`: the tests again and again, in another order each time, on a machine that is kept busy, with
threads that begin late.

What fails here depends on the order, on the load or on chance; or on an example of hypothesis that `make test`, whose
examples are the same each time, does not have. Each round has a seed; a round is repeated alone by
`pytest --randomly-seed=SEED --hypothesis-profile=explore --hypothesis-seed=SEED`. The cluster's tests are left out:
they take a machine to themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep so many processors busy, at the usual priority; they end with this process, however it ends."""
    parent = os.getpid()

    def die_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    command = [sys.executable, "-S", "-c", "while True: pass"]
    spinning = [subprocess.Popen(command, preexec_fn=die_with_parent) for _ in range(processes)]
    try:
        yield spinning
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def one_round(seed: int, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Run pytest once, and pass on what it prints; its exit code and its lines about what failed."""
    command = [
        sys.executable, "-m", "pytest", "-m", "not cluster", "-rfE", f"--randomly-seed={seed}",
        "--hypothesis-profile=explore", f"--hypothesis-seed={seed}", "-p", "tests.support.late_threads", *arguments,
    ]  # fmt: skip
    failed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(("FAILED ", "ERROR ")):
                failed.append(line.rstrip())
    return process.returncode, failed


def main() -> int:
    """Run the rounds; 1 if anything failed in any of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.shake", description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="rounds")
    parser.add_argument("--spin", type=int, default=8, help="processes that keep the machine busy")
    parser.add_argument("--seed", type=int, help="the first round's; the next ones count up")
    given, arguments = parser.parse_known_args()
    first = secrets.randbits(31) if given.seed is None else given.seed
    bad: list[str] = []
    with busy(given.spin):
        for number in range(given.times):
            seed = first + number
            print(f"round {number + 1} of {given.times}, --randomly-seed={seed}", flush=True)
            code, failed = one_round(seed, arguments)
            if code != 0:
                bad += [f"--randomly-seed={seed}: {line}" for line in failed or [f"pytest ended with {code}"]]
    print(f"{given.times} rounds beside {given.spin} busy processes: {len(bad)} failures")
    for line in bad:
        print(line)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
