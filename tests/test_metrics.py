"""Measurements of a shard: what they count, what their labels may say, and that they cost a run nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import StorageUnavailableError
from inpaint_ops.metrics import IMAGES, PEAK_MEMORY, STAGE_DURATION, Measurement, measure, measured_shard
from inpaint_ops.records import STAGES, Batch, Memory, Record, Timings
from inpaint_ops.runs import Workspace
from tests.support.simulated_run import record, worker_info


def painted(row: int, *, batch: str, denoise: float, peak: int = 0, host: int = 1) -> Record:
    return record(
        row,
        batch=Batch(id=batch, size=2),
        timings=Timings(download=0.5, denoise=denoise),
        memory=Memory(peak_allocated=peak, peak_reserved=peak),
        worker=worker_info(host).model_copy(update={"host": f"gpu-{host}"}),
    )


def of(found: list[Measurement], name: str) -> list[tuple[float, dict[str, str]]]:
    return [(one.value, one.labels) for one in found if one.name == name]


def test_images_are_counted_by_status() -> None:
    found = measure([record(1), record(2), record(3, "failed"), record(4, "rejected")])
    assert of(found, IMAGES) == [(2, {"status": "done"}), (1, {"status": "failed"}), (1, {"status": "rejected"})]


def test_a_batchs_stages_are_measured_once_and_a_rows_own_for_each_row() -> None:
    found = measure([
        painted(1, batch="a", denoise=4.0),
        painted(2, batch="a", denoise=4.0),
        painted(3, batch="b", denoise=3.0),
    ])  # fmt: skip
    stages = of(found, STAGE_DURATION)
    assert [value for value, labels in stages if labels == {"stage": "denoise"}] == [4.0, 3.0]
    assert [value for value, labels in stages if labels == {"stage": "download"}] == [0.5] * 3


def test_the_peak_is_the_highest_of_each_machine() -> None:
    rows = [painted(1, batch="a", denoise=1, peak=5), painted(2, batch="b", denoise=1, peak=9)]
    found = measure([*rows, painted(3, batch="c", denoise=1, peak=7, host=2)])
    assert of(found, PEAK_MEMORY) == [(9, {"host": "gpu-1"}), (7, {"host": "gpu-2"})]


def test_no_label_names_an_image() -> None:
    found = measure(painted(row, batch=str(row // 2), denoise=1) for row in range(1, 200))
    for one in found:
        assert set(one.labels) <= {"status", "stage", "host"}
        assert one.labels.get("stage", "denoise") in STAGES
    assert len({tuple(one.labels.items()) for one in found}) <= 4


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(Settings(), store=str(tmp_path))


def put(workspace: Workspace, row: int) -> None:
    workspace.storage.put(workspace.layout("night").record("00000", row), record(row).model_dump_json().encode())


def test_a_try_counts_its_own_rows_though_it_fails(workspace: Workspace) -> None:
    put(workspace, 1)
    emitted: list[Measurement] = []
    with pytest.raises(RuntimeError), measured_shard(workspace, "night", "00000", emitted.append):
        put(workspace, 2)
        put(workspace, 3)
        raise RuntimeError("the worker died")
    assert of(emitted, IMAGES) == [(2, {"status": "done"})]


def test_a_store_that_does_not_answer_costs_the_numbers_and_nothing_else(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise StorageUnavailableError("nobody there")

    emitted: list[Measurement] = []
    with measured_shard(workspace, "night", "00000", emitted.append):
        put(workspace, 1)
        monkeypatch.setattr(workspace.storage, "list", refuse)
    assert emitted == []
