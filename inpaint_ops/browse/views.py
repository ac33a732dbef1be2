"""What the pages read a store through: the catalogue of runs, the runs viewed last, and their pictures."""

from __future__ import annotations

import threading
from collections import OrderedDict

from inpaint_ops.browse.catalogue import Catalogue, cache_path
from inpaint_ops.browse.pictures import Pictures
from inpaint_ops.browse.run import RunView
from inpaint_ops.records import Refusal
from inpaint_ops.reviewing import Lineage
from inpaint_ops.runs import Workspace, read_refusal

OPEN_RUNS = 8
"""Runs kept in memory: one of 50,000 rows takes about 100 MB once all its results have been read."""


class RunViews:
    """Views of the runs in one store. Safe to share between threads."""

    def __init__(self, workspace: Workspace, *, keep: bool = True) -> None:
        self.workspace = workspace
        self.catalogue = Catalogue(workspace, cache_path(workspace) if keep else None)
        self.pictures = Pictures(workspace)
        self.lineage = Lineage(workspace)
        self._runs: OrderedDict[str, RunView] = OrderedDict()
        self._lock = threading.Lock()

    def refusal(self, name: str) -> Refusal | None:
        """Why a job of this name was refused; None where it was not. Raises as `run` does."""
        return read_refusal(self.workspace, name)

    def run(self, name: str) -> RunView | None:
        """The run as it is now; None if there is none. Raises ConfigError for an invalid name, StorageError."""
        with self._lock:
            view = self._runs.get(name)
            if view is not None:
                self._runs.move_to_end(name)
        if view is not None:
            view.refresh()
            return view
        view = RunView.open(self.workspace, name)
        if view is None:
            return None
        with self._lock:
            standing = self._runs.setdefault(name, view)
            while len(self._runs) > OPEN_RUNS:
                self._runs.popitem(last=False)[1].close()
        return standing
