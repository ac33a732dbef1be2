"""A run's rows are read once: the tables are written as the rows go by, and only numbers are kept."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from inpaint_ops.layout import REJECTED
from inpaint_ops.machine.process_pool import processes_for
from inpaint_ops.planning import Plan, RetryPlan, every_shard
from inpaint_ops.records import WorkerReport
from inpaint_ops.report import TimingsWriter, Trace
from inpaint_ops.report.accounting import Accounting
from inpaint_ops.run_files.plain_shards import CountedRow, SummedUp
from inpaint_ops.run_files.retried import read_retries
from inpaint_ops.run_files.rows import CountedRows
from inpaint_ops.runs.flagging import flag_outliers
from inpaint_ops.runs.results_file import ResultsFile
from inpaint_ops.runs.summing import FEWEST_ROWS, plain_reader, pool_for
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import Leftovers
from inpaint_ops.tallies.row_sums import RowSums, Stretch, write_failed
from inpaint_ops.tallies.tables import read_timings_batch


@dataclass(slots=True)
class Results:
    """What the rows of a run came to. The files are closed."""

    file: ResultsFile
    failed: Path
    timings: Path
    retries: Sequence[RetryPlan]
    left: Leftovers
    trace: Trace
    sums: RowSums = field(default_factory=RowSums)
    missing: array[int] = field(default_factory=lambda: array("i"))
    """The rows without a record."""

    def accounting(self, rows: int) -> Accounting:
        """The rows against a manifest of so many."""
        return Accounting(
            self.sums.tally.counts(rows),
            repeated_ids=self.sums.tally.repeated_ids(self.file.find),
            missing=self.missing,
        )

    def unfinished(self, plan: Plan) -> list[str]:
        """The run's own shards that have rows without a record."""
        return [shard.name for shard in plan.shards if self.sums.ended[shard.name] < shard.rows]

    def undone(self) -> dict[str, int]:
        """The shards of retries that have rows without a new record, and how many."""
        return self.sums.history.unfinished(self.retries)

    def written_trace(self, workers: Sequence[WorkerReport]) -> Path:
        """`trace.json`, once the workers' reports are known."""
        path = self.failed.with_name("trace.json")
        with path.open("wb") as out:
            self.trace.write(out, workers)
        return path


def read_results(
    workspace: Workspace,
    plan: Plan,
    folder: Path,
    *,
    swapped: Collection[tuple[int, int]] = frozenset(),
    processes: int | None = None,
) -> Results:
    """Go through the rows; the files are written into `folder`, which is made. Without the `swapped` records.

    Of a run of many rows several processes share the work; `processes` says how many, instead of by rows and
    processors. Raises StorageError.
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
        plain, drawn = None, {shard.name for shard in plan.shards if trace.shows(shard.name)}
        if processes is None:
            shared = sum(shard.rows for shard in plan.shards if shard.name not in drawn)
            processes = processes_for(shared, FEWEST_ROWS)
        if processes:
            plain = plain_reader(stack.enter_context(pool_for(workspace, plan, processes)), workspace, plan, drawn)
        ends = sorted((shard.last_row, name) for name, shard in shards.items())
        at = 0
        for part in CountedRows(storage, layout, plan, retries, settings, left, swapped=swapped).parts(plain):
            while at < len(ends) and ends[at][0] < part.number:
                _close(results, ends[at][1])
                at += 1
            if isinstance(part, SummedUp):
                _extend(results, part.what, timings, failed)
            else:
                _add(results, part, timings, failed)
        for _, name in ends[at:]:
            _close(results, name)
        _close(results, REJECTED)
    results.file = flag_outliers(results.file, results.timings, results.sums.tally)
    return results


def _add(results: Results, row: CountedRow, timings: TimingsWriter, failed: IO[bytes]) -> None:
    """Add one row, which may have no record."""
    if not row.records:
        results.missing.append(row.number)
        return
    record = results.sums.add(row)
    results.file.append(record)
    shard, _ = row.records[-1]
    if shard != REJECTED:
        results.trace.add(record, shard)
    timings.add(record)
    write_failed(row, record, failed)


def _extend(results: Results, rows: Stretch, timings: TimingsWriter, failed: IO[bytes]) -> None:
    """Add rows that another process has summed up."""
    results.sums.extend(rows.sums, rows.ids)
    results.file.append_lines(rows.rows, rows.lengths, rows.lines)
    results.trace.leave_out(len(rows.rows))
    timings.add_batch(read_timings_batch(rows.timings))
    failed.write(rows.failed)


def _close(results: Results, shard: str) -> None:
    results.sums.tally.close(shard)
    results.trace.close(shard)
