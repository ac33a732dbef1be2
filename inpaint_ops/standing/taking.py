"""What a standing job finds in the store, and which of it is new or changed since it was last taken.

A row is told by a digest of what it says (files, prompt, parameters) and of its files' ETags. So a photo that was
replaced, a mask that was redrawn and a prompt that was edited are taken again, and nothing else is.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inpaint_ops.errors import ForbiddenLocationError, ObjectNotFoundError, StorageError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.pairing import pair
from inpaint_ops.manifest.prompts_file import read_prompts
from inpaint_ops.manifest.rows import ERROR_FIELD
from inpaint_ops.records import RunSummary
from inpaint_ops.runs import Workspace
from inpaint_ops.runs.pictures import pictures_below
from inpaint_ops.standing.entries import Entry
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import SUMMARY_BYTES

DIGEST = 32
"""Hexadecimal digits by which a row is told from others."""

_SHOWN = 20
_IO_THREADS = 16
_FILE_BYTES = 2**28
_LIST_FROM = 10
"""Files of one folder from which on it is listed, and not asked for each."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest to be, and the digest of what it is made of."""

    written: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Found:
    """All rows that an entry stands for now, and a line for each file or row that gives none."""

    rows: Sequence[Row]
    notes: tuple[str, ...] = ()


def find(workspace: Workspace, entry: Entry) -> Found:
    """The rows of an entry, as they are now.

    Raises ConfigError for a prefix that holds nothing or may not be read, ManifestError, StorageError.
    """
    return _of_manifest(workspace, entry) if entry.manifest is not None else _of_folders(workspace, entry)


def _of_manifest(workspace: Workspace, entry: Entry) -> Found:
    job = entry.job(workspace.settings)
    assert entry.manifest is not None
    parsed, _ = workspace.read_manifest(entry.manifest, None, job.row_defaults())
    etags = _etags(workspace.storage, (place for row in parsed.accepted for place in (row.image, row.mask)))
    rows = [
        Row(written, _digest(written, etags[row.image], etags[row.mask]))
        for row in parsed.accepted
        for written in [row.as_manifest_row() | {"image": parse(row.image).full_uri, "mask": parse(row.mask).full_uri}]
    ]
    for rejected in parsed.rejected:  # they are rejected again by the run, which explains them
        written = {name: value for name, value in rejected.as_manifest_row().items() if name != ERROR_FIELD}
        rows.append(Row(written, _digest(written)))
    return Found(rows, _cut(parsed.notes))


def _of_folders(workspace: Workspace, entry: Entry) -> Found:
    assert entry.images is not None
    roots = parse(entry.images).as_prefix(), parse(entry.masks or entry.images).as_prefix()
    listed, notes, etags = [], list[str](), dict[Location, str]()
    for root in dict.fromkeys(roots):
        infos, refused = pictures_below(workspace.storage, root, recursive=entry.recursive)
        etags |= {info.location: info.etag for info in infos}
        listed.append([info.location for info in infos])
        notes += refused
    read = Notes()
    prompts = _prompts(workspace, entry, read)
    paired = pair(
        listed[0], listed[-1], prompt="" if "prompt" in entry.options else None, prompts=prompts,
        roots=roots, mask_suffix=entry.mask_suffix, pattern=entry.glob, id_template=entry.id,
    )  # fmt: skip
    rows = []
    for row in paired.rows:
        image, mask = parse(row["image"]), parse(row["mask"])
        written = {name: value for name, value in row.items() if name != "prompt" or value}  # else it is the job's
        written |= {"image": image.full_uri, "mask": mask.full_uri}
        rows.append(Row(written, _digest(written, etags[image], etags[mask])))
    return Found(rows, _cut([*notes, *read.lines(), *paired.left_out(), *paired.without_row()]))


def _prompts(workspace: Workspace, entry: Entry, notes: Notes) -> dict[str, str] | None:
    if entry.prompts is None:
        return None
    most = workspace.settings.max_manifest_bytes
    body = workspace.storage.get(entry.prompts, max_bytes=most)
    return read_prompts(
        body, key_column=entry.key_column, prompt_column=entry.prompt_column, max_bytes=most, notes=notes
    )


def _cut(notes: Iterable[str]) -> tuple[str, ...]:
    lines = iter(notes)
    shown = tuple(itertools.islice(lines, _SHOWN))
    more = sum(1 for _ in lines)
    return (*shown, f"and {more:,} more") if more else shown


def _etags(storage: Storage, uris: Iterable[str]) -> dict[str, str]:
    """The ETag of each object, "" for one that is not there or may not be read: the run says which."""
    wanted = {uri: parse(uri) for uri in uris}
    folders = Counter(place.parent for place in wanted.values())
    listed: dict[Location, str] = {}
    for folder, count in folders.items():
        if count >= _LIST_FROM:
            try:
                listed |= {info.location: info.etag for info in storage.list(folder, direct=True)}
            except (ForbiddenLocationError, ObjectNotFoundError):
                continue

    def etag(place: Location) -> str:
        if place in listed:
            return listed[place]
        try:
            return storage.stat(place).etag
        except (StorageError, ForbiddenLocationError) as error:
            if not error.permanent:
                raise
            return ""

    with ThreadPoolExecutor(_IO_THREADS) as pool:
        return dict(zip(wanted, pool.map(etag, wanted.values()), strict=True))


def _digest(written: dict[str, Any], *etags: str) -> str:
    text = json.dumps([written, *etags], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST]


# -- what was taken -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """The digests of the rows that runs have taken which ended well, up to the time `through`."""

    digests: frozenset[str]
    through: str = ""


def read_taken(workspace: Workspace, name: str) -> Taken:
    """What a standing job has taken; nothing where that is not there, or damaged: then it takes all again."""
    lines = _lines(workspace, workspace.places.standing_taken(name))
    if not lines:
        return Taken(frozenset())
    return Taken(frozenset(line for line in lines[1:] if len(line) == DIGEST), lines[0])


def put_taken(workspace: Workspace, name: str, taken: Taken) -> None:
    """Store it."""
    _put_lines(workspace, workspace.places.standing_taken(name), [taken.through, *sorted(taken.digests)])


def put_rows(workspace: Workspace, name: str, stamp: str, rows: Sequence[Row]) -> str:
    """Store a run's manifest and the digests of its rows, line by line; returns the manifest's URI."""
    manifest = workspace.places.standing_time(name, stamp, "manifest.jsonl")
    body = "".join(json.dumps(row.written, ensure_ascii=False) + "\n" for row in rows)
    _put_lines(workspace, workspace.places.standing_time(name, stamp, "rows.txt.gz"), [row.digest for row in rows])
    workspace.storage.put(manifest, body.encode(), content_type="application/jsonl")
    return manifest.uri


def taken_by(workspace: Workspace, name: str, stamp: str, run: str) -> frozenset[str]:
    """The digests of the rows that a run took, which is over: all of one that ended well, else those that are done."""
    digests = _lines(workspace, workspace.places.standing_time(name, stamp, "rows.txt.gz"))
    layout = workspace.layout(run)
    try:
        body = workspace.storage.get(layout.summary, max_bytes=SUMMARY_BYTES)
        if RunSummary.model_validate_json(body).verdict == "VALID":
            return frozenset(digests)
    except (ObjectNotFoundError, ValidationError):  # it never got so far, or somebody has damaged it
        return frozenset()
    return frozenset(digests[row - 1] for row in _done(workspace, layout.results) if 0 < row <= len(digests))


def _done(workspace: Workspace, results: Location) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-standing-") as folder:
        local = Path(folder, "results.jsonl")
        try:
            workspace.storage.download(results, local)
        except ObjectNotFoundError:
            return
        with local.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    if row["status"] == "done":
                        yield int(row["row"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue


def _put_lines(workspace: Workspace, place: Location, lines: Iterable[str]) -> None:
    body = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    workspace.storage.put(place, body, content_type="application/gzip")


def _lines(workspace: Workspace, place: Location) -> list[str]:
    """The lines of a packed file of ours; none where it is not there, or damaged. What it unpacks to is bounded."""
    try:
        packed = workspace.storage.get(place, max_bytes=_FILE_BYTES)
    except ObjectNotFoundError:
        return []
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(packed, _FILE_BYTES)
    except zlib.error:
        return []
    return text.decode("ascii", "replace").split("\n")[:-1] if unpacker.eof else []
