"""The lines of a long JSONL manifest are read by several processes at once.

They check what a row says by itself (`reading_process`). What depends on other rows or on who may read what, ids and
places, is left to whoever started them; so is each line that is not accepted, which is read again there: what is said
of a row has one home.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

from inpaint_ops.locations import Location
from inpaint_ops.machine.process_pool import ProcessPool, processes_for
from inpaint_ops.manifest.formats import JsonLines, ManifestLimits, RawRow, read_json_line
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.rows import RejectedRow, Row, pack_row
from inpaint_ops.manifest.templates import RowDefaults
from inpaint_ops.manifest.text import TooLong, json_lines
from inpaint_ops.manifest.validating import id_or_stem, validate

_MODULE = "inpaint_ops.manifest.reading_process"
FEWEST_ROWS = 100_000
"""With fewer rows, starting processes costs about what they save."""
_LINES, _BYTES = 1_000, 256 * 2**10
"""Of a piece of work, about: a hostile line unpacks to thirty times its text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is the same for all rows of a manifest."""

    folder: Location
    limits: ManifestLimits
    defaults: RowDefaults


@dataclass(frozen=True, slots=True)
class GoodRow:
    """A row that is accepted unless another has its id, or its image or mask may not be read."""

    line: bytes
    packed: bytes
    """As `pack_row` makes it."""
    wanted: bytes
    """As `id_or_stem` makes it."""
    image: Location
    mask: Location


@dataclass(slots=True)
class ReadLines:
    """What a process makes of some lines: of each a row as packed text, its `id_or_stem` and the URIs of its image and
    its mask, or None for one that is not accepted; and what reading the accepted ones changed.
    """

    rows: list[tuple[bytes, bytes, str, str] | None] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    @classmethod
    def of(cls, reading: Reading, lines: Iterable[tuple[int, bytes | None]]) -> ReadLines:
        """Read the lines, each with its number; None is one that is not to be read here."""
        read = cls()
        for number, line in lines:
            notes = Notes()
            row = None if line is None else _validated(reading, number, line, notes)
            if isinstance(row, Row):
                read.rows.append((pack_row(row, number), id_or_stem(row), row.image, row.mask))
                read.notes.extend(notes)
            else:
                read.rows.append(None)
        return read


def _validated(reading: Reading, number: int, line: bytes, notes: Notes) -> Row | RejectedRow:
    return validate(
        number, read_json_line(line), reading.folder, lambda place: True, reading.limits, reading.defaults, notes
    )


@contextmanager
def opened(
    rows: Iterable[RawRow], reading: Reading, notes: Notes, *, share: bool
) -> Iterator[Iterable[RawRow | tuple[int, GoodRow]]]:
    """The rows; where others may `share` the work and there is enough of it, good ones come as such.

    What reading a good row changed is in `notes` when it comes.
    """
    if share and isinstance(rows, JsonLines) and (count := processes_for(rows.text.count(b"\n"), FEWEST_ROWS)):
        with closing(_shared(rows, reading, notes, count)) as shared:
            yield shared
    else:
        yield rows


def _shared(
    lines: JsonLines, reading: Reading, notes: Notes, count: int
) -> Generator[RawRow | tuple[int, GoodRow], None, None]:
    under_way: deque[list[tuple[int, bytes | TooLong]]] = deque()

    def works() -> Iterator[partial[list[tuple[int, bytes | None]]]]:
        for piece in _pieces(json_lines(lines.text, lines.limits.max_row_bytes)):
            under_way.append(piece)
            yield partial(_to_send, piece)

    with ProcessPool(_MODULE, count, reading) as pool:
        for read in pool.map(works()):
            piece = under_way.popleft()
            rows: Sequence[tuple[bytes, bytes, str, str] | None] = [None] * len(piece)
            if read is not None:  # else its process ended
                rows = read.rows
                notes.extend(read.notes)
            for (number, line), row in zip(piece, rows, strict=True):
                if row is None or isinstance(line, TooLong):
                    yield number, lines.raw(line)
                else:
                    packed, wanted, image, mask = row
                    yield number, GoodRow(line, packed, wanted, _place(image), _place(mask))


def _pieces(lines: Iterable[tuple[int, bytes | TooLong]]) -> Iterator[list[tuple[int, bytes | TooLong]]]:
    piece: list[tuple[int, bytes | TooLong]] = []
    size = 0
    for number, line in lines:
        piece.append((number, line))
        size += len(line) if isinstance(line, bytes) else 0
        if len(piece) >= _LINES or size >= _BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _to_send(piece: Iterable[tuple[int, bytes | TooLong]]) -> list[tuple[int, bytes | None]]:
    return [(number, line if isinstance(line, bytes) else None) for number, line in piece]


def _place(uri: str) -> Location:
    """What `Location.uri` says: `parse` takes many forms, and longer."""
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return Location(bucket, key)
    return Location(None, uri)
