"""Rows' images and masks, read as a worker reads them, before any is painted.

A photograph that cannot be read, or a mask that fits no photograph, costs a run nothing but its row; that every second
one is so is better known before the night. The files are not trusted: helpers decode them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from inpaint_ops.config import Settings
from inpaint_ops.errors import InpaintOpsError, PreviewError
from inpaint_ops.images import PairReading
from inpaint_ops.machine.processors import processors
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, planned
from inpaint_ops.previews import Helper, Job, Limits, Pair, split_parts
from inpaint_ops.previews.pool import HelperPool
from inpaint_ops.storage import Storage
from inpaint_ops.storage.pieces import in_pieces
from inpaint_ops.tallies.spread import mostly_masked
from inpaint_ops.wording import counted

LIMITS = Limits(memory_bytes=4 * 2**30, cpu_seconds=120, wall_seconds=600)
"""Of one row. A worker has no such limits: what is beyond them says nothing of the row."""
_KINDS = 10
"""Of conversions that notes name."""


@dataclass(slots=True)
class RowsRead:
    """What was found in the files of some rows."""

    rows: int = 0
    problems: list[str] = field(default_factory=list)
    """A line for each row that would fail."""
    not_read: list[str] = field(default_factory=list)
    """A line for each row whose files could not be had or read here, which says nothing of the row."""
    converted: int = 0
    conversions: Counter[str] = field(default_factory=Counter)
    largely_masked: int = 0

    @property
    def readable(self) -> int:
        """Rows that can be painted, as far as their files say."""
        return self.rows - len(self.problems) - len(self.not_read)

    @property
    def is_mostly_masked(self) -> bool:
        """Whether `notes` says that most masks cover most of their picture."""
        return any(mostly_masked(self.largely_masked, self.readable))

    def notes(self, of: int) -> Iterator[str]:
        """What is to be said beside the problems; `of` is how many rows there are."""
        yield (
            f"{self.rows:,} of {counted(of, 'row')} read: {self.readable:,} can be painted, {self.converted:,} of them "
            f"converted; {len(self.problems):,} would fail"
        )
        for text, count in self.conversions.most_common(_KINDS):
            yield f"{counted(count, 'row')}: {text}"
        if len(self.conversions) > _KINDS:
            yield f"and {len(self.conversions) - _KINDS:,} more kinds of conversions"
        yield from mostly_masked(self.largely_masked, self.readable)
        if self.not_read:
            yield f"{counted(len(self.not_read), 'row')} could not be read here: {self.not_read[0]}"


def read_rows(
    storage: Storage,
    settings: Settings,
    job: JobOptions,
    rows: Iterable[AcceptedRow],
    *,
    limits: Limits = LIMITS,
    at_once: int = 8,
) -> RowsRead:
    """Read the files of these rows, as many at once as there are processors, or `at_once`. Raises nothing of a row's
    files: they are what is found.
    """
    found = RowsRead()

    def read(helper: Helper, row: AcceptedRow) -> tuple[AcceptedRow, Pair | InpaintOpsError, str]:
        what = ""
        try:
            files = []
            for what in ("image: ", "mask: "):
                files.append(in_pieces(storage, getattr(row, what[:-2]), max_bytes=settings.max_image_bytes))
            what = ""
            made = helper.make(Job("pair", 0, settings.max_pixels, reading=_reading(row, job, settings)), files)
            return row, Pair.of_json(split_parts(made.data)[0]), ""
        except InpaintOpsError as error:
            return row, error, what
        except ValueError:
            return row, PreviewError("broke its decoder"), ""

    with HelperPool(min(processors(), at_once), lambda: Helper(limits)) as helpers:
        for row, one, what in helpers.map(read, rows):
            found.rows += 1
            if isinstance(one, Pair):
                found.converted += bool(one.conversions)
                found.conversions.update(one.conversions)
                found.largely_masked += one.mask_share > 0.5
            else:
                lines = found.problems if _is_the_rows(one) else found.not_read
                lines.append(f"row {row.row}: {what}{one}")
    return found


def _is_the_rows(error: InpaintOpsError) -> bool:
    """Whether a worker would meet the error, too: it has not the limits of a helper."""
    return error.is_of_file if isinstance(error, PreviewError) else error.permanent


def _reading(row: AcceptedRow, job: JobOptions, settings: Settings) -> PairReading:
    whole = planned(row, job)
    return PairReading(
        max_pixels=settings.max_pixels,
        format=whole.output_format,
        metadata=settings.metadata,
        frames=settings.frames,
        channel=row.mask_channel,
        threshold=row.mask_threshold,
        invert=row.mask_invert,
        dilate=row.mask_dilate,
        blur=row.mask_blur,
        blend=whole.parameters.blend,
        resize=settings.mask_resize == "nearest",
    )
