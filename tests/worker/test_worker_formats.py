"""The formats that the real worker writes: by the job's settings, or as a row's source is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from inpaint_ops.protocol import Done, End, Failed
from tests.support.worker_talk import Talk, fork, job, picture

__all__ = ["fork"]


def test_an_avif_is_written_by_the_jobs_settings_and_looks_as_its_source_outside(
    fork: Callable[[], Talk], tmp_path: Path
) -> None:
    rows = [picture(tmp_path, row, (80, 64), format="avif", as_source=row == 2) for row in (1, 2)]
    with Image.open(rows[1].image) as image:
        image.convert("RGB").save(rows[1].image, "AVIF", quality=100, subsampling="4:4:4")
    talk = fork()
    talk.send(job(tmp_path, avif_quality=97, avif_chroma="422", thumbnails=True), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == 2)
    done = {event.row: event for event in talk.all(Done)}
    for row in rows:
        event = done[row.row]
        assert (event.format, event.media_type, event.extension) == ("avif", "image/avif", ".avif")
        assert any("avif is lossy (quality 97, colour at 4:2:2)" in one for one in event.conversions)
        with Image.open(row.image) as one, Image.open(event.output) as two, Image.open(row.mask) as three:
            before, after, mask = (np.asarray(each.convert("L")).astype(int) for each in (one, two, three))
        assert np.abs(before - after)[mask == 0].mean() < 3 < np.abs(before - after)[mask > 127].mean()
    assert any("an AVIF does not name its quality" in one for one in done[2].conversions)


def test_a_jpeg_xl_has_its_sources_pixels_outside_and_other_profiles_fail_before_painting(
    fork: Callable[[], Talk], tmp_path: Path
) -> None:
    plugin = pytest.importorskip("pillow_jxl")
    rows = [picture(tmp_path, row, (80, 64), format="jxl", as_source=row == 2) for row in (1, 2, 3)]
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for row, kind, options in ((rows[1], "JXL", {"lossless": True}), (rows[2], "PNG", {"icc_profile": lab})):
        with Image.open(row.image) as image:
            image.convert("RGB").save(row.image, kind, **options)
    talk = fork()
    talk.send(job(tmp_path, thumbnails=True), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == 3)
    (failed,) = talk.all(Failed)
    assert failed.row == 3 and "colour profile is not sRGB" in failed.error.message and failed.error.stage == "decode"
    done = {event.row: event for event in talk.all(Done)}
    assert plugin
    for row in rows[:2]:
        event = done[row.row]
        assert (event.format, event.media_type, event.extension) == ("jxl", "image/jxl", ".jxl")
        assert not any("lossy" in one for one in event.conversions)
        with Image.open(row.image) as one, Image.open(event.output) as two, Image.open(row.mask) as three:
            before, after = np.asarray(one), np.asarray(two)
            mask = np.asarray(three.convert("L"))
        assert np.array_equal(before[mask == 0], after[mask == 0]) and not np.array_equal(before, after)


def test_a_jpeg_is_written_as_its_source_is_where_that_is_asked(fork: Callable[[], Talk], tmp_path: Path) -> None:
    rows = [picture(tmp_path, row, (80, 64), format="jpeg", as_source=row < 3) for row in (1, 2, 3)]
    tables = [list(range(1, 65)), list(range(65, 129))]
    with Image.open(rows[0].image) as image:
        image.save(rows[0].image, "JPEG", qtables=tables, subsampling=2)
    talk = fork()
    talk.send(job(tmp_path, jpeg_quality=40), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == 3)
    done = {event.row: event for event in talk.all(Done)}
    with Image.open(done[1].output) as like:
        assert [list(like.quantization[at]) for at in (0, 1)] == tables
    assert any("the source's quantization tables, colour at 4:2:0" in one for one in done[1].conversions)
    assert "format source: png is not what its name says, jpeg was written" in done[2].conversions
    assert any("quality 40" in one for one in done[2].conversions) and not [
        one for one in done[3].conversions if "format source" in one
    ]
