"""The inbox: manifests that wait, each claimed exactly once, whoever else is looking.

A claim is an object put if absent, named after the manifest and its ETag: of any number of schedulers one wins, and a
manifest that is replaced by other content is a new one. Losing a claim is silent; a claim that its winner could not act
upon (it died right after) is found again by the same claimant's next look.
"""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Literal

from inpaint_ops.errors import ObjectExistsError, one_line
from inpaint_ops.layout import run_name_from
from inpaint_ops.locations import Location, parse
from inpaint_ops.records import Model, now
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import ObjectInfo

log = logging.getLogger(__name__)

MANIFEST_SUFFIXES = frozenset({".jsonl", ".ndjson", ".csv", ".parquet"})


_NEVER_IN_A_NAME = re.compile(r"[{}%\\]")
"""What template languages, URLs and format strings give a meaning to, and the backslash, which no key may hold."""


class Claim(Model):
    """One manifest, taken by one claimant, and the name of the run that it becomes."""

    schema_version: Literal[1] = 1
    manifest: str
    etag: str
    run: str
    claimant: str
    claimed_at: datetime


def waiting(workspace: Workspace) -> list[ObjectInfo]:
    """The manifests directly below the inbox, oldest first. One whose name is refused is left out, with a warning."""
    inbox = parse(workspace.settings.inbox_prefix if workspace.settings.inbox else f"{workspace.store.uri}inbox/")
    found = [
        info
        for info in workspace.storage.list(inbox)
        if "/" not in info.location.key.removeprefix(inbox.key)
        and PurePosixPath(info.location.name).suffix.lower() in MANIFEST_SUFFIXES
        and _is_plain(info.location.name)
    ]
    return sorted(found, key=lambda info: (info.modified, info.location.key))


def _is_plain(name: str) -> bool:
    if name.isprintable() and not _NEVER_IN_A_NAME.search(name):
        return True
    log.warning("%s is not taken: its name holds a control character or one of {}%%\\; rename it", one_line(repr(name)))
    return False


def claim_all(workspace: Workspace, claimant: str) -> list[Claim]:
    """Claim what waits. Returns this claimant's claims, earlier ones included: acting upon a claim must be idempotent,
    which the run's name makes it. Raises StorageError.
    """
    return [claim for info in waiting(workspace) if (claim := _claim(workspace, info, claimant)) is not None]


def _claim(workspace: Workspace, info: ObjectInfo, claimant: str) -> Claim | None:
    etag = info.etag.strip('"')
    mark = hashlib.sha256(f"{info.location.uri}\n{etag}".encode()).hexdigest()
    claim = Claim(
        manifest=info.location.uri,
        etag=etag,
        run=run_name_from(f"{PurePosixPath(info.location.name).stem[:100]}-{mark[:12]}"),
        claimant=claimant,
        claimed_at=now(),
    )
    place = Location(workspace.store.bucket, f"{workspace.store.key}claims/{mark[:40]}.json")
    try:
        workspace.storage.put(place, claim.model_dump_json().encode(), if_absent=True, content_type="application/json")
    except ObjectExistsError:
        standing = Claim.model_validate_json(workspace.storage.get(place))
        return standing if standing.claimant == claimant else None
    log.info("claimed %s as run %s", one_line(claim.manifest), claim.run)
    return claim
