"""An author of images has the report take all memory or time, so that its run never gets a verdict."""

from __future__ import annotations

import dataclasses
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.images import reading
from inpaint_ops.previews import Helper, Job, Limits, Preview
from inpaint_ops.records import Output, Record
from inpaint_ops.report import render_page
from inpaint_ops.runs import Workspace
from inpaint_ops.runs import gallery as galleries
from inpaint_ops.runs.gallery import make_gallery
from tests.attacks.costly_files import black_png, padded_bmp
from tests.support.pictures import file_of, mask_file, smooth
from tests.support.synthetic_run import put_finished_run, record


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))


def row_of(workspace: Workspace, row: int, source: bytes) -> Record:
    put = workspace.storage.put
    mask = put(workspace.store.join(f"{row}.mask.png"), mask_file(60, 80, (10, 10, 50, 50))).location
    image = put(workspace.store.join(f"{row}.png"), source).location
    result = put(workspace.store.join(f"{row}.out.png"), file_of(smooth(60, 80))).location
    output = Output(uri=result.uri, sha256="0", bytes=1, width=80, height=60, format="png")
    return record(row).model_copy(update={"source": image.uri, "mask": mask.uri, "output": output})


def patient(limits: Limits | None = None) -> Helper:
    return Helper(dataclasses.replace(limits or Limits(), wall_seconds=300))


def test_a_row_without_a_picture_is_left_out_and_named(
    workspace: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hostile photo costs the report its memory, its time or its gallery; and nothing is decoded by the report."""

    def nothing(*_: Any, **__: Any) -> Any:
        raise AssertionError("the report decoded a picture itself")

    monkeypatch.setattr(reading, "opened", nothing)
    rows = [
        row_of(workspace, 1, file_of(smooth(60, 80))),
        row_of(workspace, 2, padded_bmp()),
        row_of(workspace, 3, black_png(2000, 2000, 16, 6)),
        row_of(workspace, 4, b"<script>alert(1)</script>"),
        record(5),  # its photo is gone
    ]
    tight = Limits(memory_bytes=24 * 2**20)
    with caplog.at_level(logging.WARNING):
        gallery = make_gallery(workspace.storage, workspace.settings, rows, helper=lambda: patient(tight))
    assert [item.record.row for item in gallery.items] == [1]
    assert [line.split(":")[:2] for line in gallery.left_out] == [[f"row {row}", " source"] for row in (2, 3, 4, 5)]
    assert "run-length encoded BMP" in gallery.left_out[0]
    for line in gallery.left_out:
        assert f"not in the report's gallery: {line}" in caplog.text
    summary, records = put_finished_run(workspace, "night", 5)
    page = render_page(summary, records, gallery.items, without_pictures=gallery.left_out)
    assert "row 2: source: the image (bmp) is a run-length encoded BMP" in page
    assert "<script>alert(1)" not in page
    assert "Left out, because" not in render_page(summary, records, gallery.items)


def test_a_report_is_made_where_no_process_can_be_started(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has no memory, or no process, left for small pictures."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    gallery = make_gallery(workspace.storage, workspace.settings, [row_of(workspace, 1, file_of(smooth(60, 80)))])
    assert gallery.items == ()
    assert "row 1: source: no process for small pictures could be started" in gallery.left_out[0]


@pytest.mark.parametrize("spent", ["cpu", "wall"])
def test_the_pictures_of_a_report_have_a_budget(workspace: Workspace, spent: str) -> None:
    """24 photos that each take as long as they may hold the report for an hour."""
    now, made, lock = [0.0], [], threading.Lock()

    class Costly(Helper):
        def make(self, job: Job, files: Any) -> Preview:
            with lock:
                made.append(job)
                now[0] += galleries.WALL_SECONDS / 3 if spent == "wall" else 0
            cost = galleries.CPU_SECONDS / 3 if spent == "cpu" else 0.0
            return dataclasses.replace(super().make(job, files), cpu=cost)

    rows = [row_of(workspace, row, file_of(smooth(60, 80))) for row in range(1, 25)]
    gallery = make_gallery(
        workspace.storage, workspace.settings, rows, helper=lambda: Costly(Limits(wall_seconds=300)),
        clock=lambda: now[0],
    )  # fmt: skip
    assert len(made) <= 4, "three and what the other helper had begun"
    assert len(gallery.items) + len(gallery.left_out) == len(rows)
    assert len(gallery.left_out) >= 23
    assert all("the time for the report's pictures is spent" in line for line in gallery.left_out)
