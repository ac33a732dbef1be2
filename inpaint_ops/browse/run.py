"""One run: its plan, its state, its summary and its records, each read no more often than it changes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from inpaint_ops.browse.reviews import RunReviews
from inpaint_ops.browse.sources import FinishedRecords, LiveRecords, Records, Throttle
from inpaint_ops.browse.state import RunState, ShardState, StoredProgress, run_state, shard_states
from inpaint_ops.browse.table import RowQuery
from inpaint_ops.config import Settings
from inpaint_ops.errors import DamagedObjectError, ObjectNotFoundError, ObjectTooLargeError
from inpaint_ops.layout import REJECTED, RunLayout
from inpaint_ops.planning import Plan
from inpaint_ops.records import Record, RunSummary, ShardProgress, now
from inpaint_ops.report.facts import cure
from inpaint_ops.report.page import ShownGroup
from inpaint_ops.reviewing import Reviews
from inpaint_ops.runs import Workspace
from inpaint_ops.runs.attempts import notes_of
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import SUMMARY_BYTES, Leftovers, listed, read_each, read_model
from inpaint_ops.tallies.tallied import FAILURES_PER_GROUP

REFRESH_SECONDS = 2.0
"""The shortest time between two reads of a run's state, however many people view it."""

_READ_SECONDS = 1.5
_PROGRESS_BYTES = 8 * 2**10
"""The largest progress object that is read: a page shows a thousand of them. Ours have about four hundred bytes."""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Some of the rows that a query found."""

    records: tuple[Record, ...]
    total: int
    page: int
    pages: int
    unread: int


class RunView:
    """A run as it is now. Safe to share between threads; call `refresh` before reading."""

    def __init__(self, workspace: Workspace, run: str, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.summary: RunSummary | None = None
        self.summary_etag = ""
        self._workspace = workspace
        self._layout = workspace.layout(run)
        self._progress: dict[str, StoredProgress] = {}
        self._seen: dict[str, str] = {}
        self._left = Leftovers()
        self.reviews = RunReviews(Reviews(workspace.storage, self._layout, self._left))
        self._finished: FinishedRecords | None = None
        self._live: LiveRecords | None = None
        self._names = frozenset(shard.name for shard in plan.shards)
        self._throttle = Throttle(REFRESH_SECONDS)
        self._lock = threading.Lock()
        self._state: RunState | None = None
        self._shards: tuple[ShardState, ...] = ()

    @classmethod
    def open(cls, workspace: Workspace, run: str) -> RunView | None:
        """The run, or None if there is none. Raises ConfigError for a name that no run can have, StorageError."""
        plan = workspace.plan(run)
        if plan is None:
            return None
        view = cls(workspace, run, plan)
        view.refresh()
        return view

    @property
    def state(self) -> RunState:
        """How far the run is."""
        assert self._state is not None, "refresh first"
        return self._state

    @property
    def shards(self) -> tuple[ShardState, ...]:
        """How far each shard is."""
        return self._shards

    @property
    def is_finished(self) -> bool:
        """Whether the summary describes the run as it is now."""
        return self.state.state == "finished"

    def refresh(self, *, always: bool = False) -> None:
        """Ask the store what changed: a stat, a listing of one object per shard, and the objects that are new."""
        with self._lock:
            if not self._throttle.due() and not always and self._state is not None:
                return
            storage, layout = self._workspace.storage, self._layout
            modified = self._read_summary()
            notes = notes_of(listed(storage, layout.progress, self._left), layout.progress, self._names, self._left)
            changed = {info.location: (name, info) for name, info in notes if self._seen.get(name) != info.etag}
            infos = [info for _, info in changed.values()]
            for info, progress in read_each(storage, infos, ShardProgress, self._left, max_bytes=_PROGRESS_BYTES):
                self._progress[changed[info.location][0]] = progress, info.modified
            self._seen |= {name: info.etag for name, info in changed.values()}
            self._shards = shard_states(self.plan, self._progress, now())
            self._state = self._state_of(modified, [at for _, at in self._progress.values()])

    def _read_summary(self) -> datetime | None:
        storage = self._workspace.storage
        try:
            info = storage.stat(self._layout.summary)
            if info.etag != self.summary_etag:
                self.summary, self.summary_etag, self._finished = None, info.etag, None
                summary = read_model(storage, self._layout.summary, RunSummary, max_bytes=SUMMARY_BYTES)
                if summary.run != self.run:
                    raise DamagedObjectError(f"{self._layout.summary} is of another run, {summary.run!r}")
                self.summary = summary
        except ObjectNotFoundError:
            self.summary, self.summary_etag = None, ""
            return None
        except (DamagedObjectError, ObjectTooLargeError) as error:
            self._left.add(f"{error}: it was left out; report the run again.")
            return None
        if self.summary is None:
            return None
        return info.modified

    def _state_of(self, modified: datetime | None, stored_at: Sequence[datetime]) -> RunState:
        state = run_state(self.plan, self._shards)
        summary = self.summary
        is_running_again = modified is not None and any(at > modified for at in stored_at)
        if summary is None or (is_running_again and state.state in ("running", "stalled")):
            return state
        return RunState(
            state="finished",
            rows=summary.counts.rows,
            done=summary.counts.done,
            failed=summary.counts.failed,
            rejected=summary.counts.rejected,
            images_per_second=summary.images_per_second,
            device=", ".join(dict.fromkeys(device.name for device in summary.devices)),
        )

    def records(self) -> Records:
        """The records: all of a finished run's, or those read so far of one that is running."""
        with self._lock:
            if self.is_finished:
                if self._live is not None:
                    self._live.close()
                    self._live = None
                if self._finished is None:
                    self._finished = FinishedRecords(*self._sources())
                return self._finished
            if self._live is None:
                self._live = LiveRecords(*self._sources())
            live = self._live
        ended = {shard.name: shard.ended for shard in self._shards} | {REJECTED: self.plan.rejected}
        live.refresh(ended, seconds=_READ_SECONDS)
        return live

    def _sources(self) -> tuple[Storage, RunLayout, Plan, Settings, Leftovers]:
        return self._workspace.storage, self._layout, self.plan, self._workspace.settings, self._left

    @property
    def left_out(self) -> tuple[str, ...]:
        """Objects of the store that were left out and why, one line for each."""
        return self._left.lines()

    def _read(self, records: Records, positions: Iterable[int]) -> tuple[Record, ...]:
        """Those of the records that can be read."""
        found = []
        for position in positions:
            try:
                found.append(records.record(int(position)))
            except DamagedObjectError as error:
                self._left.add(f"{error}: it was left out.")
        return tuple(found)

    def page(self, query: RowQuery, page: int, size: int, *, at: int | None = None) -> RecordPage:
        """A page of the rows that the query finds, `page` from 1; with `at`, the page that holds that line, if any."""
        records = self.records()
        self.reviews.refresh()
        table = records.table
        found = table.select(query, records.prompts, self.reviews.marks(table))
        pages = max(1, -(-len(found) // size))
        if at is not None:
            places = np.flatnonzero(table.rows[found] == at)
            page = int(places[0]) // size + 1 if len(places) else page
        page = min(max(page, 1), pages)
        shown = found[(page - 1) * size : page * size]
        return RecordPage(self._read(records, shown), len(found), page, pages, records.unread)

    def record(self, row: int) -> Record | None:
        """The record of a line of the manifest; None where there is none yet."""
        records = self.records()
        position = records.table.positions.get(row)
        return None if position is None else records.record(position)

    def records_of(self, rows: Iterable[int]) -> tuple[Record, ...]:
        """The records of these lines of the manifest, of those that have one that can be read."""
        records = self.records()
        positions = (records.table.positions.get(row) for row in rows)
        return self._read(records, [one for one in positions if one is not None])

    def failures(self) -> list[ShownGroup]:
        """Failed and rejected rows by reason, each with its cure and the first of its rows."""
        records = self.records()
        groups = []
        for kind, positions in records.table.failure_positions():
            shown = self._read(records, positions[:FAILURES_PER_GROUP])
            stages = tuple(dict.fromkeys(record.error.stage for record in shown if record.error))
            groups.append(ShownGroup(kind, cure(shown[0].error if shown else None), stages, len(positions), shown))
        return groups

    def close(self) -> None:
        """Stop reading."""
        if self._live is not None:
            self._live.close()
