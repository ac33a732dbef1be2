"""One look at all standing jobs: which are due, what is new for them, and the runs that are to be started."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from inpaint_ops.errors import ConfigError, InpaintOpsError, ObjectExistsError, ObjectNotFoundError
from inpaint_ops.inbox import claimant_of
from inpaint_ops.locations import Location
from inpaint_ops.runs import Workspace
from inpaint_ops.standing.entries import Entry, read_entries
from inpaint_ops.standing.taking import Taken, find, put_rows, put_taken, read_taken, taken_by
from inpaint_ops.storage import ObjectInfo
from inpaint_ops.wording import counted

log = logging.getLogger(__name__)

MAX_STARTS = 100
"""Runs that one look starts; the next look starts the others."""

ABANDONED = timedelta(hours=24)
"""After which a run that another Airflow has started, and that left no report, counts as over."""

_STAMP = "%Y%m%dT%H%M%SZ"
_CLAIM_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Start:
    """A run to be started: its name, and the configuration of `inpaint_manifest`. `mark` is for `note_triggered`."""

    run: str
    conf: dict[str, Any]
    mark: str


@dataclass(slots=True)
class Look:
    """What one look came to."""

    starts: list[Start] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """For the log: what is started, what is not and why."""
    problems: list[str] = field(default_factory=list)
    """Entries that cannot be used: which, why, and the cure."""


def look(
    workspace: Workspace,
    claimant: str,
    now: datetime,
    is_active: Callable[[str], bool],
    *,
    only: str | None = None,
    everything: bool = False,
    has_come: bool = False,
) -> Look:
    """Find what is due by `now`. `is_active` says whether a run that this Airflow started is queued or running.

    A job is due at the latest time of its schedule that came after its entry was written and after its last run was
    started: several that were missed make one run, since each takes all that is new. While its last run goes on, none
    is started. `only` starts that job now, whatever its schedule; `everything` has it take what it took before, too.
    Where something `has_come` to the store, a job of `on_arrival` is due now; while its last run goes on that is noted,
    and it is due at the first look after that run's end.

    A job's error is a problem of its own and stops no other. Raises StorageError where the store does not answer;
    ConfigError if there is no job `only`.
    """
    found = Look()
    entries = list(read_entries(workspace))
    if only is not None and only not in (name for name, _, _ in entries):
        raise ConfigError(f"there is no standing job {only!r} in {workspace.places.jobs}")
    for name, info, entry in entries:
        if only not in (None, name):
            continue
        try:
            if isinstance(entry, ConfigError):
                raise entry
            one = _Job(workspace, claimant, name, entry, is_active, found)
            if only is not None:
                one.start(now, everything=everything)
            else:
                one.start_if_due(now, info, has_come=has_come)
        except InpaintOpsError as error:
            if not error.permanent:
                raise
            found.problems.append(f"{info.location}: {error}")
        if len(found.starts) >= MAX_STARTS:
            found.lines.append(f"{MAX_STARTS} runs are started in one look at most: the next look starts what is left")
            break
    return found


def note_triggered(workspace: Workspace, mark: str) -> None:
    """Record that the run of a start was triggered, so that later looks do not trigger it again."""
    name, _, stamp = mark.partition("/")
    workspace.storage.put(workspace.places.standing_time(name, stamp, "triggered"), b"", content_type="text/plain")


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who starts a job's run at one time, since when, and whether it takes what was taken before, too."""

    claimant: str
    since: datetime
    everything: bool


@dataclass(slots=True)
class _Job:
    """One standing job, in one look."""

    workspace: Workspace
    claimant: str
    name: str
    entry: Entry
    is_active: Callable[[str], bool]
    found: Look

    def start_if_due(self, now: datetime, entry: ObjectInfo, *, has_come: bool) -> None:
        times = self._times()
        self._settle(times)
        if not self.entry.enabled:
            return
        if has_come and self.entry.on_arrival:
            self.workspace.storage.put(self._arrival, b"", content_type="text/plain")
        if unfinished := self._claimed_and_not_triggered(times):
            self._start(unfinished, times[: times.index(unfinished)])
            return
        due = self.entry.last_time(now)
        since = entry.modified if not times else datetime.strptime(times[-1], _STAMP).replace(tzinfo=UTC)
        if due is not None and due > since:
            self._start(due.strftime(_STAMP), times)
        elif self.entry.on_arrival and (has_come or self._came_after(since)):
            self._start(now.astimezone(UTC).strftime(_STAMP), times)

    @property
    def _arrival(self) -> Location:
        return self.workspace.places.standing_arrival(self.name)

    def _came_after(self, moment: datetime) -> bool:
        """Whether something had come after `moment`, and its look could start nothing. To the second, as stamps are."""
        with suppress(ObjectNotFoundError):
            return self.workspace.storage.stat(self._arrival).modified.replace(microsecond=0) > moment
        return False

    def start(self, now: datetime, *, everything: bool) -> None:
        times = self._times()
        stamp = self._claimed_and_not_triggered(times) or now.astimezone(UTC).strftime(_STAMP)
        self._start(stamp, [one for one in times if one < stamp], everything=everything)

    def _settle(self, times: Sequence[str]) -> None:
        """Note what the last run has taken as soon as it is over: by the next time housekeeping may have removed it."""
        if not times or not self._has(times[-1], "triggered") or self._has(times[-1], "settled"):
            return
        taken = self._taken(times, quietly=True)
        if taken is not None:
            put_taken(self.workspace, self.name, taken)
            place = self.workspace.places.standing_time(self.name, times[-1], "settled")
            self.workspace.storage.put(place, b"", content_type="text/plain")

    def _times(self) -> list[str]:
        """The stamps of all times that it was started, oldest first."""
        names = self.workspace.storage.folders(self.workspace.places.standing(self.name))
        return sorted(name for name in names if _is_stamp(name))

    def _claimed_and_not_triggered(self, times: Sequence[str]) -> str | None:
        """The last time, if this Airflow has claimed it and died before its run was triggered."""
        if not times or self._has(times[-1], "triggered"):
            return None
        claimed = self._claim_of(times[-1])
        return times[-1] if claimed is not None and claimed.claimant == self.claimant else None

    def _start(self, stamp: str, before: Sequence[str], *, everything: bool = False) -> None:
        taken = self._taken(before)
        run = _run_name(self.name, stamp)
        if taken is None:
            return
        claim = self._claim(stamp, everything=everything)
        if claim is None or claim.claimant != self.claimant:
            self._say(f"run {run} is started by another Airflow")
            return
        # It was triggered, and only the note of that is missing.
        if self.is_active(run) or self.workspace.plan(run) is not None:
            note_triggered(self.workspace, f"{self.name}/{stamp}")
            return
        rows = find(self.workspace, self.entry)
        new = [row for row in rows.rows if everything or claim.everything or row.digest not in taken.digests]
        for note in rows.notes:
            self._say(note)
        # What is no longer there is forgotten: the file has as many lines as the store has rows, and no more.
        put_taken(self.workspace, self.name, Taken(taken.digests & {row.digest for row in rows.rows}, taken.through))
        old = len(rows.rows) - len(new)
        if not new:
            before = counted(old, "row was", "rows were")
            self._say(f"nothing is new: {before} taken before" if old else "there are no rows")
            note_triggered(self.workspace, f"{self.name}/{stamp}")
            return
        manifest = put_rows(self.workspace, self.name, stamp, new)
        self._say(f"run {run}: {counted(len(new), 'row is', 'rows are')} new or changed, {old:,} taken before")
        conf = self.entry.options | {"manifest": manifest, "run": run}
        self.found.starts.append(Start(run, conf, f"{self.name}/{stamp}"))

    def _taken(self, before: Sequence[str], *, quietly: bool = False) -> Taken | None:
        """What the runs before have taken; None while the last one goes on."""
        taken = read_taken(self.workspace, self.name)
        digests, through = set(taken.digests), taken.through
        for stamp in before:
            if stamp <= taken.through:
                continue
            run = _run_name(self.name, stamp)
            if self._goes_on(stamp, run):
                if not quietly:
                    self._say(f"run {run} has not ended: no other is started beside it")
                return None
            digests |= taken_by(self.workspace, self.name, stamp, run)
            through = stamp
        return Taken(frozenset(digests), through)

    def _goes_on(self, stamp: str, run: str) -> bool:
        claimed = self._claim_of(stamp)
        if claimed is None:  # nobody's: somebody made the folder
            return False
        if claimed.claimant == self.claimant:
            return self.is_active(run)
        if self._has(stamp, "triggered") and not self._has(stamp, "manifest.jsonl"):
            return False  # there was nothing to do
        is_over = self.workspace.storage.exists(self.workspace.layout(run).summary)
        return not is_over and datetime.now(UTC) - claimed.since < ABANDONED

    def _claim(self, stamp: str, *, everything: bool) -> _Claim | None:
        """The claim of this time, ours or the one that was there: of several Airflows that look at a store, one starts.

        One that was there is kept as it is: whoever goes on with it after a death takes everything if it says so.
        """
        place = self.workspace.places.standing_time(self.name, stamp, "claim.json")
        body = {
            "schema_version": 1, "claimant": self.claimant, "job": self.name, "time": stamp, "everything": everything,
        }  # fmt: skip
        with suppress(ObjectExistsError):
            self.workspace.storage.put(
                place, json.dumps(body).encode(), if_absent=True, content_type="application/json"
            )
        return self._claim_of(stamp)

    def _claim_of(self, stamp: str) -> _Claim | None:
        """The claim of a time; None if nobody has claimed it, or the claim is damaged."""
        place = self.workspace.places.standing_time(self.name, stamp, "claim.json")
        try:
            info = self.workspace.storage.stat(place)
            data = self.workspace.storage.get(place, max_bytes=_CLAIM_BYTES)
        except ObjectNotFoundError:
            return None
        claimant = claimant_of(data)
        return None if claimant is None else _Claim(claimant, info.modified, json.loads(data).get("everything") is True)

    def _has(self, stamp: str, what: str) -> bool:
        return self.workspace.storage.exists(self.workspace.places.standing_time(self.name, stamp, what))

    def _say(self, line: str) -> None:
        self.found.lines.append(f"{self.name}: {line}")


def _run_name(name: str, stamp: str) -> str:
    return f"{name}-{stamp}"


def _is_stamp(text: str) -> bool:
    try:
        return datetime.strptime(text, _STAMP).strftime(_STAMP) == text
    except ValueError:
        return False
