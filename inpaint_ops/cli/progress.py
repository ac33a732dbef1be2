"""The progress bars of `inpaint-ops run`: one for all rows, and one per device where several paint."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from tqdm import tqdm

from inpaint_ops.device import visible_devices
from inpaint_ops.planning import Shard
from inpaint_ops.supervisor import Progress

Show = Callable[[int, Progress], None]


@contextlib.contextmanager
def progress_bars(rows: int, ended: int, shards: Sequence[Shard], devices: int, *, hidden: bool) -> Iterator[Show]:
    """Bars on standard error while the block runs, if that is a terminal and they are not `hidden`.

    `ended` of all `rows` have a record already; `shards` are those that are still painted. Yields what takes a device's
    number, from 0, and how far its shard is; it may be called in any thread.
    """
    hidden = hidden or not sys.stderr.isatty()
    bars = Bars(rows, ended, shards, min(devices, len(shards)), hidden=hidden)
    try:
        yield bars.show
    finally:
        bars.close()


class Bars:
    """How many rows of all shards have ended, and, of several devices, what each is doing."""

    def __init__(self, rows: int, ended: int, shards: Sequence[Shard], devices: int, *, hidden: bool) -> None:
        self._lock = threading.Lock()
        self._before = ended
        self._of: dict[str, tuple[int, int]] = {}
        """Done and failed rows of each shard, as far as it is."""
        self._all = tqdm(total=rows, unit="row", disable=hidden, initial=ended, position=0)
        several = devices > 1
        self._each: list[tqdm[Any]] = [
            tqdm(unit="row", disable=hidden, position=number + 1, leave=False, desc=f"{number + 1}", total=0)
            for number in range(devices if several else 0)
        ]

    def show(self, device: int, progress: Progress) -> None:
        """Show how far a shard is."""
        with self._lock:
            self._of[progress.shard] = progress.done, progress.failed
            done, failed = (sum(one) for one in zip(*self._of.values(), strict=True))
            self._all.n = self._before + done + failed
            notes = [f"{failed} failed"] if failed else []
            if not self._each:
                notes.insert(0, progress.phase)
            self._all.set_postfix_str(", ".join(notes))
            if self._each:
                bar = self._each[device]
                bar.set_description_str(
                    f"{device + 1}, {_label(progress.device)}" if progress.device else f"{device + 1}"
                )
                bar.total, bar.n = progress.rows, progress.done + progress.failed
                bar.set_postfix_str(f"shard {progress.shard}, {progress.phase}")

    def close(self) -> None:
        """Leave the bar of all rows on the terminal, as it is now."""
        for bar in (*self._each, self._all):
            bar.close()


@cache
def _label(device: str) -> str:
    """A GPU by its number, as nvidia-smi has it; anything else as it calls itself, cut to fit."""
    return next((f"GPU {gpu.index}" for gpu in visible_devices() if gpu.uuid == device), device[:20])
