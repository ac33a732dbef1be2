"""Delivering a run: its images first, then what describes them."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import inpaint_ops
from inpaint_ops.config import SideProduct
from inpaint_ops.delivering.contents import (
    Image,
    Row,
    image_to_deliver,
    line_of,
    read_results,
    side_products_to_deliver,
)
from inpaint_ops.delivering.sheet import Sheet
from inpaint_ops.delivering.sheet_pages import SheetPages, shown_lines
from inpaint_ops.delivering.targets import Prefix, Target, check_target
from inpaint_ops.delivering.zips import ZipFile, ZipStream
from inpaint_ops.errors import ConfigError, DamagedObjectError, ObjectNotFoundError, StorageError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location
from inpaint_ops.records import Record, RunSummary, of_variant
from inpaint_ops.reviewing import Final, child_runs, finals
from inpaint_ops.run_files.frozen import row_bytes
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.stored import SUMMARY_BYTES, Leftovers, read_model

log = logging.getLogger(__name__)

NOTE, CONTENTS, SUMS = "delivery.json", "contents.jsonl", "SHA256SUMS"
_OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_JSON, _JSONL, _TEXT, _HTML = "application/json", "application/jsonl", "text/plain", "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What was delivered: counts of rows and images, bytes, and a line for each image that could not be."""

    run: str
    verdict: str
    rows: int
    chosen: int
    """Rows that were to be delivered: all, or the accepted ones."""
    delivered: int
    redone: int
    """Of the delivered images, those of a child run: they were accepted in place of the run's own."""
    there: int
    """Of the delivered images, those that an earlier delivery had put there already."""
    read: int
    """Of the delivered images, those whose digest was compared: all but what the store copied by itself."""
    beside: int
    """Files beside images that were delivered."""
    failed: int
    rejected: int
    bytes: int
    left_out: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether each row that was to be delivered has its image there."""
        return self.delivered == self.chosen


@dataclass(slots=True)
class _Counts:
    chosen: int = 0
    delivered: int = 0
    redone: int = 0
    there: int = 0
    read: int = 0
    beside: int = 0
    bytes: int = 0


def deliver(
    workspace: Workspace,
    run: str,
    to: Location,
    *,
    only: Literal["done", "accepted"] = "done",
    replace: bool = False,
    contact_sheet: Sheet | None = "full",
    also: Collection[SideProduct] = (),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Delivery:
    """Deliver the done rows of a finished run to a prefix, or to a local path that ends in `.zip`; or the `accepted`.

    With `also`, files of these kinds that lie beside the images, as far as the run has any, in a folder of their own.
    Where a reviewer accepted the image of a child run that redid a row, after that of the run, it is delivered.
    A prefix that holds a part of the same delivery is completed; an image with other bytes is replaced only where
    `replace` says so. `progress` is called with the number of rows that were gone through, and of all.

    Raises ConfigError where there is no such run or no report of it, where the place is not fit, or holds something
    else; StorageError.
    """
    storage = workspace.storage
    is_zip = to.key.lower().endswith(".zip")
    if is_zip and to.bucket is not None:
        raise ConfigError(f"{to}: a ZIP file is written on this machine: give a local path, or a prefix without .zip")
    if other := next((ending for ending in _OTHER_ARCHIVES if to.key.lower().endswith(ending)), ""):
        raise ConfigError(f"{to}: no {other} is written: give a .zip; a folder of such a name ends with '/'")
    check_target(to, workspace.places)
    summary = summary_of(workspace, run)
    target: Target = (
        ZipFile(storage, Path(to.key), run, replace=replace) if is_zip else Prefix(storage, to, replace=replace)
    )
    with target:
        if not replace:
            _check_ours(target, to, summary)
        return put_all(workspace, summary, target, only=only, contact_sheet=contact_sheet, also=also, progress=progress)


def zip_stream(
    workspace: Workspace,
    run: str,
    *,
    only: Literal["done", "accepted"] = "done",
    contact_sheet: Sheet | None = "results",
) -> Callable[[Callable[[bytes], None]], Delivery]:
    """A function that makes the ZIP of a finished run and gives its bytes to what it is called with, piece by piece.

    Where that raises, or the store does not answer, the ZIP ends without its list: no program takes it for whole.
    Raises ConfigError where there is no such run or no report of it; StorageError.
    """
    summary = summary_of(workspace, run)

    def send_to(send: Callable[[bytes], None]) -> Delivery:
        with ZipStream(workspace.storage, run, send) as target:
            return put_all(workspace, summary, target, only=only, contact_sheet=contact_sheet)

    return send_to


def put_all(
    workspace: Workspace,
    summary: RunSummary,
    target: Target,
    *,
    only: Literal["done", "accepted"],
    contact_sheet: Sheet | None,
    also: Collection[SideProduct] = (),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Delivery:
    """Deliver a finished run to an opened target; see `deliver`."""
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-deliver-") as folder:
        results = Path(folder, "results.jsonl")
        workspace.storage.download(workspace.layout(summary.run).results, results)
        work = _Work(workspace, summary, target, Path(folder), results, only=only, also=also)
        return work.do(contact_sheet=contact_sheet, progress=progress)


def summary_of(workspace: Workspace, run: str) -> RunSummary:
    """The summary of a finished run. Raises ConfigError where there is no such run or no report of it."""
    try:
        return read_model(workspace.storage, workspace.layout(run).summary, RunSummary, max_bytes=SUMMARY_BYTES)
    except ObjectNotFoundError:
        if workspace.plan(run) is None:
            raise ConfigError(f"there is no run {run!r} in {workspace.store}") from None
        raise ConfigError(f"run {run!r} has no report yet: wait for its end, or: inpaint-ops report {run}") from None


def _check_ours(target: Target, to: Location, summary: RunSummary) -> None:
    """Raise ConfigError where another delivery, or something that has the names of our files, is there already."""
    note = target.read(NOTE)
    if note is None:
        if found := next((name for name in (CONTENTS, SUMS) if target.read(name) is not None), None):
            raise ConfigError(f"{to} holds a {found} of something else: choose another place, or add --replace")
        return
    try:
        of = json.loads(note)
        same = (of["run"], of["manifest_sha256"]) == (summary.run, summary.manifest_sha256)
    except (ValueError, TypeError, KeyError):
        same = False
    if not same:
        raise ConfigError(f"{to} holds another run's delivery ({NOTE}): choose another place, or add --replace")


_Passed = tuple[Row, Image | None, str | None]
"""A row, its image once that is delivered, and else why it is not, where that is not the row's own error."""
_Delivered = tuple[*_Passed, list[Image]]
"""The same, and the files that were delivered beside the image."""

NOT_ACCEPTED = "not accepted"


class _Work:
    """One delivery, while it is made."""

    def __init__(
        self,
        workspace: Workspace,
        summary: RunSummary,
        target: Target,
        folder: Path,
        results: Path,
        *,
        only: Literal["done", "accepted"],
        also: Collection[SideProduct],
    ) -> None:
        self._also = also
        self._workspace, self._summary, self._target, self._only = workspace, summary, target, only
        self._layout = workspace.layout(summary.run)
        self._results = results
        self._max_line = row_bytes(workspace.settings) + 2**16
        self._counts, self._left, self._names = _Counts(), list[str](), set[str]()
        self._unread = Leftovers()
        self._contents, self._sums, self._shown = folder / CONTENTS, folder / SUMS, folder / "shown.jsonl"

    def do(self, *, contact_sheet: Sheet | None, progress: Callable[[int, int], None]) -> Delivery:
        counts = self._summary.counts
        rows = counts.done + counts.failed + counts.rejected
        if self._target.resumes:
            self._target.put(NOTE, self._note("under way"), _JSON)
        with self._contents.open("w") as contents, self._sums.open("w") as sums, self._shown.open("wb") as shown:
            for number, (row, image, why, beside) in enumerate(self._delivered(), 1):
                line = line_of(row, image.name if image else None, why, beside)
                contents.write(json.dumps(line, ensure_ascii=False) + "\n")
                if why != NOT_ACCEPTED:
                    shown.write(shown_lines(row, image, why))
                if image is not None:
                    sums.write(f"{image.sha256}  {image.name}\n")
                sums.writelines(f"{one.sha256}  {one.name}\n" for one in beside)
                progress(number, rows)
        if contact_sheet:
            pages = SheetPages(self._workspace, self._summary, self._target, contact_sheet, self._unread)
            for name, body in pages.of(self._shown, delivered=self._counts.delivered):
                self._put(name, body, _HTML)
        self._put(CONTENTS, self._contents.read_bytes(), _JSONL)
        self._put(NOTE, self._note("complete"), _JSON)
        self._target.put(SUMS, self._sums, _TEXT)
        made = self._counts
        return Delivery(
            run=self._summary.run, verdict=self._summary.verdict, rows=counts.rows,
            chosen=counts.rows if self._only == "done" else made.chosen, delivered=made.delivered, redone=made.redone,
            there=made.there, read=made.read, beside=made.beside, failed=counts.failed, rejected=counts.rejected,
            bytes=made.bytes,
            left_out=(*self._left, *self._unread.lines()),
        )  # fmt: skip

    def _rows(self) -> Iterator[tuple[Row, bool]]:
        """Each row of the run, with the image that is final for it, and whether one was accepted."""
        accepted = self._finals()
        upcoming = next(accepted, None)
        for record in read_results(self._results, max_line=self._max_line):
            while upcoming is not None and upcoming[0].row < record.row:
                upcoming = next(accepted, None)
            if upcoming is None or upcoming[0].row != record.row:
                yield Row(record, record), False
            elif upcoming[1].run == self._summary.run:
                pick = upcoming[1].record.pick
                yield Row(record, of_variant(record, pick.variant if pick else None, "review") or record), True
            else:
                yield Row(record, upcoming[1].record, upcoming[1].run), True

    def _finals(self) -> Iterator[tuple[Record, Final]]:
        """The accepted images; nothing is read for a run that nobody has reviewed."""
        reviewed = next(self._workspace.storage.list(self._layout.reviews), None) is not None
        if self._only == "accepted" or reviewed or child_runs(self._workspace, self._layout):
            yield from finals(self._workspace, self._summary.run, self._unread)

    def _delivered(self) -> Iterator[_Delivered]:
        """Each row in order, with its image once that is delivered, or with the reason why it is not."""
        passed: deque[_Passed] = deque()
        held: list[_Delivered] = []  # the last row whose image has come: files beside it follow
        for image, outcome in self._target.images(self._chosen(passed)):
            if image.beside:
                if isinstance(outcome, StorageError):
                    self._leave_out(image.row, outcome)
                else:
                    held[0][3].append(image)
                    self._counts.beside += 1
                    self._counts.bytes += image.size
                continue
            yield from held
            while passed[0][1] is not image:
                yield *passed.popleft(), []
            row = passed.popleft()[0]
            if isinstance(outcome, StorageError):
                held = [(row, None, self._leave_out(row, outcome), [])]
                continue
            self._counts.delivered += 1
            self._counts.redone += bool(row.run)
            self._counts.there += outcome == "there"
            self._counts.read += outcome != "copied"
            self._counts.bytes += image.size
            held = [(row, image, None, [])]
        yield from held
        for row, none, why in passed:
            yield row, none, why, []

    def _chosen(self, passed: deque[_Passed]) -> Iterator[Image]:
        """The images to deliver; each row that is read on the way goes into `passed`."""
        for row, is_accepted in self._rows():
            if self._only == "accepted" and not is_accepted:
                passed.append((row, None, NOT_ACCEPTED if row.made.output else None))
                continue
            self._counts.chosen += 1
            made_in = self._workspace.layout(row.run) if row.run else self._layout
            try:
                image, why = image_to_deliver(row, self._layout, made_in), None
                if image is not None and image.name.casefold() in self._names:
                    raise DamagedObjectError(
                        f"row {row.record.row}: {image.name} is the name of another row's image, too"
                    )
            except DamagedObjectError as error:
                image, why = None, self._leave_out(row, error)
            passed.append((row, image, why))
            if image is not None:
                self._names.add(image.name.casefold())
                yield image
                yield from self._beside(image, made_in)

    def _beside(self, image: Image, made_in: RunLayout) -> Iterator[Image]:
        """The files beside an image that are to be delivered."""
        try:
            for one in side_products_to_deliver(image, made_in, self._also):
                if one.name.casefold() in self._names:
                    raise DamagedObjectError(f"row {image.row.record.row}: {one.name} is the name of an image, too")
                self._names.add(one.name.casefold())
                yield one
        except DamagedObjectError as error:
            self._leave_out(image.row, error)

    def _leave_out(self, row: Row, error: StorageError) -> str:
        """Note why a done row's image is not delivered. The reason without any place of the store, for `contents`."""
        self._left.append(f"{row.record.id}: {error}")
        return type(error).__name__

    def _put(self, name: str, data: bytes, content_type: str) -> None:
        """A file beside the images, with its digest."""
        self._target.put(name, data, content_type)
        with self._sums.open("a") as sums:
            sums.write(f"{hashlib.sha256(data).hexdigest()}  {name}\n")

    def _note(self, state: str) -> bytes:
        counts, made = self._summary.counts, self._counts
        note = {
            "run": self._summary.run, "manifest_sha256": self._summary.manifest_sha256, "state": state,
            "verdict": self._summary.verdict, "rows": counts.rows, "delivered": made.delivered,
            "failed": counts.failed, "rejected": counts.rejected, "missing": counts.missing,
            "left_out": len(self._left), "bytes": made.bytes, "made_by": f"inpaint-ops {inpaint_ops.__version__}",
        }  # fmt: skip
        return json.dumps(note, indent=1).encode() + b"\n"
