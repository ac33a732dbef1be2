"""Jobs that could not be planned: why, and what to do, kept beside the runs so that the list of runs shows them."""

from __future__ import annotations

import logging

from inpaint_ops.errors import (
    AccessDeniedError,
    ForbiddenLocationError,
    InpaintOpsError,
    ManifestError,
    ModelError,
    ObjectNotFoundError,
    RunConflictError,
    StorageError,
)
from inpaint_ops.locations import without_secrets
from inpaint_ops.records import Refusal, now
from inpaint_ops.runs.workspace import Workspace
from inpaint_ops.storage.stored import NOTE_BYTES, read_model

log = logging.getLogger(__name__)

_CURES: dict[type[InpaintOpsError], str] = {
    RunConflictError: "Choose another run name, or none, then trigger it again.",
    ManifestError: "Correct the manifest, then trigger it again.",
    ModelError: "Correct the model's name, or fetch it with the DAG model_cache, then trigger it again.",
    ForbiddenLocationError: "Move the manifest below the store or an allowed prefix, or add its prefix to "
    "INPAINT_ALLOWED_PREFIXES, then trigger it again.",
    ObjectNotFoundError: "Upload the manifest, or correct its name, then trigger it again.",
    AccessDeniedError: "Give Airflow's storage credentials the right that is missing, then trigger it again.",
    StorageError: "Check the store and its settings, then trigger it again.",
}
_OTHERWISE = "Follow the message, then trigger it again."


def refusal(error: InpaintOpsError, *, run: str, manifest: str, request: str = "") -> Refusal:
    """What is said of a job that ended with `error` before it was planned. `request` is what asked for it."""
    cure = next((_CURES[kind] for kind in type(error).__mro__ if kind in _CURES), _OTHERWISE)
    return Refusal(
        run=run[:400], manifest=without_secrets(manifest)[:4000], type=type(error).__name__, message=str(error),
        cure=cure, permanent=error.permanent, request=request[:1000], refused_at=now(),
    )  # fmt: skip


def keep_refusal(workspace: Workspace, refused: Refusal) -> bool:
    """Put the refusal in the run's folder, where no run of that name exists; whether it is there now.

    A run that exists keeps its folder as it is. Raises nothing of the store: whoever refused has an error already.
    """
    try:
        layout = workspace.layout(refused.run)
        if workspace.storage.exists(layout.plan):
            return False
        workspace.storage.put(layout.refusal, refused.model_dump_json().encode(), content_type="application/json")
    except InpaintOpsError as error:
        log.warning("the list of runs will not show that %s was refused: %s", refused.run, error)
        return False
    return True


def read_refusal(workspace: Workspace, run: str) -> Refusal | None:
    """Why a run of this name was refused; None where it was not.

    Raises ConfigError for a name that no run may have, DamagedObjectError, ObjectTooLargeError, StorageError.
    """
    try:
        found = read_model(workspace.storage, workspace.layout(run).refusal, Refusal, max_bytes=NOTE_BYTES)
    except ObjectNotFoundError:
        return None
    return found if found.run == run else None
