"""A planned run of a few rows with a scripted worker, and storages that fail at a chosen point."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inpaint_ops.config import Settings, SideProduct
from inpaint_ops.errors import (
    StorageUnavailableError,
)
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Record, WorkerReport
from inpaint_ops.runs import Workspace, prepare
from inpaint_ops.runs.gallery import Gallery
from inpaint_ops.storage import Storage
from inpaint_ops.supervisor import ShardRun
from tests.support.scripted_worker import whole_lines
from tests.support.waiting import PATIENCE

SCRIPT = Path(__file__).with_name("scripted_worker.py")
STALL = 4.0
"""Seconds of silence after which a worker that hangs is killed, for `hung_after`."""


@pytest.fixture
def no_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures: rows of a `Bench` have none, and two processes would be started to find that out."""
    monkeypatch.setattr("inpaint_ops.runs.finishing.make_gallery", lambda *_, **__: Gallery((), ()))


class Bench:
    """A planned run in a folder, and a scripted worker for it."""

    def __init__(
        self,
        tmp_path: Path,
        prompts: list[str],
        *,
        model: str = "scripted",
        shard_rows: int | None = None,
        variants: int = 1,
        store: str = "",
        s3_client: Callable[[], Any] | None = None,
        sources: list[str] | None = None,
        names: str | None = None,
        side_products: tuple[SideProduct, ...] = (),
        **settings: Any,
    ) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        self.tmp_path = tmp_path
        self.journal = tmp_path / "journal"
        self.prompts = prompts
        sources = sources or [f"{index}.png" for index in range(len(prompts))]
        for index, source in enumerate(sources):
            (tmp_path / "in" / source).parent.mkdir(parents=True, exist_ok=True)
            _write(tmp_path / "in" / source, f"pixels {index}")
        lines = [{"image": name, "mask": name, "prompt": text} for name, text in zip(sources, prompts, strict=True)]
        manifest = tmp_path / "in" / "m.jsonl"
        _write(manifest, "".join(json.dumps(line) + "\n" for line in lines))
        self.settings = Settings(**{"scratch": tmp_path / "scratch", "prefetch": 4, "patience": 0, **settings})
        self.workspace = Workspace.open(
            self.settings,
            store=store or str(tmp_path / "out"),
            also_readable=[str(tmp_path / "in")],
            s3_client=s3_client,
        )
        self.job = JobOptions(
            model=model, shard_rows=shard_rows, names=names, variants=variants, side_products=side_products
        )
        self.plan = prepare(self.workspace, str(manifest), "run", self.job)
        self.layout = self.workspace.layout("run")

    def command(self, batch: int = 1) -> list[str]:
        """How the scripted worker is started."""
        return [sys.executable, str(SCRIPT), "--batch", str(batch), "--journal", str(self.journal)]

    def shard_run(
        self, *, batch: int = 1, storage: Storage | None = None, hung_after: float | None = None, **options: Any
    ) -> ShardRun:
        """`hung_after`: seconds of silence after which a worker is killed that hangs; one that is only late is not."""
        rows = self.workspace.shard_rows(self.plan, "00000")
        settings: Any = self.settings if hung_after is None else _ImpatientWithHanging(self, hung_after)
        return ShardRun(
            storage or self.workspace.storage,
            self.layout,
            "00000",
            rows,
            self.job,
            settings,
            worker_command=self.command(batch),
            **options,
        )

    def records(self) -> dict[int, Record]:
        found = [
            Record.model_validate_json(self.workspace.storage.get(info.location))
            for info in self.workspace.storage.list(self.layout.records)
        ]
        assert len({record.row for record in found}) == len(found), "one record per row"
        return {record.row: record for record in found}

    def statuses(self) -> list[str]:
        return [record.status for _, record in sorted(self.records().items())]

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(self.journal)] if self.journal.exists() else []

    def painted(self) -> list[int]:
        return [note["row"] for note in self.notes() if "row" in note]

    def painting(self) -> list[int]:
        return [note["begun"] for note in self.notes() if "begun" in note]

    def is_hanging(self) -> bool:
        """Whether the last that a worker has noted is that it began a row that hangs."""
        last = self.notes()[-1:]
        return [self.prompts[note["begun"] - 1] for note in last if "begun" in note] == ["hang"]

    def workers(self) -> list[WorkerReport]:
        return [
            WorkerReport.model_validate_json(self.workspace.storage.get(info.location))
            for info in self.workspace.storage.list(self.layout.workers)
        ]

    def assert_nothing_left(self) -> None:
        assert not list(self.settings.scratch.glob("*")), "no scratch is left"
        for note in self.notes():
            with pytest.raises(ProcessLookupError):
                os.kill(note["pid"], 0)


def _write(path: Path, text: str) -> None:
    """A file that holds this already is let alone: another process may be reading it."""
    if not path.exists() or path.read_bytes() != text.encode():
        path.write_text(text)


class _ImpatientWithHanging:
    """The settings of a bench, with a `stall_timeout` for a worker that hangs."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        self._bench, self._seconds = bench, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bench.settings, name)

    @property
    def stall_timeout(self) -> float:
        return self._seconds if self._bench.is_hanging() else PATIENCE


class Flaky(Storage):
    """Storage that cannot be reached for one key."""

    broken = True

    def download(self, where: Any, path: Path, *, max_bytes: int | None = None) -> Any:
        if self.broken and str(where).endswith("1.png"):
            raise StorageUnavailableError("the store does not answer")
        return super().download(where, path, max_bytes=max_bytes)


class Deadly(Storage):
    """Storage whose process is killed at a barrier of the third row's commit."""

    barrier = ""

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        kind = "image" if "/images/2." in str(where) else "record" if str(where).endswith("0000003.json") else ""
        if kind and self.barrier == f"before-{kind}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = super().put(where, data, **options)
        if kind and self.barrier == f"after-{kind}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
