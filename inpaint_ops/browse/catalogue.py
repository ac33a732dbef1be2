"""All runs of a store, newest first: found by one listing, read once each, and kept between views and restarts."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from inpaint_ops.browse.kept import KeptLines
from inpaint_ops.browse.run import RunView
from inpaint_ops.browse.sources import Throttle
from inpaint_ops.browse.state import RunPhase
from inpaint_ops.errors import ConfigError, DamagedObjectError, RunConflictError, one_line
from inpaint_ops.layout import check_run_name
from inpaint_ops.records import Amount, Bytes, Count, Model, Moment, Refusal, now
from inpaint_ops.runs import Workspace, read_refusal
from inpaint_ops.storage.stored import parse_model

log = logging.getLogger(__name__)

LIST_SECONDS = 5.0
"""The shortest time between two listings of the folder of runs."""

LIVE_SECONDS = 3.0
"""The shortest time between two reads of an unfinished run; a finished one, while shown: `CHECK_SECONDS`."""

CHECK_SECONDS = 30.0
ABANDONED_AFTER = timedelta(days=2)
"""A run that was planned longer ago and is not running is read only while it is shown."""

MAX_RUNS = 100_000
"""The most folders of runs that are read."""

CACHE_BYTES = 64 * 2**20
"""The most bytes that are read of the file of finished runs: about 60,000 lines."""

_KEPT_AS = 2
"""Goes into the name of that file: lines of an older version lack what trends are made of."""
_LINE_BYTES = 64 * 2**10
_TEXT_CHARS = 300
_PROBLEM_CHARS = 500
_WAIT_SECONDS = 2.0
"""How long a page waits for runs that are being read."""
_PATIENCE_SECONDS = 20.0
"""How long it waits for the first of them."""
_READERS = 16

Order = Literal["created_at", "run", "rows", "failed", "images_per_second", "peak_memory", "seconds", "state"]


class RunEntry(Model):
    """One line of the list of runs."""

    run: str
    manifest: str = ""
    model: str = ""
    created_at: Moment | None = None
    state: RunPhase
    verdict: Literal["", "VALID", "INVALID"] = ""
    rows: Count = 0
    done: Count = 0
    failed: Count = 0
    rejected: Count = 0
    images_per_second: Amount | None = None
    seconds: Amount | None = None
    seconds_left: Amount | None = None
    device: str = ""
    peak_memory: Bytes | None = None
    device_memory: Bytes | None = None
    stalled: tuple[str, ...] = ()
    problem: str = ""
    project: str = ""
    card: str = ""
    images: Count = Field(default=0, description="Of the done rows: each variant of a row is one.")
    flagged: Count = 0
    gpu_seconds: Amount | None = None
    cost: Amount | None = None
    finished_at: Moment | None = None
    etag: str = Field(default="", description="The ETag of the summary that this was read from.")

    @property
    def ended(self) -> int:
        """Rows that have a record."""
        return self.done + self.failed + self.rejected


class RunQuery(Model):
    """Which runs, and in which order."""

    text: str = ""
    state: Literal["", "going", "finished", "refused"] = ""
    verdict: Literal["", "VALID", "INVALID"] = ""
    order: Order = "created_at"
    descending: bool = True


class RunPage(Model):
    """One page of the runs that a query found. `unread` runs have not been read yet and may appear later."""

    entries: tuple[RunEntry, ...]
    total: int
    page: int
    pages: int
    unread: int


def entry_of(view: RunView) -> RunEntry:
    """A run in one line."""
    state, summary, plan = view.state, view.summary if view.is_finished else None, view.plan
    return RunEntry(
        run=view.run,
        manifest=plan.manifest[:_TEXT_CHARS],
        model=plan.job.model[:_TEXT_CHARS],
        created_at=plan.created_at,
        state=state.state,
        verdict=summary.verdict if summary else "",
        rows=state.rows,
        done=state.done,
        failed=state.failed,
        rejected=state.rejected,
        images_per_second=state.images_per_second,
        seconds=summary.seconds if summary else None,
        seconds_left=state.seconds_left,
        device=state.device[:_TEXT_CHARS],
        peak_memory=summary.peak_memory.peak_reserved if summary and summary.peak_memory else None,
        device_memory=max((device.total_memory for device in summary.devices), default=0) or None if summary else None,
        stalled=state.stalled,
        project=plan.job.project or "",
        card=summary.devices[0].name[:_TEXT_CHARS] if summary and summary.devices else "",
        images=summary.images or summary.counts.done if summary else 0,
        flagged=summary.flagged if summary else 0,
        gpu_seconds=summary.gpu_seconds if summary else None,
        cost=summary.cost if summary else None,
        finished_at=summary.finished_at if summary else None,
        etag=view.summary_etag if summary else "",
    )


def entry_of_refusal(refused: Refusal) -> RunEntry:
    """A job that was not planned, in one line."""
    return RunEntry(
        run=refused.run,
        manifest=refused.manifest[:_TEXT_CHARS],
        created_at=refused.refused_at,
        state="refused",
        problem=one_line(f"{refused.message} {refused.cure}")[:_PROBLEM_CHARS],
    )


class Catalogue:
    """The runs below a workspace's store. Safe to share between threads.

    `cache_file` keeps the lines of finished runs between restarts; a line is checked again when it is shown.
    """

    def __init__(self, workspace: Workspace, cache_file: Path | None = None) -> None:
        self._workspace = workspace
        self._folder = workspace.places.runs
        self._kept = KeptLines(cache_file) if cache_file is not None else None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="catalogue")
        self._throttle = Throttle(LIST_SECONDS)
        self._names: frozenset[str] = frozenset()
        self._entries: dict[str, RunEntry] = {}
        self._planless: set[str] = set()
        self._looked: dict[str, float] = {}
        self._pending: dict[str, Future[None]] = {}
        self._read_cache()

    def page(self, query: RunQuery, page: int = 1, size: int = 25) -> RunPage:
        """A page of the runs that the query finds, `page` from 1. Raises StorageError where runs cannot be listed."""
        deadline = time.monotonic() + _WAIT_SECONDS
        with self._lock:
            if self._throttle.due():
                names = islice(self._workspace.storage.folders(self._folder), MAX_RUNS)
                self._names = frozenset(name for name in names if _is_run(name))
            known = self._names
        changing = (entry.run for entry in list(self._entries.values()) if _may_change(entry))
        self._look((*changing, *(name for name in known if name not in self._entries)), deadline)
        while not self._known(known) and self._wait_for_one(until=deadline + _PATIENCE_SECONDS - _WAIT_SECONDS):
            pass  # on a busy machine not even one run may have been read in time: an empty page would say "no run yet"
        there = self._known(known)
        found = sorted_entries(there, query)
        pages = max(1, -(-len(found) // size))
        page = min(max(page, 1), pages)
        shown = found[(page - 1) * size : page * size]
        self._look((entry.run for entry in shown), deadline, every=CHECK_SECONDS)
        return RunPage(
            entries=tuple(self._entries.get(entry.run, entry) for entry in shown),
            total=len(found),
            page=page,
            pages=pages,
            unread=len(known - {entry.run for entry in there} - self._planless),
        )

    def finished(self) -> tuple[list[RunEntry], int]:
        """All finished runs that have been read, and how many runs have not been read yet.

        Each run is read once, then kept. Raises StorageError where runs cannot be listed.
        """
        unread = self.page(RunQuery(state="finished")).unread
        return [entry for entry in self._known(self._names) if entry.state == "finished"], unread

    def may_go_on(self, run: str) -> bool:
        """Whether a run has no report, as far as is known: it was planned, or nothing of it is in the store."""
        entry = self._entries.get(run)
        if entry is None:
            return bool(self._names) and run not in self._names
        return entry.state not in ("finished", "refused", "unreadable")

    def tells_of(self, refused: Refusal) -> bool:
        """Whether the list shows this refusal, or a run of its name that got somewhere after it, as far as is known."""
        entry = self._entries.get(refused.run)
        if entry is None or entry.state == "refused":
            return refused.run in self._names
        since = entry.created_at if refused.type == RunConflictError.__name__ else entry.finished_at or entry.created_at
        return since is not None and since > refused.refused_at

    def _look(self, names: Iterable[str], deadline: float, *, every: float | None = None) -> None:
        """Read these runs again, unless that was done within `every` seconds (default: `LIVE_SECONDS`).

        Waits for them until `deadline`; the others are read later.
        """
        moment = time.monotonic()
        pause = LIVE_SECONDS if every is None else every
        with self._lock:
            for name in names:
                if name not in self._pending and moment - self._looked.get(name, -1e9) >= pause:
                    self._looked[name] = moment
                    self._pending[name] = self._pool.submit(self._read, name)
            pending = list(self._pending.values())
        if pending:
            wait(pending, timeout=max(0.0, deadline - time.monotonic()))

    def _known(self, names: Iterable[str]) -> list[RunEntry]:
        return [entry for entry in map(self._entries.get, names) if entry is not None]

    def _wait_for_one(self, *, until: float) -> bool:
        """Wait until one more run has been read; whether that is worth another look."""
        with self._lock:
            pending = list(self._pending.values())
        left = until - time.monotonic()
        return bool(pending) and left > 0 and bool(wait(pending, timeout=left, return_when=FIRST_COMPLETED).done)

    def _read(self, name: str) -> None:
        try:
            view = RunView.open(self._workspace, name)
            if view is None:
                refused = read_refusal(self._workspace, name)
                if refused is None:
                    self._planless.add(name)
                    self._entries.pop(name, None)
                else:
                    self._entries[name] = entry_of_refusal(refused)
            else:
                before, entry = self._entries.get(name), entry_of(view)
                self._entries[name] = entry
                if entry.state == "finished" and entry != before:
                    self._keep(entry)
        except Exception as error:  # one unreadable run must not hide the others
            problem = one_line(" ".join(str(error).split()) or type(error).__name__)[:300]
            log.warning("run %s cannot be shown: %s", name, problem)
            self._entries[name] = RunEntry(run=name, state="unreadable", problem=problem)
        finally:
            with self._lock:
                self._pending.pop(name, None)

    def _keep(self, entry: RunEntry) -> None:
        if self._kept is not None:
            with self._lock:
                self._kept.add(entry.model_dump_json())

    def _read_cache(self) -> None:
        for number, line in enumerate(self._kept.lines() if self._kept is not None else (), 1):
            with contextlib.suppress(DamagedObjectError):
                entry = parse_model(line, RunEntry, f"line {number}")
                if entry.state == "finished" and _is_run(entry.run):
                    self._entries[entry.run] = entry


def cache_path(workspace: Workspace) -> Path:
    """Where the lines of this store's finished runs are kept."""
    mark = hashlib.sha256(workspace.store.uri.encode()).hexdigest()[:16]
    return workspace.settings.scratch / f"browse-{os.geteuid()}" / f"{mark}-{_KEPT_AS}.jsonl"


def sorted_entries(entries: Iterable[RunEntry], query: RunQuery) -> list[RunEntry]:
    """The entries that match the query, in its order; those without a value come last in both directions."""
    wanted = query.text.strip().lower()
    found = [
        entry
        for entry in entries
        if (not wanted or wanted in entry.run.lower() or wanted in entry.manifest.lower())
        and (not query.state or query.state == (entry.state if entry.state in ("finished", "refused") else "going"))
        and (not query.verdict or entry.verdict == query.verdict)
    ]
    value: Callable[[RunEntry], Any] = lambda entry: getattr(entry, query.order)  # noqa: E731
    known: Sequence[RunEntry] = [entry for entry in found if value(entry) is not None]
    unknown = [entry for entry in found if value(entry) is None]
    newest = sorted(known, key=lambda entry: entry.created_at or datetime.min.replace(tzinfo=UTC), reverse=True)
    return sorted(newest, key=value, reverse=query.descending) + unknown


def _may_change(entry: RunEntry) -> bool:
    """Whether a run that is not shown is read again: one that was abandoned days ago is not."""
    young = entry.created_at is None or now() - entry.created_at < ABANDONED_AFTER
    return entry.state == "running" or (entry.state != "finished" and young)


def _is_run(name: str) -> bool:
    try:
        check_run_name(name)
    except ConfigError:
        return False
    return True
