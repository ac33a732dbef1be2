"""How a row ends in the store: its image first, then its one record. Used by the supervisor's upload threads."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

from inpaint_ops.config import Provenance
from inpaint_ops.errors import (
    DamagedObjectError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
    WorkerProtocolError,
    one_line,
)
from inpaint_ops.layout import RunLayout, retry_of
from inpaint_ops.locations import Location
from inpaint_ops.planning import PlannedRow
from inpaint_ops.protocol import Done, Failed, unit_number
from inpaint_ops.records import (
    ErrorInfo,
    MaskMeaning,
    Measured,
    Output,
    Painted,
    PickedBy,
    Record,
    Status,
    WorkerInfo,
    now,
)
from inpaint_ops.run_files.compacted import read_shard_compacted
from inpaint_ops.run_files.counted import check_image, why_not
from inpaint_ops.signing import Signed, Signing
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import Leftovers, each, listed, parse_model
from inpaint_ops.supervisor.beside import store_side_products, store_thumbnails
from inpaint_ops.supervisor.compacting import KeptRecords
from inpaint_ops.supervisor.fault_tally import FaultTally
from inpaint_ops.supervisor.received import OUTPUT, Expected, Received, receive
from inpaint_ops.supervisor.signed import signed
from inpaint_ops.supervisor.variants import VariantRecords

log = logging.getLogger(__name__)

CHECKED_RECORDS = 10_000
"""Records of a shard whose content an attempt checks before it counts them; of further ones the name and the size."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes how the rows of one attempt at one shard end. Safe to call from several threads."""

    storage: Storage
    layout: RunLayout
    shard: str
    attempt: str
    faults: FaultTally = field(default_factory=FaultTally)
    rows: Mapping[int, PlannedRow] = field(default_factory=dict)
    """The shard's frozen rows by line; where there are none, records are checked against their own names only."""
    record_bytes: int = 2**23
    """Of one record, at most."""
    signing: Signing | None = None
    """Whose Content Credentials images get."""
    provenance: Provenance = "full"
    pick: PickedBy = "first"
    """What chooses a row's image among its variants."""
    variants: VariantRecords = field(init=False)
    _accepted: dict[int, str] = field(default_factory=dict)
    """Rows whose record was checked, and its ETag then."""
    _kept: KeptRecords = field(default_factory=KeptRecords)
    _refused: set[int] = field(default_factory=set)
    """Rows whose key is taken by something that does not count: this attempt's own record replaces it."""

    def __post_init__(self) -> None:
        found = VariantRecords(self.storage, self.layout, self.shard, self.rows, self.pick, self.record_bytes)
        object.__setattr__(self, "variants", found)

    def recorded_units(self) -> set[int]:
        """What needs no painting, by `Unit.number`: the rows that have ended (see `recorded_rows`), and those variants
        of others that have. A row whose variants have all ended, and which has no record yet, gets it here.

        Raises StorageError.
        """
        rows = self.recorded_rows()
        several = {number: row.parameters.variants for number, row in self.rows.items() if row.parameters.variants > 1}
        ended: dict[int, Collection[int]] = {number: range(several.get(number, 1)) for number in rows}
        if unfinished := several.keys() - rows:
            found = self.variants.read(unfinished)
            for number in found:
                if (whole := self.variants.complete(number)) is not None:
                    self._commit(whole)
                    self.variants.forget(number)
            ended |= found
        return {unit_number(number, variant) for number, variants in ended.items() for variant in variants}

    def recorded_rows(self) -> set[int]:
        """The rows of the shard that have ended, by whichever attempt.

        A record counts here if it is of a row of the shard by its key and its content, and a done one if its image is
        there with its size: a request or two for each that is new since the last call, or one where the compacted
        records have it as it stands, for `CHECKED_RECORDS` of them at most. What does not count is logged; its row is
        painted again, and the new record replaces it.
        """
        left = Leftovers()
        there: dict[int, ObjectInfo] = {}
        for info in listed(self.storage, self.layout.shard_records(self.shard), left):
            place = self.layout.shard_and_row(info.location)
            if place is None or place[0] != self.shard or (self.rows and place[1] not in self.rows):
                left.add(f"{info.location} is no record of a row of this shard: it was left out.")
            else:
                there[place[1]] = info
        new = {number: info for number, info in there.items() if self._accepted.get(number) != info.etag}
        asked = dict(islice(new.items(), CHECKED_RECORDS))
        if len(new) > len(asked):
            log.info("%d records are accepted by their names and sizes alone", len(new) - len(asked))
        sound = {
            info.location: body
            for info, body in each(asked.values(), partial(self._check, self._compacted(asked)), left)
        }
        for number, info in new.items():
            if info.location in sound or (number not in asked and 0 < info.size <= self.record_bytes):
                self._accepted[number] = info.etag
                if info.location in sound:
                    self._kept.keep(number, info.etag, sound[info.location])
                self._refused.discard(number)
            else:
                self._accepted.pop(number, None)
                self._refused.add(number)
        return {number for number in there if number in self._accepted}

    def store_compacted(self) -> None:
        """Write the shard's records once more, in one object; best effort."""
        self._kept.store(self.storage, self.layout, self.shard)

    def _compacted(self, asked: Mapping[int, ObjectInfo]) -> dict[Location, bytes]:
        """Those records that the compacted ones have as they stand, on the first call: later ones ask for few."""
        if self._accepted or not asked:
            return {}
        found = read_shard_compacted(
            self.storage, self.layout, self.shard, records=len(asked), max_record=self.record_bytes,
            total=sum(info.size for info in asked.values()),
        )  # fmt: skip
        stand = ((asked[number], kept) for number, kept in found if number in asked)
        return {
            info.location: kept.body for info, kept in stand if (info.etag, info.size) == (kept.etag, len(kept.body))
        }

    def _check(self, compacted: Mapping[Location, bytes], info: ObjectInfo) -> bytes:
        """The record's bytes. Raises StorageError unless the object is a record that counts."""
        if (body := compacted.get(info.location)) is not None:
            try:
                self._judge(info.location, body)
                return body
            except StorageUnavailableError:
                raise
            except StorageError as error:
                log.info("its compacted copy: %s", error)
        return self._checked_record(info.location)

    def _checked_record(self, where: Location) -> bytes:
        body = self.storage.get(where, max_bytes=self.record_bytes)
        self._judge(where, body)
        return body

    def _judge(self, where: Location, body: bytes) -> None:
        """Raise StorageError unless a record of these bytes counts."""
        record = parse_model(body, Record, where)
        place = self.layout.shard_and_row(where)
        number = place[1] if place else 0
        why = why_not(record, shard=self.shard, number=number, row=self.rows.get(number), layout=self.layout)
        if why:
            raise DamagedObjectError(f"{where} does not count: {why}")
        check_image(self.storage, record, self.layout)

    def store_done(
        self,
        row: PlannedRow,
        event: Done,
        worker: WorkerInfo,
        expected: Expected,
        *,
        batch_id: str,
        download: float | None,
        variant: int | None = None,
    ) -> Record:
        """Upload the image, then commit its record: that of the row or, where `row` is one of its variants, of that.
        The row's own follows the last one's. Returns the record that was written last.

        What is stored is measured here, on the copy that is uploaded; the worker's figures must agree. An image
        is written once: one that a dead attempt left behind is kept as it is, so that a record never names a digest
        that another attempt replaced. Raises StorageError, WorkerProtocolError, ScratchFullError.
        """
        started = time.monotonic()
        called = row.image_name(variant)
        with (
            receive(expected) as received,
            self._signed(received, row, called, event, expected) as (image, credentials),
        ):
            location, is_stored = self._store_image(called, image)
            digest, size = image.sha256, image.bytes
            if not is_stored:
                self.faults.add("image_adopted", location.name)
                present = self.storage.get(location)
                digest, size = hashlib.sha256(present).hexdigest(), len(present)
        conversions = event.conversions
        if digest == image.sha256:
            if credentials.note:
                conversions += (one_line(credentials.note),)
            thumbnails, problem = store_thumbnails(self.storage, self.layout, location, event, expected)
            files, missing = store_side_products(self.storage, self.layout, row, location, event, expected)
        else:
            thumbnails, problem = (), "the image is an earlier attempt's"
            files, missing = (), problem if row.parameters.side_products else ""
        output = Output(
            uri=location.uri, sha256=digest, bytes=size, width=image.width, height=image.height, format=image.format,
            c2pa=credentials.label if digest == image.sha256 else "",
            name=None if not row.names else location.key.removeprefix(self.layout.images.key),
        )  # fmt: skip
        record = self._record(
            row,
            "done",
            event.started_at,
            output=output,
            thumbnails=thumbnails,
            side_products=files,
            measured=event.model_copy(
                update={
                    "thumbnail_problem": problem,
                    "side_product_problem": missing,
                    "conversions": conversions,
                    "batch": event.batch.model_copy(update={"id": batch_id}),
                    "timings": event.timings.model_copy(
                        update={"download": download, "upload": time.monotonic() - started}
                    ),
                }
            ),
            worker=worker,
            variant=variant,
        )
        return self._end(record)

    @contextlib.contextmanager
    def _signed(
        self, received: Received, row: PlannedRow, name: str, event: Done, expected: Expected
    ) -> Iterator[tuple[Received, Signed]]:
        """What is stored of a received image that is the one that its worker reported: signed, where that is asked."""
        _agrees(event, received, expected)
        if self.signing is None:
            yield received, Signed("", timestamped=False)
            return
        with signed(received, row, name, event.mask_area, expected, self.signing, self.provenance) as made:
            yield made

    def _store_image(self, name: str, image: Received) -> tuple[Location, bool]:
        """Where the image is, and whether this call has put it there: else a dead attempt of this retry left one.

        A retry takes the plain name where it is free. Where it is not, an earlier attempt's image stays as it is.
        """
        names = [self.layout.image(name, image.extension)]
        if retry := retry_of(self.shard):
            names.append(self.layout.image(name, image.extension, retry))
        for location in names:
            try:
                self.storage.put(location, image.path, if_absent=True, content_type=image.media_type)
                return location, True
            except ObjectExistsError:
                continue
        return names[-1], False

    def store_failed(
        self,
        row: PlannedRow,
        error: ErrorInfo,
        event: Failed | None,
        worker: WorkerInfo | None,
        *,
        download: float | None,
        variant: int | None = None,
        said: tuple[str, ...] = (),
    ) -> Record:
        """Commit the record of a row, or of one of its variants, that has no image, as `store_done` does.

        `said` are its lines of log. Raises StorageError.
        """
        measured = Measured(change=event.change, timings=event.timings) if event else Measured()
        timings = measured.timings.model_copy(update={"download": download})
        record = self._record(
            row,
            "failed",
            event.started_at if event else now(),
            measured=measured.model_copy(update={"timings": timings, "log": said}),
            error=error,
            worker=worker,
            variant=variant,
        )
        return self._end(record)

    def _end(self, record: Record) -> Record:
        if record.variant is not None:
            record = self.variants.commit(record)
        if record.variant is None:
            self._commit(record)
            self.variants.forget(record.row)
        return record

    def _record(
        self, row: PlannedRow, status: Status, started_at: datetime, *, measured: Measured, **fields: Any
    ) -> Record:
        """The row's record: what was asked for, what the worker measured, and how it ended (`fields`)."""
        chosen = row.parameters
        shared = Painted.model_fields if isinstance(measured, Painted) else Measured.model_fields
        return Record(
            id=row.id,
            row=row.row,
            status=status,
            attempt=self.attempt,
            retry=retry_of(self.shard),
            prompt=row.prompt,
            prompt_2=row.prompt_2,
            seed=chosen.seed,
            steps_requested=chosen.steps,
            guidance_scale=chosen.guidance_scale,
            guidance_cutoff=chosen.guidance_cutoff,
            strength=chosen.strength,
            fill=chosen.fill,
            loras=chosen.loras,
            crop=row.crop,
            source=row.image,
            mask=row.mask,
            **{name: getattr(row, name) for name in MaskMeaning.model_fields},
            **{name: getattr(measured, name) for name in shared},
            started_at=started_at,
            finished_at=now(),
            extra=row.extra,
            **fields,
        )

    def _commit(self, record: Record) -> None:
        """Put the record if absent: where another attempt has already ended the row, that record stands.

        Anything else under its key is replaced: otherwise the row could never end.
        """
        body, place = record.model_dump_json().encode(), self.layout.record(self.shard, record.row)
        if record.row not in self._refused:
            try:
                info = self.storage.put(place, body, if_absent=True, content_type="application/json")
                self._kept.keep(record.row, info.etag, body)
                return
            except ObjectExistsError:
                if self._stands(place):
                    return
        log.warning("%s is replaced: what was there is no record of row %d", place, record.row)
        info = self.storage.put(place, body, content_type="application/json")
        self._kept.keep(record.row, info.etag, body)
        self._refused.discard(record.row)

    def _stands(self, place: Location) -> bool:
        """Whether what is there counts."""
        try:
            self._checked_record(place)
        except StorageUnavailableError:
            raise
        except StorageError as error:
            log.warning("%s", error)
            return False
        return True


def _agrees(event: Done, image: Received, expected: Expected) -> None:
    """Raise WorkerProtocolError where a worker's event does not match the file that it left."""
    for name, stated, found in (
        ("path", event.output, one_line(str(expected.folder / OUTPUT))),
        ("digest", event.sha256, image.sha256),
        ("bytes", event.bytes, image.bytes),
        ("width", event.width, image.width),
        ("height", event.height, image.height),
        ("format", event.format, image.format),
        ("media type", event.media_type, image.media_type),
        ("extension", event.extension, image.extension),
    ):
        if stated != found:
            raise WorkerProtocolError(
                f"the worker's output was refused: its {name} is {found}, and the worker reported {stated}"
            )
