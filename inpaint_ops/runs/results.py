"""A run's rows are read once: the tables are written as the rows go by, and only numbers are kept."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from inpaint_ops.layout import REJECTED
from inpaint_ops.manifest import write_jsonl
from inpaint_ops.planning import Plan, RetryPlan, every_shard
from inpaint_ops.records import Record, WorkerReport
from inpaint_ops.report import Tally, TimingsWriter, Trace
from inpaint_ops.report.accounting import Accounting
from inpaint_ops.run_files.digests import NamedImages
from inpaint_ops.run_files.retried import read_retries
from inpaint_ops.run_files.rows import CountedRow, CountedRows
from inpaint_ops.runs.flagging import flag_outliers
from inpaint_ops.runs.results_file import ResultsFile
from inpaint_ops.runs.retried import History, with_earlier
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import Leftovers


@dataclass(slots=True)
class Results:
    """What the rows of a run came to. The files are closed."""

    file: ResultsFile
    failed: Path
    timings: Path
    retries: Sequence[RetryPlan]
    left: Leftovers
    trace: Trace
    tally: Tally = field(default_factory=Tally)
    images: NamedImages = field(default_factory=NamedImages)
    history: History = field(default_factory=History)
    missing: array[int] = field(default_factory=lambda: array("i"))
    """The rows without a record."""
    ended: Counter[str] = field(default_factory=Counter)
    """Rows of each of the run's own shards that have a record, of a retry perhaps."""

    def accounting(self, rows: int) -> Accounting:
        """The rows against a manifest of so many."""
        return Accounting(
            self.tally.counts(rows), repeated_ids=self.tally.repeated_ids(self.file.find), missing=self.missing
        )

    def unfinished(self, plan: Plan) -> list[str]:
        """The run's own shards that have rows without a record."""
        return [shard.name for shard in plan.shards if self.ended[shard.name] < shard.rows]

    def undone(self) -> dict[str, int]:
        """The shards of retries that have rows without a new record, and how many."""
        return self.history.unfinished(self.retries)

    def written_trace(self, workers: Sequence[WorkerReport]) -> Path:
        """`trace.json`, once the workers' reports are known."""
        path = self.failed.with_name("trace.json")
        with path.open("wb") as out:
            self.trace.write(out, workers)
        return path


def read_results(
    workspace: Workspace, plan: Plan, folder: Path, *, swapped: Collection[tuple[int, int]] = frozenset()
) -> Results:
    """Go through the rows; the files are written into `folder`, which is made. Without the `swapped` records.

    Raises StorageError.
    """
    layout, storage, settings, left = workspace.layout(plan.run), workspace.storage, workspace.settings, Leftovers()
    retries, _ = read_retries(storage, layout, settings, left)
    shards = {shard.name: shard for shard in every_shard(plan, retries)}
    folder.mkdir()
    with ExitStack() as stack:
        file = stack.enter_context(ResultsFile(folder / "results.jsonl"))
        trace = Trace({name: shard.rows for name, shard in shards.items()})
        results = Results(file, folder / "failed.jsonl", folder / "timings.parquet", retries, left, trace)
        failed = stack.enter_context(results.failed.open("wb"))
        timings = stack.enter_context(TimingsWriter(stack.enter_context(results.timings.open("wb"))))
        ends = sorted((shard.last_row, name) for name, shard in shards.items())
        at = 0
        for row in CountedRows(storage, layout, plan, retries, settings, left, swapped=swapped):
            while at < len(ends) and ends[at][0] < row.number:
                _close(results, ends[at][1])
                at += 1
            record = _add(results, row)
            if record is not None:
                timings.add(record)
                if record.status == "failed" and row.row is not None:
                    write_jsonl([row.row.as_manifest_row()], failed)
        for _, name in ends[at:]:
            _close(results, name)
        _close(results, REJECTED)
    results.file = flag_outliers(results.file, results.timings, results.tally)
    return results


def _add(results: Results, row: CountedRow) -> Record | None:
    """The row's newest record, with the earlier ones listed in it; None where it has none."""
    if not row.records:
        results.missing.append(row.number)
        return None
    shard, newest = row.records[-1]
    record = with_earlier(newest, [one for _, one in row.records[:-1]])
    if record.flags:  # what a row is an outlier in is found here alone
        record = record.model_copy(update={"flags": ()})
    results.ended[row.shard] += 1
    for name, one in row.records:
        results.history.add(one, name)
    results.file.append(record)
    results.images.add(record)
    results.tally.add(record, shard)
    if shard != REJECTED:
        results.trace.add(record, shard)
    return record


def _close(results: Results, shard: str) -> None:
    results.tally.close(shard)
    results.trace.close(shard)
