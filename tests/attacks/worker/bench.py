"""A planned run of three rows, the middle one evil, and a hostile worker for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from inpaint_ops.supervisor import ShardRun
from tests.attacks.worker.hostile import png
from tests.support.bench import Bench

SCRIPT = Path(__file__).with_name("hostile.py")
PROMPTS = ["ok", "evil", "ok"]
SECRET = png(2, 1, 0xCAFE)
"""A picture that would pass for an output, and belongs to nobody's row."""


class Attacked(Bench):
    """Sources are pictures of 2x1 pixels, so that an output's size can be compared."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        super().__init__(tmp_path, PROMPTS, **settings)
        for index in range(len(PROMPTS)):
            (tmp_path / "in" / f"{index}.png").write_bytes(png(2, 1, 100 + index))
        self.loot = tmp_path / "loot"
        self.loot.mkdir(exist_ok=True)
        (self.loot / "secret.png").write_bytes(SECRET)

    def attack(self, name: str, **options: Any) -> ShardRun:
        """A try of the shard whose workers do `name` once they have the evil row."""
        run = self.shard_run(**options)
        run.worker_command = [sys.executable, str(SCRIPT), name, str(self.loot)]
        return run

    def stored(self) -> dict[str, bytes]:
        """Every object of the run, by its key below the store."""
        root = self.tmp_path / "out"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def assert_only_the_evil_row_failed(self, *reasons: str) -> None:
        assert self.statuses() == ["done", "failed", "done"]
        error = self.records()[2].error
        assert error is not None
        assert (error.type, error.permanent) == ("WorkerProtocolError", True)
        assert any(reason in error.message for reason in reasons), error.message
        images = [name for name in self.stored() if "/images/" in name]
        assert sorted(Path(name).name for name in images) == ["0.png", "2.png"]
        assert not [name for name, data in self.stored().items() if SECRET in data]
        self.assert_nothing_left()
