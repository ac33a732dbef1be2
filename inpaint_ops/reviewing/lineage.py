"""Which run does rows of which other one again: found by the manifests below `redo/`, and by a run's own manifest.

A child's manifest never changes, so what it says is read once. A child run of another origin is never taken for one:
each of its rows says in `extra.redo_of` which row of which run it does again.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from inpaint_ops.errors import ConfigError, ObjectNotFoundError, StorageError
from inpaint_ops.layout import RunLayout, check_run_name
from inpaint_ops.locations import Location, parse
from inpaint_ops.planning import Plan
from inpaint_ops.records import now
from inpaint_ops.reviewing.exporting import REDO_OF
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.runs import Workspace, read_refusal
from inpaint_ops.storage.pieces import in_pieces
from inpaint_ops.storage.stored import Leftovers, listed

MAX_CHILDREN = 1000
"""Child runs of one run that are looked at."""

MANIFEST_BYTES = 64 * 2**20
"""Of a child's manifest that is read: 10,000 rows with 8 variants have about half."""

BEGINS_WITHIN = timedelta(hours=1)
"""After its manifest was written, a child run without a plan is waited for so long; then it was never triggered."""

_ENDING = ".jsonl"
_KEPT = 256
_LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Child:
    """A run that does rows of another one again; it may not have begun, and it may be gone. `prepared` by the store."""

    run: str
    manifest: Location
    prepared: datetime
    etag: str


@dataclass(frozen=True, slots=True)
class Again:
    """One row of a child run: which row it does again, and when the mark was given that asked for it, if one did."""

    id: str
    marked_at: str = ""


def child_runs(workspace: Workspace, layout: RunLayout) -> list[Child]:
    """The runs that do rows of this one again, the oldest first. Raises StorageError."""
    found = []
    for info in listed(workspace.storage, layout.redos, Leftovers(), limit=MAX_CHILDREN):
        name = info.location.key[len(layout.redos.key) :]
        try:
            run = check_run_name(name.removesuffix(_ENDING)) if name.endswith(_ENDING) else ""
        except ConfigError:  # somebody else's object
            continue
        if run:
            found.append(Child(run, info.location, info.modified, info.etag))
    return sorted(found, key=lambda one: (one.prepared, one.run))


def parent_of(workspace: Workspace, plan: Plan) -> str | None:
    """The run whose rows this one does again; None for a run that is no child run. Whether it is still there is open.

    Reads nothing: a child run is planned from the manifest that lies below its parent's `redo/`.
    """
    runs = workspace.places.runs
    try:
        place = parse(plan.manifest)
        if place.bucket != runs.bucket or not place.key.startswith(runs.key):
            return None
        parent = check_run_name(place.key[len(runs.key) :].partition("/")[0])
        return parent if place == workspace.layout(parent).redo(plan.run) else None
    except ConfigError:
        return None


def has_begun(workspace: Workspace, child: Child) -> bool:
    """Whether a child run counts as triggered: it has a plan, or was prepared a short while ago and was not refused.

    Raises StorageError.
    """
    if workspace.storage.exists(workspace.layout(child.run).plan):
        return True
    return now() - child.prepared < BEGINS_WITHIN and read_refusal(workspace, child.run) is None


class Lineage:
    """What the manifests of child runs say, each read once. Safe to share between threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._kept: OrderedDict[tuple[Location, str], Mapping[str, tuple[Again, ...]]] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, parent: str, child: Child) -> Mapping[str, tuple[Again, ...]]:
        """By the id of the parent's row: the rows of the child that do it again. Empty for a manifest that is gone.

        Lines that are no row of such a manifest count for nothing. Raises StorageError.
        """
        key = child.manifest, child.etag
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return known
        found = self._read(parent, child)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _read(self, parent: str, child: Child) -> Mapping[str, tuple[Again, ...]]:
        found: dict[str, list[Again]] = {}
        longest = row_bytes(self._workspace.settings)
        rest = b""
        try:
            for piece in in_pieces(self._workspace.storage, child.manifest, max_bytes=MANIFEST_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    _add(found, line, parent)
                if len(rest) > longest:  # no row of ours
                    return {}
        except ObjectNotFoundError:
            return {}
        _add(found, rest, parent)
        return {row: tuple(again) for row, again in found.items()}


def _add(found: dict[str, list[Again]], line: bytes, parent: str) -> None:
    try:
        row = json.loads(line) if line.strip() else None
    except (ValueError, RecursionError):
        return
    if not isinstance(row, dict) or not isinstance(extra := row.get("extra"), dict):
        return
    of = extra.get(REDO_OF)
    if not isinstance(of, dict) or of.get("run") != parent:
        return
    texts = [of.get("id"), row.get("id"), of.get("marked_at", "")]
    if all(isinstance(text, str) and len(text) <= _LONGEST_TEXT for text in texts):
        found.setdefault(texts[0], []).append(Again(texts[1], texts[2]))


def asked_for(
    workspace: Workspace, run: str, lineage: Lineage, children: list[Child], left: Leftovers
) -> dict[str, tuple[str, str]]:
    """By the row's id: the newest child run that was triggered for it, and the time of the mark that asked for it.

    A child whose manifest cannot be read gets a line in `left`. Raises StorageError.
    """
    found: dict[str, tuple[str, str]] = {}
    for child in children:
        try:
            rows = lineage.rows(run, child)
        except StorageError as error:
            if not error.permanent:
                raise
            left.add(f"{error}: this child run was left out.")
            continue
        if rows and has_begun(workspace, child):
            for row, again in rows.items():
                marked = max(one.marked_at for one in again)
                if row not in found or marked >= found[row][1]:
                    found[row] = child.run, marked
    return found
