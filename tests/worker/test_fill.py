"""Rows with a fill, through the real worker: what changes, what does not, and what is said where it has no effect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from inpaint_ops.protocol import Done, End, Failed, Item, Warn
from inpaint_ops.worker.work_loop import WorkLoop
from tests.support.waiting import PATIENCE
from tests.support.worker_talk import Talk, fork, job, picture, pixels

__all__ = ["fork"]

FILLS = ("original", "noise", "mean", "telea")


def alike(folder: Path, row: int, **options: Any) -> Item:
    """Rows with one picture, one soft mask and one seed."""
    item = picture(folder, row, (64, 64), **{"strength": 0.5, "steps": 4} | options).model_copy(update={"seed": 5})
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(item.image)
    mask = np.zeros((64, 64), np.uint8)
    mask[12:52, 12:52] = 90
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(item.mask)
    return item


def test_a_fill_changes_the_painted_patch_and_nothing_beside_it(fork: Callable[[], Talk], tmp_path: Path) -> None:
    rows = [alike(tmp_path, number, fill=fill) for number, fill in enumerate(FILLS, 1)]
    rows += [alike(tmp_path, 5), alike(tmp_path, 6, fill="noise", strength=1.0), alike(tmp_path, 7, strength=1.0)]
    deep = alike(tmp_path, 8, fill="telea", format="tiff")
    tifffile.imwrite(deep.image, np.random.default_rng(2).integers(0, 2**16, (64, 64, 4), np.uint16), photometric="rgb",
                     extrasamples=["unassalpha"])  # fmt: skip
    rows.append(deep)
    talk = fork()
    talk.send(job(tmp_path), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == len(rows))
    assert not talk.all(Failed)
    done = {event.row: event for event in talk.all(Done)}
    after = {row.row: pixels(done[row.row].output) for row in rows[:-1]}
    for row in rows[:-1]:
        before, mask = pixels(row.image), pixels(row.mask)
        assert np.array_equal(before[mask == 0], after[row.row][mask == 0])
    patches = [after[number][16:48, 16:48].astype(int) for number in (1, 2, 3, 4)]
    assert all(np.abs(one - other).max() > 1 for at, one in enumerate(patches) for other in patches[:at])
    assert np.abs(patches[0] - after[5][16:48, 16:48]).max() <= 1, "original is what a row without a fill has"

    kept = pixels(rows[0].mask) == 0
    read, painted = tifffile.imread(deep.image), tifffile.imread(done[8].output)
    assert painted.dtype == np.uint16 and np.array_equal(read[kept], painted[kept])

    [sentence] = [one for one in done[6].conversions if "fill" in one]
    assert sentence.startswith("fill noise had no effect: at a strength of 1")
    assert not any("fill" in one for number in (1, 2, 3, 4, 5, 7) for one in done[number].conversions)
    assert [event.message for event in talk.all(Warn) if "fill" in event.message] == [
        sentence.replace("effect:", "effect on some rows:")
    ]
    assert np.abs(after[6].astype(int) - after[7]).max() <= 1


def test_many_rows_without_effect_are_one_warning(fork: Callable[[], Talk], tmp_path: Path) -> None:
    rows = [alike(tmp_path, number, fill="mean", strength=1.0, steps=1) for number in range(1, 7)]
    talk = fork()
    talk.send(job(tmp_path), *rows, End())
    talk.until(lambda: len(talk.all(Done)) == len(rows))
    assert len([event for event in talk.all(Warn) if "fill" in event.message]) == 1


def test_threads_that_warn_of_the_same_at_once_warn_once() -> None:
    barrier = threading.Barrier(2)

    class LookedUpAtOnce(str):
        def __hash__(self) -> int:
            barrier.wait(PATIENCE)
            return super().__hash__()

    loop, sent = WorkLoop.__new__(WorkLoop), []
    loop._warned, loop._send = {}, sent.append
    message = LookedUpAtOnce("fill mean had no effect")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(loop._warn_once, [message, message]))
    assert [event.message for event in sent] == ["fill mean had no effect"]
