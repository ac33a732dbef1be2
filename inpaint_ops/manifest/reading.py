"""Raw rows to accepted and rejected ones, each with a unique id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest import parquet
from inpaint_ops.manifest.formats import (
    MANIFEST_ENDINGS,
    ManifestLimits,
    RawRow,
    manifest_ending,
    read_csv,
    read_excel,
    read_json_line,
    read_jsonl,
    read_parquet,
)
from inpaint_ops.manifest.naming import Names
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.packed import PackedLines, PackedRows
from inpaint_ops.manifest.rejecting import reject
from inpaint_ops.manifest.rows import (
    ParsedManifest,
    RejectedRow,
    Row,
    pack_rejected,
    pack_row,
    unpack_rejected,
    unpack_row,
)
from inpaint_ops.manifest.sharing import GoodRow, Reading, opened
from inpaint_ops.manifest.templates import RowDefaults
from inpaint_ops.manifest.unpacking import as_utf8, gunzipped
from inpaint_ops.manifest.validating import id_or_stem, validate


def read_manifest(
    data: bytes,
    *,
    location: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits | None = None,
    row_limit: int | None = None,
    defaults: RowDefaults | None = None,
) -> ParsedManifest:
    """Read a manifest's bytes; the name's ending decides the format, one of `MANIFEST_ENDINGS`.

    `location` is where the manifest lies: relative keys are below its folder. `is_allowed` says of a location whether
    rows may read it. `row_limit` keeps the first rows only. `defaults` is for rows that do not say it themselves.
    Raises ManifestError when the file as a whole is unusable.
    """
    limits = limits or ManifestLimits()
    return read_parts(
        [(location.name, data)],
        folder=location.parent,
        is_allowed=is_allowed,
        limits=limits,
        row_limit=row_limit,
        defaults=defaults,
    )


def read_parts(
    parts: Iterable[tuple[str, bytes]],
    *,
    folder: Location,
    is_allowed: Callable[[Location], bool],
    limits: ManifestLimits,
    row_limit: int | None = None,
    defaults: RowDefaults | None = None,
    may_share: bool = False,
) -> ParsedManifest:
    """Read a manifest of one or several files, each a name and its bytes, whose rows follow each other.

    Relative keys are below `folder`. The limits hold for all parts together. With `may_share` other processes do some
    of the work where the rows are very many. Raises as `read_manifest` does.
    """
    read, name, left = _Reading(), folder.name, limits.max_bytes
    defaults = defaults or RowDefaults()
    for name, data in parts:
        left -= len(data)
        if left < 0:
            raise ManifestError(
                f"{name}: {limits.max_bytes - left} bytes, the limit is {limits.max_bytes} (INPAINT_MAX_MANIFEST_BYTES)"
            )
        before = read.last
        found = _rows(data, name, limits, limits.max_rows if row_limit is None else None, read.notes)
        share = may_share and not before and row_limit is None
        with opened(found, Reading(folder, limits, defaults), read.notes, share=share) as rows:
            for number, raw in rows:
                if row_limit is not None and read.rows >= row_limit:
                    break
                if read.rows >= limits.max_rows:
                    raise _too_many_rows(name, limits.max_rows)
                notes = read.notes
                if isinstance(raw, GoodRow):
                    if is_allowed(raw.image) and is_allowed(raw.mask) and read.add_packed(number, raw):
                        continue
                    raw, notes = read_json_line(raw.line), Notes()  # what it changed was noted
                at = before + number
                read.add(at, validate(at, raw, folder, is_allowed, limits, defaults, notes))
                del raw  # 30 times its text, so not while the next one is read
        if row_limit is not None and read.rows >= row_limit:
            break
    if not read.rows:
        a_row = "JSON object to a line" if manifest_ending(name) in (".jsonl", ".ndjson") else "row per image"
        raise ManifestError(f"{name} has no rows: write one {a_row}, with image, mask and prompt")
    return read.parsed()


def _rows(data: bytes, name: str, limits: ManifestLimits, max_rows: int | None, notes: Notes) -> Iterable[RawRow]:
    ending = manifest_ending(name)
    if ending not in MANIFEST_ENDINGS:
        cure = {
            ".json": "write one object per line (jq -c '.[]') and name it .jsonl",
            **dict.fromkeys((".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), "save it as .xlsx or .csv"),
            **dict.fromkeys((".zst", ".bz2", ".xz", ".zip"), "unpack it, or compress it with gzip"),
        }.get(ending, f"use {', '.join(sorted(MANIFEST_ENDINGS))}")
        raise ManifestError(f"{name}: {ending or 'no ending'} is not a manifest format; {cure}")
    plain = gunzipped(data, name, limits.max_bytes)
    if plain is not data:
        notes.add("unpacked with gzip")
    if ending == ".parquet":
        return read_parquet(plain, name, limits, max_rows, notes)
    if ending == ".xlsx":
        return read_excel(plain, name, limits, max_rows, notes)
    text, encoding = as_utf8(plain, name, limits.max_bytes)
    if encoding:
        notes.add(f"read as {encoding}")
    if ending in (".csv", ".tsv"):
        return read_csv(text, name, limits, notes, delimiter="\t" if ending == ".tsv" else None)
    return read_jsonl(text, name, limits)


class _Reading:
    """The rows of a manifest that were read so far, packed. Ids come last: what an author wrote goes before a stem."""

    def __init__(self) -> None:
        self.rows = 0
        self.last = 0
        """The number of the row that was read last."""
        self.notes = Notes()
        self._names = Names()
        self._accepted, self._rejected = PackedLines(), PackedLines()
        self._wanted = PackedLines()
        """Of each row, a mark and a name: the author's own or a stem to be made unique; of a rejected one, its line."""

    def add(self, number: int, row: Row | RejectedRow) -> None:
        """Keep a row. An id that an author wrote is the first row's that has it; further rows are rejected."""
        self.rows += 1
        self.last = number
        if isinstance(row, Row) and row.id is not None:
            owner = self._names.claim(row.id, number)
            if owner is not None:
                message = f"id: {row.id!r} is already that of row {owner}: give each row its own"
                row = reject(number, row.model_dump(mode="json", exclude_defaults=True), message, "id")
        if isinstance(row, RejectedRow):
            self._rejected.append(pack_rejected(row))
            self._wanted.append(f"!{number}={row.id}".encode())
        else:
            self._accepted.append(pack_row(row, number))
            self._wanted.append(id_or_stem(row))

    def add_packed(self, number: int, row: GoodRow) -> bool:
        """Keep an accepted row as it is; False if another one has its id."""
        if row.wanted.startswith(b"=") and self._names.claim(row.wanted[1:].decode(), number) is not None:
            return False
        self.rows += 1
        self.last = number
        self._accepted.append(row.packed)
        self._wanted.append(row.wanted)
        return True

    def parsed(self) -> ParsedManifest:
        """The rows, each with an id that no other has. Rejected ones come last: they name no image."""
        ids, bad_ids = PackedLines(), PackedLines()
        for wanted in self._wanted.lines():
            mark, name = wanted[:1], wanted[1:]
            if mark != b"!":
                ids.append(name if mark == b"=" else self._names.give(name.decode()).encode())
        # the author's first, as one byte per row: what is generated later may look like one
        is_own = bytes(bool(own) and self._names.claim(own, number) is None for number, own in self._rejected_ids())
        for (number, own), keeps_it in zip(self._rejected_ids(), is_own, strict=True):
            bad_ids.append((own if keeps_it else self._names.give(f"row-{number}")).encode())
        return ParsedManifest(
            PackedRows(unpack_row, self._accepted, ids),
            PackedRows(unpack_rejected, self._rejected, bad_ids),
            self.notes.lines(),
        )

    def _rejected_ids(self) -> Iterator[tuple[int, str]]:
        """Of each rejected row, its line and the id that its author wrote; empty where that is none."""
        for wanted in self._wanted.lines():
            if wanted.startswith(b"!"):
                number, _, own = wanted[1:].decode().partition("=")
                yield int(number), own


def _too_many_rows(name: str, limit: int) -> ManifestError:
    return ManifestError(f"{name}: {parquet.too_many_rows(limit)}")
