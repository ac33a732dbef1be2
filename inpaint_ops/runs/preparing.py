"""The first call: a manifest becomes a plan and its shards, frozen in the store."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import logging
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

from inpaint_ops.errors import (
    ObjectExistsError,
    RunConflictError,
    StorageError,
)
from inpaint_ops.layout import REJECTED, RunLayout
from inpaint_ops.locations import parse
from inpaint_ops.machine.garbage import only_new_garbage
from inpaint_ops.manifest import AcceptedRow, ParsedManifest, RejectedRow, write_jsonl
from inpaint_ops.manifest.rows import TEXT_FIELD
from inpaint_ops.planning import (
    JobOptions,
    Plan,
    Shard,
    split_rows,
)
from inpaint_ops.planning.naming import image_prefixes, names_of, reject_rows_without_names
from inpaint_ops.planning.shard_text import shard_texts
from inpaint_ops.records import (
    Forecast,
    Record,
    cost_of,
    now,
)
from inpaint_ops.row_work import RowWork
from inpaint_ops.runs.checking import check_models
from inpaint_ops.runs.forecasting import Experience, Work, experience_key, forecast, work_of
from inpaint_ops.runs.missing import missing_objects
from inpaint_ops.runs.sampling import sampled
from inpaint_ops.runs.shard_size import shard_size
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.signing import signing_of
from inpaint_ops.storage import ObjectInfo, Storage
from inpaint_ops.storage.stored import NOTE_BYTES, Leftovers, listed, read_each
from inpaint_ops.tuning import check_choices
from inpaint_ops.variants import settle
from inpaint_ops.wording import counted

log = logging.getLogger(__name__)

_IO_THREADS = 16
_RECORDS_AT_ONCE = 256
_PUTS_AT_ONCE = 4
"""Shards, of some megabytes each, that are being written."""


@only_new_garbage()
def make_plan(
    workspace: Workspace, manifest: str, run: str, job: JobOptions, *, card: str | None = None, devices: int = 1
) -> tuple[Plan, ParsedManifest]:
    """What a run would do, without writing anything.

    `card` is what will paint, where that is known here, and `devices` how many of it. Raises ConfigError,
    ManifestError, StorageError.
    """
    return _make_plan(workspace, manifest, run, job, card=card, devices=devices)


def _make_plan(
    workspace: Workspace, manifest: str, run: str, job: JobOptions, *, card: str | None, devices: int
) -> tuple[Plan, ParsedManifest]:
    check_choices(job.tuning, job.tuning_overrides)
    parsed, digest = workspace.read_manifest(manifest, job.row_limit, job.row_defaults())
    return plan_of(workspace, parsed, digest, manifest, run, job, card=card, devices=devices)


def plan_of(
    workspace: Workspace,
    parsed: ParsedManifest,
    digest: str,
    manifest: str,
    run: str,
    job: JobOptions,
    *,
    card: str | None = None,
    devices: int = 1,
) -> tuple[Plan, ParsedManifest]:
    """The same of a manifest that has been read, with the SHA-256 `digest` of its bytes. Raises as `make_plan`."""
    parsed, names = reject_rows_without_names(parsed, job, manifest)
    parsed, work = settle(parsed, job)
    if job.sample is not None:
        parsed, work = settle(sampled(parsed, job.sample), job)
    history = _history(workspace, job)
    size = shard_size(job, work, history, workspace.settings, card=card, devices=devices)
    job = job.model_copy(update={"shard_rows": size.rows})
    shards = _pieces(parsed, size.rows, workspace)
    plan = Plan(
        run=run,
        manifest=parse(manifest).uri,
        manifest_sha256=digest,
        job=job,
        rows=parsed.rows,
        rejected=len(parsed.rejected),
        rejected_rows=tuple(row.row for row in parsed.rejected),
        shards=tuple(shard for shard, _ in shards),
        shard_basis=size.basis,
        forecast=_priced(
            forecast(job, _work([shard for shard, _ in shards], work), history, card=card, devices=devices),
            workspace.settings.gpu_hour_price,
        ),
        warnings=parsed.notes,
        image_prefixes=image_prefixes(names, parsed.rows),
        created_at=now(),
    )
    return plan, parsed


def _priced(expected: Forecast, hour_price: float | None) -> Forecast:
    if expected.gpu_seconds is None:
        return expected
    return expected.model_copy(update={"cost": cost_of(expected.gpu_seconds, hour_price)})


def _pieces(parsed: ParsedManifest, size: int, workspace: Workspace) -> list[tuple[Shard, Sequence[AcceptedRow]]]:
    return split_rows(parsed.accepted, shard_rows=size, max_shards=workspace.settings.max_shards)


def _work(shards: Iterable[Shard], rows: RowWork) -> list[Work]:
    """What each shard has to do; `rows` are the run's, in their order."""
    found, start = [], 0
    for shard in shards:
        found.append(work_of(rows.part(slice(start, start + shard.rows))))
        start += shard.rows
    return found


_HISTORY = 50
"""Runs that a forecast looks at, at most: the newest."""


def _history(workspace: Workspace, job: JobOptions) -> list[Experience]:
    """What earlier runs of this model and tuning left; a forecast is no reason to fail, so what cannot be read is
    ignored.
    """
    left = Leftovers()
    try:
        infos = listed(workspace.storage, workspace.places.history(experience_key(job)), left)
        newest = heapq.nlargest(_HISTORY, infos, key=lambda info: info.modified)
        read = read_each(workspace.storage, newest, Experience, left, max_bytes=NOTE_BYTES)
        return [experience for _, experience in read]
    except StorageError as error:
        log.warning("earlier runs cannot be read, so there is no forecast from them: %s", error)
        return []


@only_new_garbage()
def prepare(
    workspace: Workspace,
    manifest: str,
    run: str,
    job: JobOptions,
    *,
    card: str | None = None,
    devices: int = 1,
    find_model: Literal["here", "anywhere"] | None = None,
) -> Plan:
    """Freeze the manifest, keep and record the rejected rows, write the shards, then `plan.json`, which owns the name.

    A run of the same name, manifest and choices is resumed: its plan is returned as it stands. `card` and `devices` are
    as for `make_plan`: what will paint, where that is known. `find_model` asks for
    the model of a new run: it must be on this machine, or be known to the hub; None asks for nothing. Files that are
    known to be missing are named in the plan's warnings.

    Raises RunConflictError for another manifest or other choices, ModelError, ManifestError, StorageError.
    """
    layout = workspace.layout(run)
    plan, parsed = _make_plan(workspace, manifest, run, job, card=card, devices=devices)
    standing = workspace.plan(run)
    if standing is not None:
        return _resumed(standing, plan)
    storage = workspace.storage
    notes = [*_about_missing(storage, parsed)]
    if find_model == "here" and (signing := signing_of(workspace.settings)) is not None:
        signing.check()
    if find_model is not None:
        notes += check_models(storage, job, must_be_here=find_model == "here")
    plan = plan.model_copy(update={"warnings": (*plan.warnings, *notes)})
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-plan-") as folder:
        frozen = Path(folder, "manifest.jsonl")  # with whole URIs it may be far longer than what its author wrote
        with frozen.open("wb") as out:
            _put_shards(workspace, plan, parsed, manifest=out)
        storage.put(layout.manifest, frozen, content_type=_JSONL)
        rejected = Path(folder, "rejected.jsonl")
        with rejected.open("wb") as out:
            write_jsonl(map(_to_correct, parsed.rejected), out)
        storage.put(layout.rejected, rejected, content_type=_JSONL)
    records = _rejected_records(parsed, run)
    with ThreadPoolExecutor(_IO_THREADS) as pool:
        while waiting := list(itertools.islice(records, _RECORDS_AT_ONCE)):  # a pool queues all that it is given
            for _ in pool.map(lambda record: _put_record(storage, layout, record), waiting):
                pass
    try:
        storage.put(layout.plan, plan.model_dump_json(indent=1).encode(), if_absent=True, content_type=_JSON)
    except ObjectExistsError:
        standing = workspace.plan(run)
        if standing is None:
            raise
        kept = _resumed(standing, plan)
        if standing.shards != plan.shards and len(parsed.accepted) == standing.rows - standing.rejected:
            _put_shards(workspace, standing, parsed)  # ours, of another size, may have replaced them
        return kept
    return plan


def _put_shards(workspace: Workspace, plan: Plan, parsed: ParsedManifest, *, manifest: IO[bytes] | None = None) -> None:
    """Write the plan's shards and, into an open file, the rows as a manifest has them; each row is made once."""
    layout, names = workspace.layout(plan.run), names_of(plan.job, plan.manifest)
    storage, under_way = workspace.storage, deque[Future[ObjectInfo]]()
    with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:  # a store takes milliseconds for what the next shard is made in
        for shard, text in shard_texts(parsed.accepted, plan.shards, plan.job, names):
            if manifest is not None:
                manifest.write(text.manifest)
            under_way.append(pool.submit(storage.put, layout.shard(shard.name), text.shard, content_type=_JSONL))
            if len(under_way) > _PUTS_AT_ONCE:
                under_way.popleft().result()
        for put in under_way:
            put.result()


def _to_correct(row: RejectedRow) -> dict[str, Any]:
    """The rejected row as `rejected.jsonl` holds it: with the id by which the run knows it, if its author gave none."""
    written = row.as_manifest_row()
    if TEXT_FIELD in written or written.get("id") not in (None, ""):
        return written
    return {"id": row.id} | {name: value for name, value in written.items() if name != "id"}


def why_rejected(workspace: Workspace, plan: Plan, most: int) -> Iterator[str]:
    """The errors of the first rows that the run rejected, by its `rejected.jsonl`; none if that cannot be read."""
    if not plan.rejected:
        return
    try:
        head = workspace.storage.get(workspace.layout(plan.run).rejected, byte_range=(0, _HEAD_BYTES - 1))
    except StorageError:
        return
    for line in head.splitlines()[:most]:
        try:
            yield str(json.loads(line)["_error"])
        except (ValueError, KeyError, TypeError):  # cut off here, or changed by hand
            return


_HEAD_BYTES = 256 * 2**10
_MISSING_SHOWN = 10


def _about_missing(storage: Storage, parsed: ParsedManifest) -> Iterator[str]:
    """A warning for each of the first missing files, and one for the others. Their rows go on: they may come yet."""
    lines = missing_objects(storage, parsed, ask_each=False)
    yield from itertools.islice(lines, _MISSING_SHOWN)
    if more := sum(1 for _ in lines):
        yield f"and {more:,} more images and masks that were not there when the run was planned"


_JSON = "application/json"
_JSONL = "application/jsonl"


def _resumed(standing: Plan, wanted: Plan) -> Plan:
    """The standing plan, with a warning where rows that it rejected would be accepted now, and where it is not profiled
    although that is wanted now.
    """
    if standing.manifest_sha256 != wanted.manifest_sha256:
        raise RunConflictError(
            f"run {wanted.run!r} is of another manifest ({standing.manifest}, {standing.manifest_sha256[:12]}…; now "
            f"{wanted.manifest_sha256[:12]}…): choose another run name"
        )
    ours, theirs = wanted.job.identity(), standing.job.identity()
    for name, value in ours.items():
        if theirs[name] != value:
            raise RunConflictError(
                f"run {wanted.run!r} was started with {name} = {theirs[name]!r}, not {value!r}: choose another run name"
            )
    notes = []
    if accepted_now := len(set(standing.rejected_rows) - set(wanted.rejected_rows)):
        rows = counted(accepted_now, "row that was", "rows that were")
        notes.append(f"{rows} rejected when the run was planned would be accepted now: --retry rejected does them")
    if wanted.job.profile and not standing.job.profile:
        notes.append("the run was planned without a profile, so none is made: choose another run name")
    return standing.model_copy(update={"warnings": (*standing.warnings, *notes)}) if notes else standing


def _rejected_records(parsed: ParsedManifest, run: str) -> Iterator[Record]:
    for row in parsed.rejected:
        moment = now()
        yield Record(
            id=row.id,
            row=row.row,
            status="rejected",
            attempt=f"plan-{run}",
            error=row.error,
            prompt=row.prompt,
            started_at=moment,
            finished_at=moment,
        )


def _put_record(storage: Storage, layout: RunLayout, record: Record) -> None:
    body = record.model_dump_json().encode()
    with contextlib.suppress(ObjectExistsError):
        storage.put(layout.record(REJECTED, record.row), body, if_absent=True, content_type=_JSON)
