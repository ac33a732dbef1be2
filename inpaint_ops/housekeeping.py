"""What may be removed: old runs, galleries whose links have ended, abandoned claims, unfinished uploads, unused models.

First a list of candidates and reasons, which changes nothing; then, where that is wanted, `remove` for each. Nothing is
looked at but the store's own `runs/`, `linked/` and `claims/`, its unfinished writes, and huggingface_hub's own cache.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from inpaint_ops.errors import (
    ConfigError,
    DamagedObjectError,
    InpaintOpsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from inpaint_ops.inbox import MAX_CLAIM_BYTES, claim_of, claimed_run, waiting
from inpaint_ops.layout import CLAIM_ENDING, REDO, TRIGGERED_ENDING, check_run_name, gallery_end
from inpaint_ops.locations import Location
from inpaint_ops.model.cache import repositories, repository
from inpaint_ops.records import Model, now
from inpaint_ops.runs import Workspace, read_refusal
from inpaint_ops.storage import ObjectInfo

log = logging.getLogger(__name__)

_CLAIMS = re.compile(rf"[0-9a-f]{{40}}({re.escape(CLAIM_ENDING)}|{re.escape(TRIGGERED_ENDING)})")


class Retention(Model):
    """How old things may get, in days; at least one, so that a clock that is hours off does no harm."""

    runs: int = Field(default=90, ge=1, description="A run is removed when nothing of it has changed for so long.")
    claims: int = Field(default=2, ge=1, description="A claim is removed when its run has not begun by then.")
    uploads: int = Field(default=7, ge=1, description="An upload that was not finished by then is aborted.")
    models: int = Field(default=30, ge=1, description="A cached model is removed when it was not read for so long.")

    @model_validator(mode="after")
    def _claims_go_before_runs(self) -> Retention:
        """A claim as old as a run that may have been removed says that the manifest was painted: it must stay."""
        if self.claims >= self.runs:
            raise ValueError("claims must be kept for fewer days than runs")
        return self


def retention(**days: int) -> Retention:
    """Retention of these days. Raises ConfigError that says what does not fit."""
    try:
        return Retention(**days)
    except ValidationError as error:
        raise ConfigError(f"retention: {error.errors()[0]['msg']}") from None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that may go, why, and how many bytes that frees (0: unknown)."""

    kind: str
    name: str
    why: str
    bytes: int
    remove: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.why}, {self.bytes / 1e6:,.1f} MB"


def in_the_store(workspace: Workspace, retention: Retention, today: datetime | None = None) -> Iterator[Candidate]:
    """What may go of the store. Reads only. Raises StorageError."""
    today = today or now()
    yield from _old_runs(workspace, today - timedelta(days=retention.runs))
    yield from _ended_galleries(workspace, today)
    yield from _dead_claims(workspace, retention, today)
    for found in workspace.storage.unfinished(workspace.store):
        if found.started < today - timedelta(days=retention.uploads):
            discard = partial(workspace.storage.discard, found)
            yield Candidate("upload", found.location.uri, f"open since {found.started:%Y-%m-%d}", 0, discard)


def in_the_model_cache(
    cache: Path, retention: Retention, keep: Iterable[str], today: datetime | None = None
) -> Iterator[Candidate]:
    """Hub models in `cache` (`model.cache.hub_cache`) that nobody has read for long, less those to `keep`. Reads only.

    When a file was last read is the file system's `atime` (under `relatime`, Linux's default, exact to a day).
    On a mount with `noatime` it is when the model was fetched.
    """
    oldest = (today or now()) - timedelta(days=retention.models)
    kept = {repository(cache, name) for name in keep}
    for folder in repositories(cache):
        if folder in kept or folder.is_symlink() or not folder.is_dir():
            continue
        stats = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        used = max((max(one.st_atime, one.st_mtime) for one in stats), default=folder.stat().st_mtime)
        last = datetime.fromtimestamp(used, UTC)
        if last < oldest:
            size = sum(one.st_size for one in stats)
            why = f"not read since {last:%Y-%m-%d}"
            yield Candidate("model", folder.name, why, size, partial(shutil.rmtree, folder))


def sweep(candidates: Iterable[Candidate], *, dry_run: bool = True) -> dict[str, int]:
    """Log each candidate and, unless this is a dry run, remove it. Returns how many of each kind; `failed` and `bytes`
    as well. One that cannot be removed does not stop the others.
    """
    counts: dict[str, int] = {"bytes": 0, "failed": 0}
    for one in list(candidates):
        log.info("%s %s", "would remove" if dry_run else "removing", one)
        try:
            if not dry_run:
                one.remove()
        except (InpaintOpsError, OSError) as error:
            log.warning("%s stays: %s", one.name, error)
            counts["failed"] += 1
            continue
        counts[one.kind] = counts.get(one.kind, 0) + 1
        counts["bytes"] += one.bytes
    return counts


def _old_runs(workspace: Workspace, oldest: datetime) -> Iterator[Candidate]:
    root = workspace.places.runs
    by_run: dict[str, tuple[datetime, int]] = {}
    families = _Families()
    for info in workspace.storage.list(root):
        run, slash, name = info.location.key.removeprefix(root.key).partition("/")
        if slash:
            last, size = by_run.get(run, (info.modified, 0))
            by_run[run] = max(last, info.modified), size + info.size
            if name.startswith(REDO) and name.endswith(".jsonl"):
                families.join(run, name.removeprefix(REDO).removesuffix(".jsonl"))
    newest: dict[str, datetime] = {}
    for run, (last, _) in by_run.items():
        head = families.head(run)
        newest[head] = max(last, newest.get(head, last))
    for run, (_, size) in sorted(by_run.items()):
        last = newest[families.head(run)]
        if last < oldest and _is_run(workspace, run):
            yield Candidate("run", run, f"unchanged since {last:%Y-%m-%d}", size, partial(_remove_run, workspace, run))


class _Families:
    """Which runs belong together: a run and those that do rows of it again. They go together, or a run would lose the
    images that were accepted in place of its own. Any run may be named as a child; that can only keep runs for longer.
    """

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def head(self, run: str) -> str:
        """The run that stands for the family of this one."""
        while (above := self._above.get(run, run)) != run:
            run = above
        return run

    def join(self, run: str, child: str) -> None:
        """Note that `child` does rows of `run` again."""
        head, below = self.head(run), self.head(child)
        if head != below:
            self._above[below] = head


def _is_run(workspace: Workspace, run: str) -> bool:
    """Whether a plan of ours says so, or a note that a job of this name was refused: what else lies below `runs/` is
    not ours to remove. Raises StorageError where that cannot be found out: with a key that may not read plans, there
    would seem to be nothing to remove.
    """
    try:
        check_run_name(run)
        return workspace.plan(run) is not None or read_refusal(workspace, run) is not None
    except ConfigError:
        return False
    except (DamagedObjectError, ObjectTooLargeError) as error:
        log.warning("%s: it stays", error)
        return False


def _remove_run(workspace: Workspace, run: str) -> None:
    """Records first and the plan last: a run that is half removed is still a run, and says that rows are missing."""
    layout = workspace.layout(run)
    for prefix in (layout.records, layout.root):
        for info in list(workspace.storage.list(prefix)):
            if info.location != layout.plan:
                workspace.storage.delete(info.location)
    workspace.storage.delete(layout.plan)


def _ended_galleries(workspace: Workspace, today: datetime) -> Iterator[Candidate]:
    """Galleries whose links have ended, by their names: nobody can see them any more."""
    root = workspace.places.linked
    found: dict[str, list[ObjectInfo]] = {}
    for info in workspace.storage.list(root):
        parts = info.location.key.removeprefix(root.key).split("/")
        end = gallery_end(parts[1]) if len(parts) > 2 else None
        if end is not None and end < today:
            found.setdefault("/".join(parts[:2]), []).append(info)
    for name, objects in sorted(found.items()):
        size, remove = sum(info.size for info in objects), partial(_remove_each, workspace, objects)
        yield Candidate("gallery", name, "its link has ended", size, remove)


def _remove_each(workspace: Workspace, objects: Iterable[ObjectInfo]) -> None:
    for info in objects:
        workspace.storage.delete(info.location)


def _dead_claims(workspace: Workspace, retention: Retention, today: datetime) -> Iterator[Candidate]:
    """Claims whose run never began: their manifest waits for a claimant that does not come back.

    A claim's age comes from the store's clock, its manifest and run from the inbox's listing. The claim itself is read
    only if its manifest has left the inbox, and what it says can only keep it from being removed.
    """
    claims = {info.location.name: info for info in workspace.storage.list(workspace.places.claims, direct=True)}
    here = {claim.mark + CLAIM_ENDING: claim for claim in (claim_of(info, "") for info in waiting(workspace))}
    for name, info in sorted(claims.items()):
        claim, age = here.get(name), today - info.modified
        if not _CLAIMS.fullmatch(name) or age < timedelta(days=retention.claims):
            continue  # what else lies there is not ours to remove
        if name.endswith(TRIGGERED_ENDING):
            if name.removesuffix(TRIGGERED_ENDING) + CLAIM_ENDING not in claims:
                remove = partial(workspace.storage.delete, info.location)
                yield Candidate("claim", info.location.uri, "the claim that it belongs to is gone", info.size, remove)
            continue
        if _has_begun(workspace, claim.run if claim else _claimed_run(workspace, info.location)):
            continue
        if claim is None:
            why = "its manifest has left the inbox, and there is no such run"
        elif age < timedelta(days=retention.runs):
            why = f"its run has not begun since {info.modified:%Y-%m-%d}; the manifest can be claimed again"
        else:
            continue  # its run may have been removed for its age: the manifest must not be painted again
        shown = claim.manifest if claim else info.location.uri
        yield Candidate("claim", shown, why, info.size, partial(_free, workspace, info.location))


def _has_begun(workspace: Workspace, run: str | None) -> bool:
    return run is not None and workspace.storage.exists(workspace.layout(run).plan)


def _claimed_run(workspace: Workspace, where: Location) -> str | None:
    try:
        return claimed_run(workspace.storage.get(where, max_bytes=MAX_CLAIM_BYTES))
    except (ObjectNotFoundError, ObjectTooLargeError):
        return None


def _free(workspace: Workspace, where: Location) -> None:
    """The note that its run was triggered goes first, or the manifest would be passed over once it is claimed again."""
    workspace.storage.delete(workspace.places.triggered(where.name.removesuffix(CLAIM_ENDING)))
    workspace.storage.delete(where)
