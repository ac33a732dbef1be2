"""Rows whose guidance ends early, through the real worker: whole, in regions, in tiles, and each as by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inpaint_ops.protocol import Bye, Done, End, Failed, Item
from tests.support.engine_parts import LEVELS
from tests.support.worker_talk import Talk, fork, job, picture, pixels

__all__ = ["fork"]


def spread(folder: Path, row: int, **options: Any) -> Item:
    """A picture with a mask of two far regions, or one large one for tiles."""
    item = picture(folder, row, (160, 160), **{"steps": 5, "strength": 1.0, "guidance_cutoff": 0.4} | options)
    mask = np.zeros((160, 160), np.uint8)
    if item.crop == "tiles":
        mask[8:152, 8:152] = 255
    else:
        mask[8:24, 8:24] = mask[130:150, 130:150] = 255
    Image.fromarray(mask).save(item.mask)
    return item


def painted(talk: Talk, folder: Path, rows: list[Item]) -> dict[int, Done]:
    talk.send(job(folder), *rows, End())
    talk.until(lambda: bool(talk.all(Bye)))
    assert not talk.all(Failed)
    return {event.row: event for event in talk.all(Done)}


def test_each_canvas_of_a_row_has_the_rows_cutoff_and_a_batch_changes_nothing(
    fork: Callable[[], Talk], tmp_path: Path
) -> None:
    crops = ("none", "none", "auto", "regions", "tiles")
    rows = [spread(tmp_path, number, crop=crop) for number, crop in enumerate(crops, 1)]
    rows.append(spread(tmp_path, 6, crop="none", guidance_cutoff=1.0))
    talk = fork()
    done = painted(talk, tmp_path, rows)
    assert {number: (one.steps, one.unguided_steps) for number, one in done.items()} == {
        **dict.fromkeys(range(1, 6), (5, 3)), 6: (5, 0),
    }  # fmt: skip
    assert len(done[4].regions) == 2 and len(done[5].tiles) > 1
    assert done[1].batch == done[2].batch != done[6].batch and done[1].batch.size > 1
    together = pixels(done[1].output)

    (bye,) = talk.all(Bye)
    (entry,) = [one for one in bye.ledger if one.name == "guidance_cutoff"]
    assert (entry.requested, entry.effective, entry.matches) == ("0.4", "0.4", True)

    alone = painted(fork(), tmp_path, [spread(tmp_path, 1, crop="none")])
    assert np.abs(pixels(alone[1].output).astype(int) - together).max() <= LEVELS
