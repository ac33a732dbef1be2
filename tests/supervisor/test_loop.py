"""The loop of a shard waits for messages alone: what takes time is done in other threads, and none is left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from inpaint_ops.storage import Storage
from tests.support.bench import Bench


class Watched(Storage):
    """Storage that notes what each thread asks of it."""

    asked: list[tuple[bool, str, str]]
    """Whether the main thread asked, what, and where."""

    def _note(self, what: str, where: Any) -> None:
        self.asked.append((threading.current_thread() is threading.main_thread(), what, str(where)))

    def get(self, where: Any, **options: Any) -> Any:
        self._note("get", where)
        return super().get(where, **options)

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        self._note("put", where)
        return super().put(where, data, **options)

    def download(self, where: Any, path: Path, **options: Any) -> Any:
        self._note("download", where)
        return super().download(where, path, **options)

    def list(self, where: Any, **options: Any) -> Any:
        self._note("list", where)
        return super().list(where, **options)

    def stat(self, where: Any, **options: Any) -> Any:
        self._note("stat", where)
        return super().stat(where, **options)


def test_the_loop_asks_nothing_of_the_store_itself(tmp_path: Path) -> None:
    """Downloads, records, a listing, progress and the reports of three workers: all in other threads."""
    bench = Bench(tmp_path, ["ok", "fail", "SIGKILL", "ok", "ok"], progress_interval=0.05)
    storage = Watched(readable=[str(tmp_path / "in")], writable=[bench.workspace.store])
    storage.asked = []
    result = bench.shard_run(storage=storage).run()
    assert (result.done, result.failed, result.workers) == (3, 2, 3)
    first = next(at for at, (_, what, _) in enumerate(storage.asked) if what == "download")
    from_main = [f"{what} {where.rsplit('/', 2)[-2]}" for is_main, what, where in storage.asked[first:] if is_main]
    faults = [what for what in from_main if what == "put faults"]  # none where a thread has stored them by then
    assert from_main == ["put progress", *faults, "put compacted", "put compacted"], (
        "how it ended, once the loop is over"
    )
    kinds = {where.rsplit("/", 2)[-2] for is_main, _, where in storage.asked if not is_main}
    assert {"in", "images", "00000", "workers", "progress"} <= kinds, "the other threads did it"


def test_a_worker_that_died_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    Bench(tmp_path, ["ok", "SIGKILL", "ok"]).shard_run().run()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive(), thread.name
