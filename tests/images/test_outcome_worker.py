"""The outcome of rows through the real worker process, and the settings on their way to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inpaint_ops import images
from inpaint_ops.config import load_settings
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import job_options, planned
from inpaint_ops.protocol import Done, End, Failed, Item
from inpaint_ops.supervisor.commands import item_command, job_command
from inpaint_ops.supervisor.messages import RowFiles
from inpaint_ops.variants import Unit
from inpaint_ops.worker.finishing import avif_options, jpeg_options
from tests.support.worker_talk import Talk, fork, job, picture, pixels

__all__ = ["fork"]


def masked(item: Item, mask: np.ndarray) -> Item:
    Image.fromarray(mask).save(item.mask)
    return item


def test_rows_that_hardly_change_fail_and_transparent_ones_become_seen(
    fork: Callable[[], Talk],
    tmp_path: Path,
) -> None:
    square = np.zeros((64, 64), np.uint8)
    square[16:48, 16:48] = 1
    rows = [
        masked(picture(tmp_path, 1, (64, 64)), square),  # counts 0 and 1
        masked(picture(tmp_path, 2, (64, 64), mask_threshold=0), square),  # a blend of 1/255, on purpose
        masked(picture(tmp_path, 3, (64, 64)), square),
        masked(picture(tmp_path, 4, (128, 128)), square),  # of half the size
        masked(picture(tmp_path, 5, (64, 64), mask_channel="green"), np.dstack([square * 0, square, square * 255])),
    ]
    cutout = np.dstack((pixels(rows[2].image), np.zeros((64, 64), np.uint8)))
    Image.fromarray(cutout).save(rows[2].image)
    talk = fork()
    talk.send(job(tmp_path, unchanged_threshold=2.0, mask_resize="nearest"), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == len(rows))

    (failed,) = talk.all(Failed)
    assert (failed.row, failed.error.type, failed.error.permanent) == (2, "UnchangedError", True)
    assert (
        failed.change is not None and 0 < failed.change < 2 and f"by {failed.change:.2f} of 255" in failed.error.message
    )
    assert not Path(rows[1].output).exists()
    done = {event.row: event for event in talk.all(Done)}
    for row in (1, 3, 5):
        before, after = pixels(rows[row - 1].image), pixels(done[row].output)
        assert np.array_equal(after[square == 0], before[square == 0]) and done[row].change > 10
        assert any("two levels are 0 and 1" in sentence for sentence in done[row].conversions)
        found = done[row].measures
        assert found is not None and found == images.measure(after, square * 255)
    assert (pixels(done[3].output)[square > 0][:, 3] == 255).all()
    assert any("alpha rose" in sentence for sentence in done[3].conversions)
    assert any("scaled from 64x64 to the image's 128x128" in sentence for sentence in done[4].conversions)


def test_a_patch_is_joined_as_its_row_asks(fork: Callable[[], Talk], tmp_path: Path) -> None:
    wishes: list[dict[str, Any]] = [
        {}, {"mask_blur": 2.0, "blend": "feather"}, {"blend": "poisson", "match": "mean"},
        {"blend": "auto", "mask_blur": 3.0}, {"match": "histogram", "grain": "match"},
    ]  # fmt: skip
    rows = [picture(tmp_path, number, (96, 96), **wish) for number, wish in enumerate(wishes, 1)]
    talk = fork()
    talk.send(job(tmp_path), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == len(rows))
    done = {event.row: event for event in talk.all(Done)}
    assert not talk.all(Failed)
    for row in rows:
        before, after, mask = pixels(row.image), pixels(done[row.row].output), pixels(row.mask)
        assert np.array_equal(before[mask == 0], after[mask == 0])
    how = [done[row.row].joining for row in rows]
    assert all(how) and [one.blend for one in how if one][:3] == ["hard", "feather", "poisson"]
    assert how[1] and how[1].feather == 2.0
    assert how[2] and how[2].shift and len(how[2].shift) == 3 and how[2].match == "mean"
    assert how[3] and set(how[3].seams) <= {"hard", "poisson", "feather"} and how[3].seams
    assert how[4] and how[4].grain_added is not None and how[4].match == "histogram"


def test_settings_and_fields_reach_the_worker(tmp_path: Path) -> None:
    settings = load_settings(
        alpha="keep", unchanged_threshold=0.5, mask_resize="nearest",
        jpeg_quality=80, jpeg_chroma="420", jpeg_progressive=True,
        avif_quality=70, avif_chroma="422",
    )  # fmt: skip
    options = job_options(settings)
    row = AcceptedRow(
        row=1, id="a", image="s3://b/a", mask="s3://b/m", prompt="x", mask_channel="red", mask_threshold=7
    )  # fmt: skip
    state = RowFiles(Unit(planned(row, options)), tmp_path)
    sent = job_command(options, settings, [state], tmp_path)
    assert (sent.jpeg_quality, sent.jpeg_chroma, sent.jpeg_progressive) == (80, "420", True)
    assert avif_options(sent) == images.AvifOptions(70, "422")
    assert jpeg_options(sent) == images.JpegOptions(80, "420", True)
    assert (sent.alpha, sent.unchanged_threshold, sent.mask_resize) == ("keep", 0.5, "nearest")
    item = item_command(state)
    assert (item.mask_channel, item.mask_threshold) == ("red", 7)
