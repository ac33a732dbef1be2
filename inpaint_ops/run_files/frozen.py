"""What a run's plan has frozen, read back: `plan.json`, and the rows of its shards with what they are painted with."""

from __future__ import annotations

import io

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    DamagedObjectError,
    InpaintOpsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from inpaint_ops.layout import RunLayout
from inpaint_ops.manifest import AcceptedRow
from inpaint_ops.planning import JobOptions, Plan, PlannedRow, Shard, planned
from inpaint_ops.storage import Storage
from inpaint_ops.storage.stored import Leftovers, parse_model, read_model

_PLAN_BYTES = 2**20
_BYTES_PER_REJECTED_ROW = 16
_BYTES_OF_URIS = 16 * 2**10
"""What a row may have grown by since its manifest: its keys have become URIs, and its parameters are added."""


def row_bytes(settings: Settings) -> int:
    """What a row may have in a shard's file, and what its record may have: a CSV's line is limited by characters."""
    return 4 * settings.max_row_bytes + 2**20


def read_plan(storage: Storage, layout: RunLayout, settings: Settings) -> Plan | None:
    """The run's plan, or None if there is none. Raises DamagedObjectError, ObjectTooLargeError, StorageError."""
    limit = _PLAN_BYTES + _BYTES_PER_REJECTED_ROW * settings.max_rows
    try:
        plan = read_model(storage, layout.plan, Plan, max_bytes=limit)
    except ObjectNotFoundError:
        return None
    if plan.run != layout.run:
        raise DamagedObjectError(f"{layout.plan} is the plan of another run, {plan.run!r}: plan this run again")
    return plan


class _OldShardLine(AcceptedRow):
    """A line of a shard's file that was written before parameters were settled at planning."""

    parameters: None = None


def read_shard(
    storage: Storage, layout: RunLayout, shard: Shard, job: JobOptions, settings: Settings, left: Leftovers
) -> list[PlannedRow]:
    """The shard's rows as they were frozen; a line that is no row of it is left out.

    `job` is the plan's: rows of an older file get their parameters by it, as they did when that file was written.
    Raises ObjectNotFoundError, ObjectTooLargeError, StorageError.
    """
    return shard_rows(shard_bytes(storage, layout, shard, settings), layout, shard, job, row_bytes(settings), left)


def shard_bytes(storage: Storage, layout: RunLayout, shard: Shard, settings: Settings) -> bytes:
    """The file of the shard's rows. Raises as `read_shard`."""
    most = 2 * settings.max_manifest_bytes + shard.rows * _BYTES_OF_URIS
    return storage.get(layout.shard(shard.name), max_bytes=most)


def shard_rows(
    data: bytes, layout: RunLayout, shard: Shard, job: JobOptions, limit: int, left: Leftovers
) -> list[PlannedRow]:
    """The rows in the bytes of that file; `limit` is what `row_bytes` gives."""
    place = layout.shard(shard.name)
    rows: dict[int, PlannedRow] = {}
    ids: set[str] = set()
    for number, line in enumerate(io.BytesIO(data), 1):
        if number > shard.rows:
            left.add(f"{place} has more lines than the plan's {shard.rows:,} rows: the others were left out.")
            break
        try:
            row = _row(line, f"line {number} of {place}", limit, job)
        except InpaintOpsError as error:
            left.add(f"{error}: the row was left out.")
            continue
        if not shard.first_row <= row.row <= shard.last_row or row.row in rows or row.id.casefold() in ids:
            left.add(f"line {number} of {place} is of another shard, or there twice: it was left out.")
            continue
        rows[row.row] = row
        ids.add(row.id.casefold())
    return list(rows.values())


def _row(line: bytes, what: str, limit: int, job: JobOptions) -> PlannedRow:
    if len(line) > limit:
        raise ObjectTooLargeError(f"{what} is too large: {len(line):,} bytes, and the limit is {limit:,}")
    try:
        return parse_model(line, PlannedRow, what)
    except DamagedObjectError:
        read = parse_model(line, _OldShardLine, what)
    return planned(read, job)
