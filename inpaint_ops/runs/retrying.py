"""Some rows of a finished run again: a new attempt beside the old record. Both are kept, and the newest counts.

A retry is planned like a run: its rows are frozen in shards of its own, then `shards/retry-<n>.json` is put if absent.
`paint` and `finish` do the rest. Until a row's new record is there, its old one counts, so a retry may break off
anywhere; the same command goes on with it.
"""

from __future__ import annotations

import itertools
import unicodedata
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from inpaint_ops.errors import (
    ConfigError,
    ObjectExistsError,
    RunConflictError,
)
from inpaint_ops.layout import MAX_RETRIES, NamePrefixes, retry_shard_name
from inpaint_ops.locations import parse
from inpaint_ops.manifest import AcceptedRow, ParsedManifest, to_jsonl
from inpaint_ops.manifest.problems import BadRowError
from inpaint_ops.planning import (
    JobOptions,
    Plan,
    PlannedRow,
    RetryPlan,
    Shard,
    split_rows,
)
from inpaint_ops.planning.naming import NamesOfRun, names_of
from inpaint_ops.records import Record, now
from inpaint_ops.run_files.retried import read_retries
from inpaint_ops.run_files.rows import CountedRows
from inpaint_ops.runs.checking import check_models
from inpaint_ops.runs.selecting import Selection, parse_selection, select
from inpaint_ops.runs.shard_size import DEFAULT_SHARD_ROWS
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.signing import signing_of
from inpaint_ops.storage.stored import Leftovers
from inpaint_ops.tuning import check_choices
from inpaint_ops.variants import names_like_variants, settle, taken_message, taken_name
from inpaint_ops.wording import counted

_OTHER_PREFIXES = 256
_TRIES = 20
"""Numbers of retries that others may take while this one is planned."""


@dataclass(frozen=True, slots=True)
class Again:
    """What is done again. `retry` is None where no row is; `notes` are lines for whoever asked."""

    plan: Plan
    retry: RetryPlan | None
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Run:
    """A finished run, as a retry finds it."""

    plan: Plan
    retries: list[RetryPlan]
    free: int
    """The first number that no retry has."""
    rows: dict[int, PlannedRow]
    """Every row as it was tried last, by line; rejected rows are not among them."""
    records: list[Record]
    """Each row's newest record."""
    ended: Counter[int]
    """Records of each retry."""
    notes: list[str] = field(default_factory=list)

    def missing_of(self, retry: RetryPlan) -> int:
        """How many rows of a retry have no new record."""
        return retry.rows - self.ended[retry.number]


def prepare_retry(
    workspace: Workspace,
    manifest: str,
    run: str,
    asked: str,
    job: JobOptions,
    *,
    chosen: Collection[str] = (),
    request: str = "",
    find_model: Literal["here", "anywhere"] | None = None,
) -> Again:
    """Plan to do the rows of `asked` (see `parse_selection`) again, or find the retry that does so already.

    With the run's own manifest, a row is done again as it was tried last, and a rejected one as the manifest has it. Of
    another manifest, as of a corrected `rejected.jsonl`, the rows with the same ids are taken as they stand there. The
    job is the run's; of `job`, what was `chosen` (names of its fields) is taken where it leaves the images alone.

    A retry that broke off, of the same rows and manifest, is gone on with; so is one that the same `request` began.
    `find_model` is as for `prepare`.

    Raises ConfigError, RunConflictError, ModelError, ManifestError, StorageError; each says what to do.
    """
    selection = parse_selection(asked)
    plan = workspace.plan(run)
    if plan is None:
        raise ConfigError(f"there is no run {run!r} in {workspace.store}: --retry does rows of a run again")
    job = _job_of(plan, job, chosen)
    check_choices(job.tuning, job.tuning_overrides)
    about_models: list[str] = []
    if find_model == "here" and (signing := signing_of(workspace.settings)) is not None:
        signing.check()
    if find_model is not None:
        about_models = check_models(workspace.storage, job, must_be_here=find_model == "here")
    parsed, digest = workspace.read_manifest(manifest, plan.job.row_limit, plan.job.row_defaults())
    parsed, _ = settle(parsed, job)
    for _ in range(_TRIES):
        standing = _read(workspace, plan)
        standing.notes.extend(about_models)
        begun = _begun(standing, selection, digest, request)
        if begun is not None:
            return Again(plan, begun, tuple(standing.notes))
        rows = _rows(standing, selection, parsed, job, is_own=digest == plan.manifest_sha256)
        if not rows:
            return Again(plan, None, tuple(standing.notes))
        if standing.free > MAX_RETRIES:
            raise ConfigError(f"run {run!r} has had {MAX_RETRIES} retries, the limit: run failed.jsonl as a manifest")
        retry = RetryPlan(
            run=run,
            number=standing.free,
            asked=selection.text,
            request=request,
            manifest=parse(manifest).uri,
            manifest_sha256=digest,
            job=job,
            shards=_frozen(workspace, standing, rows, job),
            image_prefixes=_image_prefixes(rows, plan),
            created_at=now(),
        )
        try:
            body = retry.model_dump_json(indent=1).encode()
            workspace.storage.put(
                workspace.layout(run).retry(retry.number), body, if_absent=True, content_type="application/json"
            )
        except ObjectExistsError:
            continue  # somebody else has taken the number: what they do again may be what was asked
        return Again(plan, retry, tuple(standing.notes))
    raise RunConflictError(f"run {run!r}: others plan retries of it all the time; ask again when they are done")


def _job_of(plan: Plan, job: JobOptions, chosen: Collection[str]) -> JobOptions:
    """The run's job, with what was chosen now where that leaves images and rows alone.

    A network to fill with may come now where there was none: no row has been filled by one.
    """
    fixed = {*plan.job.identity(), "failure_threshold"}
    if plan.job.fill_model is None:
        fixed.discard("fill_model")
    for name in sorted(fixed & set(chosen)):
        ours, theirs = getattr(job, name), getattr(plan.job, name)
        if ours != theirs:
            raise RunConflictError(
                f"run {plan.run!r} was started with {name} = {theirs!r}, not {ours!r}: leave the option out, or write "
                "the value into the rows (of failed.jsonl, say) and give that file as the manifest"
            )
    return plan.job.model_copy(update={name: getattr(job, name) for name in set(chosen) - fixed})


def _read(workspace: Workspace, plan: Plan) -> _Run:
    """The run as it stands. Raises ConfigError where it cannot be retried, RunConflictError where it goes on."""
    storage, layout, left = workspace.storage, workspace.layout(plan.run), Leftovers()
    retries, free = read_retries(storage, layout, workspace.settings, left)
    lines = CountedRows(storage, layout, plan, retries, workspace.settings, left)
    rows: dict[int, PlannedRow] = {}
    records: list[Record] = []
    ended = Counter[int]()
    for found in lines:
        if found.row is not None:
            rows[found.number] = found.row
        ended.update(record.retry for _, record in found.records)
        records.extend(record for _, record in found.records[-1:])
    for shard in plan.shards:
        why = lines.unreadable.get(shard.name, "")
        if why or lines.rows_read[shard.name] < shard.rows:
            raise ConfigError(
                f"the rows of run {plan.run!r} can no longer be read ({why or layout.shard(shard.name)}), so none is "
                "done again there: run its failed.jsonl as a manifest, under another run name"
            )
    missing = plan.rows - len(records)
    if missing > 0:
        which = counted(missing, "row without a record", "rows without a record")
        raise RunConflictError(
            f"run {plan.run!r} has {which}: it is under way, or stopped before its end; the same command without "
            "--retry goes on with it"
        )
    return _Run(plan, retries, free, rows, records, ended)


def _begun(run: _Run, selection: Selection, digest: str, request: str) -> RetryPlan | None:
    """The retry that was begun for this, and is not to be planned once more."""
    if request:
        found = next((one for one in run.retries if one.request == request and one.asked == selection.text), None)
        if found is not None:
            return found
    if not run.retries:
        return None
    last = run.retries[-1]
    missing = run.missing_of(last)
    if not missing:
        return None
    state = (
        f"retry {last.number} of run {run.plan.run!r} ({last.asked}) has not ended: {missing} of {last.rows} rows wait"
    )
    if (last.asked, last.manifest_sha256) == (selection.text, digest):
        run.notes.append(f"{state}; this goes on with it")
        return last
    run.notes.append(f"{state}; another one is begun beside it, and the newest record of a row counts")
    return None


def _rows(
    run: _Run, selection: Selection, parsed: ParsedManifest, job: JobOptions, *, is_own: bool
) -> list[PlannedRow]:
    """The rows to do again, by line."""
    chosen = select(selection, run.records, run.plan.run)
    if not chosen:
        run.notes.append(
            f"no row of run {run.plan.run!r} is {' or '.join(sorted(selection.states))}: nothing to do again"
        )
        return []
    if is_own:
        accepted, errors = _by_line(parsed, {record.row for record in chosen if record.status == "rejected"})
    else:
        accepted, errors = _by_id(parsed, {record.id: record.row for record in chosen})
    rows: list[PlannedRow] = []
    names = NamesOfRun(names_of(job, run.plan.manifest), run.rows.values())
    for record in chosen:
        if is_own and record.status != "rejected":
            rows.append(run.rows[record.row])
        elif record.row in accepted:
            row = accepted[record.row].model_copy(update={"row": record.row, "id": record.id})
            try:
                rows.append(names.plan(row, job))
            except BadRowError as error:
                run.notes.append(f"{record.id} stays {record.status}: row {row.row}: {error}")
        elif record.row in errors:
            run.notes.append(f"{record.id} stays {record.status}: {errors[record.row]}")
        elif record.id in selection.ids:
            raise ConfigError(
                f"--retry: the manifest has no row with the id {record.id!r}, and it is not the run's own"
            )
        else:
            run.notes.append(f"{record.id} stays {record.status}: the manifest has no row with this id")
    _refuse_taken_names(run, rows, job)
    if not is_own and len(accepted) < len(parsed.accepted):
        others = len(parsed.accepted) - len(accepted)
        run.notes.append(f"{counted(others, 'other row')} of the manifest: not among those to do again")
    return rows


def _refuse_taken_names(run: _Run, rows: list[PlannedRow], job: JobOptions) -> None:
    """A corrected row may have more variants than before. Raises ConfigError."""
    if job.names is not None:
        return  # names by a template are told apart as each row is planned
    now_ = run.rows | {row.row: row for row in rows}
    others = names_like_variants(row for row in now_.values() if row.parameters.variants == 1)
    for row in rows:
        if (taken := taken_name(row, job, others)) is not None:
            raise ConfigError(f"--retry: {taken_message(row, taken)}")


def _image_prefixes(rows: Iterable[PlannedRow], plan: Plan) -> tuple[str, ...]:
    """Those of the retry's images that the run's do not cover: such a row was rejected before, or has a new name."""
    if not plan.image_prefixes:  # then all images are listed together
        return ()
    names = [name for row in rows for name in row.names or (row.id,) if not name.startswith(plan.image_prefixes)]
    prefixes = NamePrefixes()
    for name in names:
        prefixes.add(name)
    return prefixes.cover(max(1, len(names) // _OTHER_PREFIXES))  # what they all share, other names share as well


_Found = tuple[Mapping[int, AcceptedRow], Mapping[int, str]]
"""By the run's lines: rows of a manifest that can be painted now, and why others cannot."""


def _by_line(parsed: ParsedManifest, lines: Collection[int]) -> _Found:
    if not lines:
        return {}, {}
    accepted = {row.row: row for row in parsed.accepted if row.row in lines}
    return accepted, {row.row: row.error.message for row in parsed.rejected if row.row in lines}


def _by_id(parsed: ParsedManifest, lines: Mapping[str, int]) -> _Found:
    """As stores and file systems tell ids apart: case does not matter."""
    folded = {_folded(name): line for name, line in lines.items()}
    accepted = {folded[_folded(row.id)]: row for row in parsed.accepted if _folded(row.id) in folded}
    errors = {folded[_folded(row.id)]: row.error.message for row in parsed.rejected if _folded(row.id) in folded}
    return accepted, errors


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _frozen(workspace: Workspace, run: _Run, rows: list[PlannedRow], job: JobOptions) -> tuple[Shard, ...]:
    """The next retry's shards, which are in the store now, under names that nobody else's retry has."""
    layout, nonce = workspace.layout(run.plan.run), uuid.uuid4().hex[:8]
    shards: list[Shard] = []
    left = iter(rows)
    size = job.shard_rows or DEFAULT_SHARD_ROWS  # a plan has it; only a changed one does not
    for shard, _ in split_rows(rows, shard_rows=size, max_shards=workspace.settings.max_shards):
        named = shard.model_copy(update={"name": retry_shard_name(len(shards), run.free, nonce)})
        lines = (row.as_shard_line() for row in itertools.islice(left, shard.rows))
        workspace.storage.put(layout.shard(named.name), to_jsonl(lines), content_type="application/jsonl")
        shards.append(named)
    return tuple(shards)
