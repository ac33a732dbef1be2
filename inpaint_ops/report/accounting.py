"""Promise 1, counted: every row ends once, or the rows that did not are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from inpaint_ops.records import Counts, Record
from inpaint_ops.wording import counted

_NAMED = 10


@dataclass(frozen=True, slots=True)
class Accounting:
    """A run's records against its manifest.

    `counts` has the rows by how they ended; one with several records counts once. `missing` and `unknown` are known
    only where the manifest's line numbers are.
    """

    counts: Counts
    repeated_rows: Sequence[int] = ()
    repeated_ids: Sequence[str] = ()
    missing: Sequence[int] = ()
    unknown: Sequence[int] = ()

    @property
    def rows(self) -> int:
        """Of the manifest."""
        return self.counts.rows

    @property
    def not_done_share(self) -> float:
        """Failed and rejected rows over all rows, 0 to 1."""
        counts = self.counts
        return (counts.failed + counts.rejected) / self.rows if self.rows else 0.0

    def reasons(self, failure_threshold: float) -> tuple[str, ...]:
        """Why the run is not valid, one plain sentence each; empty for a valid run."""
        counts, found = self.counts, []
        if self.repeated_rows:
            several = counted(len(self.repeated_rows), "row has", "rows have")
            found.append(f"{several} more than one record: {_lines(self.repeated_rows)}.")
        if self.repeated_ids:
            several = counted(len(self.repeated_ids), "id names", "ids name")
            found.append(f"{several} more than one row: {_listed(self.repeated_ids)}.")
        if self.missing or counts.missing > 0:
            short = max(len(self.missing), counts.missing)
            names = f": {_lines(self.missing)}" if self.missing else ""
            found.append(f"{short:,} of {self.rows:,} rows {'has' if short == 1 else 'have'} no record{names}.")
        if self.unknown or counts.missing < 0:
            extra = max(len(self.unknown), -counts.missing)
            names = f": {_lines(self.unknown)}" if self.unknown else ""
            found.append(f"{counted(extra, 'record is', 'records are')} of no row of the manifest{names}.")
        if self.not_done_share > failure_threshold:
            bad = counts.failed + counts.rejected
            found.append(
                f"{bad:,} of {self.rows:,} rows failed or {'was' if bad == 1 else 'were'} rejected "
                f"({_percent(self.not_done_share)}); the threshold is {_percent(failure_threshold)}."
            )
        return tuple(found)


def kept_records(records: Iterable[Record]) -> list[Record]:
    """One record per row, by line: of several the one that finished first, for a commit point that was written twice
    should never have been overwritten.
    """
    kept: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: (r.row, r.finished_at, r.attempt)):
        kept.setdefault(record.row, record)
    return list(kept.values())


def account(records: Sequence[Record], *, rows: int, row_numbers: Collection[int] | None = None) -> Accounting:
    """Hold `records` against a manifest of `rows` rows, whose line numbers are `row_numbers` where the caller knows."""
    kept = {record.row: record for record in kept_records(records)}
    by_status = Counter(record.status for record in kept.values())
    per_row = Counter(record.row for record in records)
    per_id = Counter(record.id for record in kept.values())
    lines = set(row_numbers) if row_numbers is not None else None
    return Accounting(
        Counts(rows=rows, done=by_status["done"], failed=by_status["failed"], rejected=by_status["rejected"]),
        repeated_rows=tuple(sorted(row for row, count in per_row.items() if count > 1)),
        repeated_ids=tuple(sorted(name for name, count in per_id.items() if count > 1)),
        missing=() if lines is None else tuple(sorted(lines - kept.keys())),
        unknown=() if lines is None else tuple(sorted(kept.keys() - lines)),
    )


def _lines(numbers: Sequence[int]) -> str:
    return f"{'line' if len(numbers) == 1 else 'lines'} {_listed(numbers)}"


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"
