"""The inbox: manifests that wait, each claimed exactly once, whoever else is looking.

A claim is an object put if absent, named after the manifest and its ETag: of any number of schedulers one wins, and a
manifest that is replaced by other content is a new one. Losing a claim is silent. A claim that its winner could not act
upon (it died right after) is found again by the same claimant's next look, until the run has begun or `note_triggered`
has said that it was triggered.

Which manifest a claim is of, and which run that becomes, is computed from the inbox's listing. Of the claim itself only
its claimant is read, so a damaged or forged one can hold back its own manifest and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from itertools import islice
from pathlib import PurePosixPath

from pydantic import BaseModel, Field, ValidationError

from inpaint_ops.errors import (
    ConfigError,
    InpaintOpsError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StorageError,
)
from inpaint_ops.layout import CLAIM_ENDING, TRIGGERED_ENDING, check_run_name, run_name_from
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import MANIFEST_ENDINGS, manifest_ending
from inpaint_ops.records import Model, now
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import ObjectInfo

log = logging.getLogger(__name__)

BATCH = 100
"""Claims that one look returns, at most. Airflow maps a task over 1,024 at most (`[core] max_map_length`)."""

MAX_CLAIM_BYTES = 16_384
"""Of a claim: a manifest's URI of 1 kB, escaped, is the longest thing in it."""

_NEVER_IN_A_NAME = re.compile(r"[{}%\\]")
"""Characters that template languages, URLs and format strings interpret, and the backslash, which no key may hold."""

_NAMED = 20
"""Refused manifests that one look names in the log; the others are counted."""


class Claim(Model):
    """One manifest, taken by one claimant, and the name of the run that it becomes."""

    manifest: str
    etag: str
    run: str
    claimant: str

    @property
    def mark(self) -> str:
        """Names the claim's objects below `claims/`: 40 hexadecimal digits, by the manifest's URI and ETag."""
        return _digest(self.manifest, self.etag)[:40]


class _Claimant(BaseModel):
    claimant: str = Field(max_length=1000)


def claimant_of(body: bytes) -> str | None:
    """Whose a claim is, the only part of it that is trusted; None if it is damaged. Takes any bytes."""
    try:
        return _Claimant.model_validate_json(body).claimant
    except ValidationError:
        return None


def claimed_run(body: bytes) -> str | None:
    """The run that a claim names, for one whose manifest has left the inbox; None if it names none. Takes any bytes."""
    try:
        return check_run_name(json.loads(body)["run"])
    except (ConfigError, ValueError, TypeError, KeyError, RecursionError):
        return None


def waiting(workspace: Workspace) -> list[ObjectInfo]:
    """The manifests directly below the inbox, oldest first.

    One whose name is refused is left out and logged; it does not hold up the others. Raises StorageError.
    """
    found: list[ObjectInfo] = []
    refused: list[ObjectInfo] = []
    for info in workspace.storage.list(workspace.inbox, direct=True):
        if manifest_ending(info.location.name) in MANIFEST_ENDINGS:
            (found if _is_plain(info.location) else refused).append(info)
    for info in refused[:_NAMED]:
        log.warning(
            "%s in the inbox is not taken: its name holds an unprintable character, a backslash, '%%', '{' or '}'; "
            "rename it",
            repr(info.location.name),
        )
    if len(refused) > _NAMED:
        log.warning("%d more manifests in the inbox are not taken, for their names as well", len(refused) - _NAMED)
    return sorted(found, key=lambda info: (info.modified, info.location.key))


def _is_plain(where: Location) -> bool:
    """Whether a name can go through Airflow, logs and URIs and come out as it was."""
    if not where.name.isprintable() or _NEVER_IN_A_NAME.search(where.name):
        return False
    try:
        return parse(where.uri) == where
    except InpaintOpsError:
        return False


def claim_of(info: ObjectInfo, claimant: str) -> Claim:
    """The claim of a manifest, by its listing alone."""
    uri, etag = info.location.uri, info.etag.strip('"')
    stem = PurePosixPath(info.location.name).stem[:100]
    return Claim(manifest=uri, etag=etag, run=run_name_from(f"{stem}-{_digest(uri, etag)[:12]}"), claimant=claimant)


def _digest(uri: str, etag: str) -> str:
    return hashlib.sha256(f"{uri}\n{etag}".encode()).hexdigest()


def claim_all(workspace: Workspace, claimant: str, limit: int = BATCH) -> list[Claim]:
    """Claim what waits, the oldest first, `limit` at most; the rest is for the next look.

    Returns this claimant's claims, with earlier ones whose run was not triggered and has not begun: acting upon a claim
    must be idempotent, which the run's name makes it. Earlier ones take no more than half of the batch from new
    manifests. Costs a few listings, and one request for each claim that is new or has no run.

    A claim that the store refuses to read or write costs its manifest a line in the log. Raises StorageError where that
    is so of every claim, or of more than `limit`, and where the store does not answer.
    """
    found = [claim_of(info, claimant) for info in waiting(workspace)]
    names = {info.location.name for info in workspace.storage.list(workspace.places.claims, direct=True)}
    begun = set(workspace.storage.folders(workspace.places.runs))
    fresh = [claim for claim in found if claim.mark + CLAIM_ENDING not in names]
    earlier = [
        claim
        for claim in found
        if claim.mark + CLAIM_ENDING in names and claim.mark + TRIGGERED_ENDING not in names and claim.run not in begun
    ]

    errors: list[StorageError] = []

    def ours(check: Callable[[Workspace, Claim], bool], claim: Claim) -> bool:
        try:
            return check(workspace, claim)
        except StorageError as error:
            errors.append(error)
            if not error.permanent or len(errors) > limit:
                raise
            log.warning("the manifest %s is not taken: %s", claim.manifest, error)
            return False

    most = max(limit - len(fresh), (limit + 1) // 2)
    taken = list(islice((claim for claim in earlier if ours(_stands, claim)), most))
    taken += islice((claim for claim in fresh if ours(_take, claim)), limit - len(taken))
    if errors and not taken:
        raise errors[0]
    if len(taken) == limit < len(fresh) + len(earlier):
        log.info("%d manifests are claimed in one look at most: the next look takes what is left", limit)
    order = {claim: index for index, claim in enumerate(found)}
    return sorted(taken, key=order.__getitem__)


def note_triggered(workspace: Workspace, mark: str) -> None:
    """Record that a claim's run was triggered, so that later looks skip it whatever becomes of the run."""
    workspace.storage.put(workspace.places.triggered(mark), b"", content_type="text/plain")


def _take(workspace: Workspace, claim: Claim) -> bool:
    """Whether the claim is ours now. Of its body only the claimant is ever read."""
    body = {"schema_version": 1, **claim.model_dump(), "claimed_at": now().isoformat()}
    place = workspace.places.claim(claim.mark)
    try:
        workspace.storage.put(place, json.dumps(body).encode(), if_absent=True, content_type="application/json")
    except ObjectExistsError:
        return _stands(workspace, claim)
    log.info("claimed %s as run %s", claim.manifest, claim.run)
    return True


def _stands(workspace: Workspace, claim: Claim) -> bool:
    """Whether the claim that is there is ours. One that cannot be read belongs to nobody: its manifest waits."""
    place = workspace.places.claim(claim.mark)
    try:
        claimant = claimant_of(workspace.storage.get(place, max_bytes=MAX_CLAIM_BYTES))
    except ObjectNotFoundError:  # freed by housekeeping just now: the next look takes it
        return False
    except ObjectTooLargeError:
        claimant = None
    if claimant is None:
        log.warning(
            "the claim %s of the manifest %s is damaged, so the manifest is not taken: delete the claim, and the next "
            "look claims it anew",
            place.uri,
            claim.manifest,
        )
    return claimant == claim.claimant
