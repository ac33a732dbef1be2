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
from inpaint_ops.errors import one_line
from inpaint_ops.planning import Shard
from inpaint_ops.records import duration_in_words
from inpaint_ops.supervisor import Progress

Show = Callable[[int, Progress], None]

_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} rows [{elapsed}{postfix}]"
"""Without tqdm's own rate and forecast: it counts the time of loading, too."""

_PHASE_CHARS = 30
"""The longest text of a phase that stands in a bar; a longer one gets a line of its own, once."""


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
        self._rows = rows
        self._before = ended
        self._hidden = hidden
        self._of: dict[str, tuple[int, int]] = {}
        """Done and failed rows of each shard, as far as it is."""
        self._rates: dict[int, float] = {}
        """Images per second of each device, once its worker has painted one."""
        self._said: dict[int, str] = {}
        """The last text of a phase, by device, that got a line of its own."""
        options: dict[str, Any] = {"unit": "row", "disable": hidden, "bar_format": _FORMAT, "dynamic_ncols": True}
        self._all = tqdm(total=rows, initial=ended, position=0, **options)
        several = devices > 1
        self._each: list[tqdm[Any]] = [
            tqdm(position=number + 1, leave=False, desc=f"{number + 1}", total=0, **options)
            for number in range(devices if several else 0)
        ]

    def show(self, device: int, progress: Progress) -> None:
        """Show how far a shard is."""
        with self._lock:
            self._of[progress.shard] = progress.done, progress.failed
            self._rates[device] = progress.images_per_second or 0.0
            done, failed = (sum(one) for one in zip(*self._of.values(), strict=True))
            self._all.n = self._before + done + failed
            notes = [self._pace(), f"{failed} failed" if failed else ""]
            phase = self._short(device, one_line(progress.phase))
            if not self._each:
                notes.insert(0, phase)
            self._all.set_postfix_str(", ".join(filter(None, notes)))
            if self._each:
                bar = self._each[device]
                bar.set_description_str(
                    f"{device + 1}, {_label(progress.device)}" if progress.device else f"{device + 1}"
                )
                bar.total, bar.n = progress.rows, progress.done + progress.failed
                bar.set_postfix_str(f"shard {progress.shard}, {phase}")

    def close(self) -> None:
        """Leave the bar of all rows on the terminal, as it is now."""
        for bar in (*self._each, self._all):
            bar.close()

    def _short(self, device: int, phase: str) -> str:
        """A phase as it fits into a bar; the whole text of a long one goes above the bars."""
        if len(phase) <= _PHASE_CHARS:
            return phase
        if phase != self._said.get(device) and not self._hidden:
            self._said[device] = phase
            self._all.write(f"inpaint-ops: {phase}", file=sys.stderr)
        return phase.partition(":")[0][:_PHASE_CHARS]

    def _pace(self) -> str:
        """Images per second and the time left; nothing before the first image, when nobody can know."""
        rate = sum(self._rates.values())
        if not rate:
            return ""
        left = duration_in_words(round((self._rows - int(self._all.n)) / rate))
        return f"{rate:.2f} images/s, {left} left"


@cache
def _label(device: str) -> str:
    """A GPU by its number, as nvidia-smi has it; anything else as it calls itself, cut to fit."""
    return next((f"GPU {gpu.index}" for gpu in visible_devices() if gpu.uuid == device), device[:20])
