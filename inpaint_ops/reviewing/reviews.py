"""The marks of one run: read as they change, and appended so that no writer loses another's.

Each reviewer has one object, of a line per mark. It is replaced only by somebody who has read it as it is (`If-Match`),
so two browsers of one reviewer, a command beside them, and a process that is killed in between lose nothing.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from inpaint_ops.errors import (
    DamagedObjectError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.reviewing.marks import LINE_BYTES, Mark, Opinion, add_marks
from inpaint_ops.reviewing.reviewers import check_reviewer, key_of, reviewer_of
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, listed, parse_model, smallest_first

log = logging.getLogger(__name__)

FILE_BYTES = 16 * 2**20
"""Of one reviewer's object, at most: about 60,000 marks without notes. Before it is full, lines that later ones of the
same reviewer have superseded are dropped."""

ALL_BYTES = 64 * 2**20
"""Of all reviewers of a run together, that are read."""

MAX_REVIEWERS = 1000
_TRIES = 50
"""Of one append while others write to the same object."""
_PAUSE, _MAX_PAUSE = 0.02, 1.0
_NO_SUCH_ETAG = "0" * 32
_JSONL = "application/jsonl"
_RANDOM = random.SystemRandom()


@dataclass(slots=True)
class _File:
    """One reviewer's object as it was last read, and what it comes to."""

    etag: str
    body: bytes = b""
    lines: int = 0
    opinions: dict[str, Opinion] = field(default_factory=dict)


class Reviews:
    """What all reviewers say of one run's results. Safe to share between threads.

    Call `refresh` before reading. What cannot be read gets a line in `left` and costs itself alone.
    """

    def __init__(self, storage: Storage, layout: RunLayout, left: Leftovers | None = None) -> None:
        self._storage = storage
        self._layout = layout
        self._left = left or Leftovers()
        self._files: dict[str, _File] = {}
        self._version = 0
        self._conditions_hold = False
        self._reading, self._writing = threading.Lock(), threading.Lock()

    @property
    def version(self) -> int:
        """Another number once anything has changed."""
        return self._version

    @property
    def opinions(self) -> Mapping[str, Mapping[str, Opinion]]:
        """Reviewer -> id of a row -> what this reviewer says of it."""
        return MappingProxyType({name: file.opinions for name, file in self._files.items()})

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was left out and why, a line each."""
        return self._left.lines()

    def refresh(self) -> None:
        """Read what has changed: one listing, and a GET for each changed object. Raises StorageError."""
        with self._reading:
            infos = {}
            for info in listed(self._storage, self._layout.reviews, self._left, limit=MAX_REVIEWERS):
                reviewer = self._reviewer(info.location)
                if reviewer is None or info.size > FILE_BYTES:
                    why = "it is no reviewer's" if reviewer is None else f"it has more than {FILE_BYTES:,} bytes"
                    self._left.add(f"{info.location} was left out: {why}.")
                else:
                    infos[reviewer] = info
            kept = {info.location for info in smallest_first(infos.values(), ALL_BYTES, self._left)}
            files = {}
            for reviewer, info in infos.items():
                if info.location in kept and (file := self._read(reviewer, info)) is not None:
                    files[reviewer] = file
            self._keep(files)

    def append(self, reviewer: str, marks: Sequence[Mark]) -> None:
        """Add these marks to the reviewer's. They are stored once this returns, whoever else writes meanwhile.

        Raises ConfigError for a name that cannot be a reviewer's; ObjectTooLargeError where the reviewer has no room
        left; StorageError, also where the store does not honour `If-Match`; StorageUnavailableError where others wrote
        on every try.
        """
        reviewer = check_reviewer(reviewer)
        lines = b"".join(mark.line() for mark in marks)
        if not lines:
            return
        where = self._layout.review(key_of(reviewer))
        with self._writing:
            file = self._files.get(reviewer) or self._look(reviewer, where)
            for tried in range(_TRIES):
                body = _room_made(file, lines, where)
                try:
                    info = self._put(where, body, file)
                except (ObjectExistsError, ObjectChangedError):
                    file = self._look(reviewer, where)
                    if file is not None and all(mark.key.encode() in file.body for mark in marks):
                        break  # an earlier try of ours was stored, and its reply lost; then another writer appended
                    time.sleep(min(_MAX_PAUSE, _PAUSE * 2**tried) * _RANDOM.random())
                else:
                    file = self._read_from(reviewer, info, body, file)
                    break
            else:
                raise StorageUnavailableError(f"cannot write {where}: others wrote to it on every try; try again")
            with self._reading:
                self._keep({**self._files, reviewer: file})
            self._check_conditions(where, file)

    def _put(self, where: Location, body: bytes, file: _File | None) -> ObjectInfo:
        if file is None:
            return self._storage.put(where, body, if_absent=True, content_type=_JSONL)
        return self._storage.put(where, body, if_match=file.etag, content_type=_JSONL)

    def _check_conditions(self, where: Location, file: _File) -> None:
        """Ask once whether the store honours `If-Match`: with a put that has to be refused, of nothing new."""
        if self._conditions_hold:
            return
        try:
            self._storage.put(where, file.body + b"\n", if_match=_NO_SUCH_ETAG, content_type=_JSONL)
        except ObjectChangedError:
            self._conditions_hold = True
            return
        raise StorageError(
            f"cannot write {where} safely: the store ignores If-Match, so that two reviewers at once could lose marks; "
            "docs/storage.md names stores that honour it"
        )

    def _look(self, reviewer: str, where: Location) -> _File | None:
        """The reviewer's object as it is now; None where there is none yet."""
        try:
            info = self._storage.stat(where)
        except ObjectNotFoundError:
            return None
        with self._reading:
            return self._read(reviewer, info)

    def _reviewer(self, place: Location) -> str | None:
        name = place.key[len(self._layout.reviews.key) :]
        return reviewer_of(name.removesuffix(".jsonl")) if name.endswith(".jsonl") and "/" not in name else None

    def _read(self, reviewer: str, info: ObjectInfo) -> _File | None:
        """The object, at least as new as `info` describes it; None where it is gone. Nothing is read twice."""
        known = self._files.get(reviewer)
        for _ in range(_TRIES):
            if known is not None and known.etag == info.etag:
                return known
            if info.size > FILE_BYTES:
                raise ObjectTooLargeError(f"{info.location} has {info.size:,} bytes, and the limit is {FILE_BYTES:,}")
            try:
                body = self._storage.get(info.location, max_bytes=FILE_BYTES, if_match=info.etag)
                return self._read_from(reviewer, info, body, known)
            except ObjectNotFoundError:
                return None
            except ObjectChangedError:  # somebody has appended meanwhile
                info = self._storage.stat(info.location)
        raise StorageUnavailableError(f"cannot read {info.location}: it changed on every try; try again")

    def _read_from(self, reviewer: str, info: ObjectInfo, body: bytes, known: _File | None) -> _File:
        """The file of this content; of one that has grown, only the new lines are parsed."""
        grown = known is not None and known.body.endswith(b"\n") and body.startswith(known.body)
        file = _File(info.etag, body)
        rest = body
        if known is not None and grown:
            file.lines, file.opinions, rest = known.lines, dict(known.opinions), body[len(known.body) :]
        add_marks(file.opinions, self._parsed(rest, file, info.location))
        return file

    def _parsed(self, body: bytes, file: _File, where: Location) -> Iterator[Mark]:
        lines = body.split(b"\n")
        for line in lines if lines[-1] else lines[:-1]:
            file.lines += 1
            if not line.strip():
                continue
            what = f"line {file.lines} of {where}"
            try:
                if len(line) > LINE_BYTES:
                    raise DamagedObjectError(f"{what} has {len(line):,} bytes, and the limit is {LINE_BYTES:,}")
                yield parse_model(line, Mark, what)
            except DamagedObjectError as error:
                self._left.add(f"{error}: this mark was left out.")

    def _keep(self, files: dict[str, _File]) -> None:
        changed = {name: file.etag for name, file in files.items()} != {
            name: file.etag for name, file in self._files.items()
        }
        self._files = files
        self._version += changed


def _room_made(file: _File | None, lines: bytes, where: Location) -> bytes:
    """The new content. Raises ObjectTooLargeError where there is no room, even without superseded lines."""
    before = file.body if file is not None else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    if len(before) + len(lines) > FILE_BYTES and file is not None:
        before = b"".join(mark.line() for name, one in file.opinions.items() for mark in one.as_marks(name))
        log.info("%s: lines that later ones supersede were dropped, since it was full", where)
    if len(before) + len(lines) > FILE_BYTES:
        raise ObjectTooLargeError(
            f"{where} is full: a reviewer's marks of one run have {FILE_BYTES:,} bytes at most; write shorter notes, "
            "or have another reviewer go on"
        )
    return before + lines
