"""The whole job in three calls: `prepare` a run, `paint` each of its shards, `finish` it with a report.

The command line and the DAGs both call these and nothing below them, so what Airflow runs is what a shell runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import logging
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inpaint_ops import report
from inpaint_ops.config import Settings
from inpaint_ops.counted import read_records
from inpaint_ops.errors import (
    ConfigError,
    ManifestError,
    ObjectExistsError,
    ObjectTooLargeError,
    RunConflictError,
    RunNotGoodError,
    StorageError,
)
from inpaint_ops.forecasting import Experience, Work, experience, experience_key, forecast
from inpaint_ops.frozen import read_plan, read_shard, read_shards
from inpaint_ops.galleries import Gallery, make_gallery
from inpaint_ops.layout import REJECTED, RunLayout, experience_prefix
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import AcceptedRow, ManifestLimits, ParsedManifest, read_manifest, to_jsonl, write_jsonl
from inpaint_ops.planning import JobOptions, Plan, parameters, reject_rows_without_steps, split_rows, steps_that_run
from inpaint_ops.records import (
    ErrorInfo,
    Record,
    RunSummary,
    ShardProgress,
    now,
)
from inpaint_ops.storage import Storage, make_s3_client
from inpaint_ops.stored import NOTE_BYTES, Leftovers, listed, read_each
from inpaint_ops.supervisor import Progress, ShardResult, ShardRun
from inpaint_ops.tries import got_over, read_notes, read_workers, stopped, why_unfinished
from inpaint_ops.tuning import check_choices

log = logging.getLogger(__name__)

_IO_THREADS = 16
_RECORDS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where runs live and what may be read: settings, the store's root, and the guarded storage over both."""

    settings: Settings
    store: Location
    storage: Storage

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        store: str | None = None,
        also_readable: Iterable[str] = (),
        s3_client: Callable[[], object] | None = None,
    ) -> Workspace:
        """A workspace at `store` (default: INPAINT_STORE). Manifests may read from the store, the inbox,
        INPAINT_ALLOWED_PREFIXES and `also_readable`. `s3_client` makes the client; default: by the SDK's own settings.

        Raises ConfigError when no store is named.
        """
        uri = store or settings.store
        if not uri:
            raise ConfigError("no store: set INPAINT_STORE (or --out) to s3://bucket/prefix or a folder")
        root = parse(uri).as_prefix()
        readable = [parse(text).as_prefix() for text in (*settings.allowed_prefixes, *also_readable)]
        if settings.inbox:
            readable.append(parse(settings.inbox).as_prefix())
        storage = Storage(
            readable=readable,
            writable=[root],
            s3_client=s3_client or partial(make_s3_client, attempts=settings.storage_tries),  # type: ignore[arg-type]
            attempts=settings.storage_tries,
        )
        return cls(settings, root, storage)

    def layout(self, run: str) -> RunLayout:
        """Where the run's objects are."""
        return RunLayout(self.store, run)

    def read_manifest(self, manifest: str, row_limit: int | None = None) -> tuple[ParsedManifest, str]:
        """The manifest's rows and the SHA-256 of its bytes. Raises ManifestError, StorageError."""
        location = parse(manifest)
        try:
            data = self.storage.get(location, max_bytes=self.settings.max_manifest_bytes)
        except ObjectTooLargeError as error:
            raise ManifestError(f"{error} (INPAINT_MAX_MANIFEST_BYTES)") from error
        limits = ManifestLimits(
            max_rows=self.settings.max_rows,
            max_bytes=self.settings.max_manifest_bytes,
            max_prompt_chars=self.settings.max_prompt_chars,
            max_row_bytes=self.settings.max_row_bytes,
        )
        parsed = read_manifest(
            data, location=location, is_allowed=self.storage.may_read, limits=limits, row_limit=row_limit
        )
        return parsed, hashlib.sha256(data).hexdigest()

    def plan(self, run: str) -> Plan | None:
        """The run's plan, or None if there is no such run. Raises StorageError, where it is damaged too."""
        return read_plan(self.storage, self.layout(run), self.settings)

    def shard_rows(self, plan: Plan, shard: str) -> list[AcceptedRow]:
        """The frozen rows of one shard. Raises ConfigError if the plan has none of that name, StorageError."""
        found = next((one for one in plan.shards if one.name == shard), None)
        if found is None:
            raise ConfigError(f"run {plan.run!r} has no shard {shard!r}: it has {len(plan.shards)}, from 00000")
        return read_shard(self.storage, self.layout(plan.run), found, self.settings, Leftovers())


def make_plan(
    workspace: Workspace, manifest: str, run: str, job: JobOptions, *, card: str | None = None, devices: int = 1
) -> tuple[Plan, ParsedManifest]:
    """What a run would do, without writing anything.

    `card` is what will paint, where that is known here, and `devices` how many of it. Raises ConfigError,
    ManifestError, StorageError.
    """
    check_choices(job.tuning, job.tuning_overrides)
    parsed, digest = workspace.read_manifest(manifest, job.row_limit)
    parsed = reject_rows_without_steps(parsed, job)
    shards = split_rows(parsed.accepted, shard_rows=job.shard_rows, max_shards=workspace.settings.max_shards)
    plan = Plan(
        run=run,
        manifest=parse(manifest).uri,
        manifest_sha256=digest,
        job=job,
        rows=parsed.rows,
        rejected=len(parsed.rejected),
        rejected_rows=tuple(row.row for row in parsed.rejected),
        shards=tuple(shard for shard, _ in shards),
        forecast=forecast(
            job, [_work(rows, job) for _, rows in shards], _history(workspace, job), card=card, devices=devices
        ),
        created_at=now(),
    )
    return plan, parsed


def _work(rows: Sequence[AcceptedRow], job: JobOptions) -> Work:
    wishes = (parameters(row, job) for row in rows)
    return Work(rows=len(rows), steps=sum(steps_that_run(wish.steps, wish.strength) for wish in wishes))


_HISTORY = 50
"""Runs that a forecast looks at, at most: the newest."""


def _history(workspace: Workspace, job: JobOptions) -> list[Experience]:
    """What earlier runs of this model and tuning left; a forecast is no reason to fail, so what cannot be read is not
    there.
    """
    left = Leftovers()
    try:
        infos = listed(workspace.storage, experience_prefix(workspace.store, experience_key(job)), left)
        newest = heapq.nlargest(_HISTORY, infos, key=lambda info: info.modified)
        read = read_each(workspace.storage, newest, Experience, left, max_bytes=NOTE_BYTES)
        return [experience for _, experience in read]
    except StorageError as error:
        log.warning("earlier runs cannot be read, so there is no forecast from them: %s", error)
        return []


def prepare(workspace: Workspace, manifest: str, run: str, job: JobOptions, *, card: str | None = None) -> Plan:
    """Freeze the manifest, record the rejected rows, write the shards, and then `plan.json`, which owns the run's name.

    A run of the same name, manifest and choices is resumed: its plan is returned as it stands. Raises RunConflictError
    for another manifest or other choices, ManifestError, StorageError.
    """
    layout = workspace.layout(run)
    plan, parsed = make_plan(workspace, manifest, run, job, card=card)
    standing = workspace.plan(run)
    if standing is not None:
        return _resumed(standing, plan)
    storage = workspace.storage
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-plan-") as folder:
        frozen = Path(folder, "manifest.jsonl")  # with whole URIs it may be far longer than what its author wrote
        with frozen.open("wb") as out:
            write_jsonl((row.as_manifest_row() for row in parsed.accepted), out)
        storage.put(layout.manifest, frozen, content_type=_JSONL)
    pieces = split_rows(parsed.accepted, shard_rows=job.shard_rows, max_shards=workspace.settings.max_shards)
    for shard, rows in pieces:
        lines = (row.as_manifest_row() | {"row": row.row} for row in rows)
        storage.put(layout.shard(shard.name), to_jsonl(lines), content_type=_JSONL)
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
        return _resumed(standing, plan)
    return plan


_JSON = "application/json"
_JSONL = "application/jsonl"


def _resumed(standing: Plan, wanted: Plan) -> Plan:
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
    return standing


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


def paint(
    workspace: Workspace,
    run: str,
    shard: str,
    *,
    final_attempt: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ShardResult:
    """Paint what is missing of one shard. Call it from the main thread; see ShardRun.run for what it raises."""
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: plan it first")
    layout = workspace.layout(run)
    rows = workspace.shard_rows(plan, shard)
    work = ShardRun(workspace.storage, layout, shard, rows, plan.job, workspace.settings, final_attempt=final_attempt)
    if on_progress is not None:
        work.on_progress = on_progress
    with _drained_on_sigterm(work):
        return work.run()


@contextlib.contextmanager
def _drained_on_sigterm(work: ShardRun) -> Iterator[None]:
    """Have SIGTERM drain the shard while it is painted; a second one cuts the grace short."""
    before = signal.signal(signal.SIGTERM, lambda *_: work.drain())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(workspace: Workspace, run: str) -> RunSummary:
    """Read a run's records and write its summary, tables, trace and page anew; `run.json` last.

    Raises ConfigError if there is no such run, StorageError.
    """
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: it was never planned, or its plan failed")
    layout, storage = workspace.layout(run), workspace.storage
    left, shards = Leftovers(), {shard.name for shard in plan.shards}
    by_shard = read_shards(storage, layout, plan, workspace.settings, left)
    rows = {row.row: row for members in by_shard.values() for row in members}
    counted = read_records(storage, layout, plan, by_shard, workspace.settings, left)
    records = counted.records
    workers = read_workers(storage, layout, shards, left)
    ended = {record.row for record in records}
    unfinished = [one.name for one in plan.shards if sum(row.row in ended for row in by_shard[one.name]) < one.rows]
    stops = read_notes(storage, layout.stop_notes, ErrorInfo, shards, left)
    faults = [*got_over(storage, layout, shards, left), *stopped(stops, unfinished)]
    said = read_notes(storage, layout.progress, ShardProgress, shards, left) if unfinished else {}
    summary = report.summarize(
        run=run,
        manifest=plan.manifest,
        manifest_sha256=plan.manifest_sha256,
        job=plan.job.model_dump(mode="json"),
        rows=plan.rows,
        failure_threshold=plan.job.failure_threshold,
        records=records,
        workers=workers,
        row_numbers={*rows, *plan.rejected_rows},
        forecast=plan.forecast,
        faults=faults,
        left_out=left.lines(),
        images_checked=counted.images_checked,
    )
    if unfinished:
        lost = (f"shard {name} is unfinished: {why_unfinished(name, stops, said.get(name))}" for name in unfinished)
        summary = summary.model_copy(update={"reasons": (*summary.reasons, *lost), "verdict": "INVALID"})
    by_row = {number: row.as_manifest_row() for number, row in rows.items()}
    storage.put(layout.results, report.results_jsonl(records), content_type=_JSONL)
    storage.put(layout.failed, report.failed_jsonl(records, by_row), content_type=_JSONL)
    storage.put(layout.timings, report.timings_parquet(records), content_type="application/vnd.apache.parquet")
    storage.put(layout.trace, report.trace_json(records, workers), content_type=_JSON)
    gallery = _gallery(workspace, records)
    page = report.render_page(summary, records, gallery.items, workers=workers, without_pictures=gallery.left_out)
    storage.put(layout.report, page.encode(), content_type="text/html; charset=utf-8")
    storage.put(layout.summary, summary.model_dump_json(indent=1).encode(), content_type=_JSON)
    _remember(workspace, plan, summary)
    return summary


def _remember(workspace: Workspace, plan: Plan, summary: RunSummary) -> None:
    """Leave what the next forecast needs. The run is finished without it, so a refusal is only a word in the log."""
    taught = experience(summary)
    if taught is None:
        return
    folder = experience_prefix(workspace.store, experience_key(plan.job))
    place = Location(folder.bucket, f"{folder.key}{plan.run}.json")
    try:
        workspace.storage.put(place, taught.model_dump_json().encode(), content_type=_JSON)
    except StorageError as error:
        log.warning("the next forecast will not know of this run: %s", error)


def check_good(summary: RunSummary) -> None:
    """Raise RunNotGoodError, with the reasons, unless the run's verdict is VALID."""
    if summary.verdict != "VALID":
        raise RunNotGoodError(f"run {summary.run} is not good: {'; '.join(summary.reasons)}")


def _gallery(workspace: Workspace, records: Sequence[Record]) -> Gallery:
    """Small pictures of a few rows, made by processes that may die; a row whose pictures cannot be had is left out."""
    return make_gallery(workspace.storage, workspace.settings, records)
