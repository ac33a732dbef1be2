"""What the images of a run are called, where the job has a template: found out once, when the run is planned."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from inpaint_ops.config import EXTENSIONS
from inpaint_ops.layout import PART, NamePrefixes
from inpaint_ops.manifest import (
    AcceptedRow,
    OutputNames,
    ParsedManifest,
    RejectedRow,
    TakenNames,
    check_apart,
    folder_of,
)
from inpaint_ops.manifest.packed import PackedRows
from inpaint_ops.manifest.problems import BadRowError
from inpaint_ops.planning import JobOptions, PlannedRow, planned
from inpaint_ops.records import ErrorInfo


def names_of(job: JobOptions, manifest: str) -> OutputNames | None:
    """The job's template for the rows of a manifest, by where it lies; None where images are called by their ids."""
    return OutputNames(job.names, folder_of(manifest)) if job.names is not None else None


def reject_rows_without_names(
    parsed: ParsedManifest, job: JobOptions, manifest: str
) -> tuple[ParsedManifest, NamePrefixes]:
    """The manifest with those rows rejected whose name no file may have everywhere; and what the others begin with.

    Raises ConfigError that names both rows where two would have one name.
    """
    names, prefixes = names_of(job, manifest), NamePrefixes()
    if names is None:
        ids = parsed.accepted.ids() if isinstance(parsed.accepted, PackedRows) else (row.id for row in parsed.accepted)
        for name in ids:
            prefixes.add(name)
        return parsed, prefixes
    rejected = [row for one in parsed.accepted if (row := _rejected(one, job, names)) is not None]
    if rejected:
        bad = {row.row for row in rejected}
        parsed = ParsedManifest.packed(
            (row for row in parsed.accepted if row.row not in bad),
            heapq.merge(parsed.rejected, rejected, key=lambda row: row.row),
            parsed.notes,
        )
    check_apart(_Named(parsed.accepted, names, job, prefixes), names.template)
    return parsed, prefixes


def image_prefixes(names: NamePrefixes, rows: int) -> tuple[str, ...]:
    """What stands in the plan of so many rows: nothing where there is no use in listing their images in parts."""
    found = names.cover(PART) if rows > PART else ()
    return found if len(found) > 1 else ()


def named(row: AcceptedRow, job: JobOptions, names: OutputNames | None) -> PlannedRow:
    """The row as it is planned. Raises BadRowError, for a row that `reject_rows_without_names` has not seen."""
    return planned(row, job, names.names(row, row.variants or job.variants) if names else ())


def _rejected(row: AcceptedRow, job: JobOptions, names: OutputNames) -> RejectedRow | None:
    try:
        names.names(row, row.variants or job.variants)
    except BadRowError as error:
        message = f"row {row.row}: {error}"
        info = ErrorInfo(type="RowError", stage="validate", message=message, permanent=True, field=error.field)
        return RejectedRow(row.row, row.id, info, row.prompt, planned(row, job).as_manifest_row())
    return None


@dataclass(frozen=True, slots=True)
class _Named:
    """Rows' lines and names, with their endings, as often as they are asked for; `prefixes` notes each."""

    rows: Sequence[AcceptedRow]
    names: OutputNames
    job: JobOptions
    prefixes: NamePrefixes

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for row in self.rows:
            for name in self.names.names(row, row.variants or self.job.variants):
                self.prefixes.add(name)
                yield row.row, name + EXTENSIONS[row.output_format]


class NamesOfRun:
    """The names that the rows of a planned run have; rows that are planned later get names beside them."""

    def __init__(self, names: OutputNames | None, rows: Iterable[PlannedRow]) -> None:
        self._names = names
        self._by_row: dict[int, tuple[str, ...]] = {}
        self._taken = TakenNames()
        for row in rows if names else ():
            self._by_row[row.row] = row.names
            for name in row.names:
                self._taken.claim(name + EXTENSIONS[row.output_format], row.row)

    def plan(self, row: AcceptedRow, job: JobOptions) -> PlannedRow:
        """The row as it is planned; one that was planned before keeps its name.

        Raises BadRowError where it has no good name, or another row has it.
        """
        if self._names is None:
            return planned(row, job)
        count = row.variants or job.variants
        kept = self._by_row.get(row.row, ())
        names = kept if len(kept) == count else self._names.names(row, count)
        for whole in (name + EXTENSIONS[row.output_format] for name in names):
            if (other := self._taken.claim(whole, row.row)) is not None:
                raise BadRowError(
                    f"{whole!r} is the name of row {other}'s image ({self._names.template}): give the row another "
                    "source",
                    "image",
                )
        return planned(row, job, names)
