"""Presets: sets of options that people name and keep in the store, `presets/<name>.json`, for all who use it."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Literal

from pydantic import Field, ValidationError

from inpaint_ops.errors import (
    ConfigError,
    DamagedObjectError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RunConflictError,
    StorageError,
)
from inpaint_ops.locations import Location, without_secrets
from inpaint_ops.planning import job_options
from inpaint_ops.records import Model, Moment, now
from inpaint_ops.runs import Workspace
from inpaint_ops.standing.entries import OPTIONS
from inpaint_ops.tuning import check_choices

MAX_BYTES = 64 * 2**10
"""Of one preset."""
MAX_PRESETS = 500
"""Presets that are listed, at most."""

_TRIES = 5
"""Of reading a preset that others replace meanwhile."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_NO_SUCH_ETAG = '"0123456789abcdef0123456789abcdef"'
_SECRET = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?i:X-Amz-Signature|X-Amz-Security-Token|[?&](?:sig|token|access_token|api_?key|password)=)"
)
"""Keys of AWS, tokens of the hub, GitHub and Slack, signed tokens and URLs, private keys."""

KEPT = OPTIONS - {"row_limit", "sample"}
"""Options that a preset may hold: what is chosen of rows is a run's own."""


class Preset(Model):
    """A named set of options."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=rf"^{_NAME.pattern}$")
    options: dict[str, Any]
    saved_by: str = Field(default="", max_length=200)
    saved_at: Moment


def check_preset_name(name: str) -> str:
    """Return `name`, or raise ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:100]!r} names no preset: use letters, digits, - and _, at most 80")
    return name


def preset_names(workspace: Workspace) -> tuple[str, ...]:
    """The names of the store's presets, in order; the first `MAX_PRESETS`. Raises StorageError."""
    infos = itertools.islice(workspace.storage.list(workspace.places.presets, direct=True), 2 * MAX_PRESETS)
    names = (info.location.name.removesuffix(".json") for info in infos if info.location.name.endswith(".json"))
    return tuple(sorted(name for name in names if _NAME.fullmatch(name))[:MAX_PRESETS])


def read_preset(workspace: Workspace, name: str) -> tuple[Preset, str]:
    """A preset and its ETag, which whoever replaces it has to give.

    Raises ConfigError for a name that no preset has and for options that no job may have; DamagedObjectError for
    anything else in its place; StorageError.
    """
    place = workspace.places.preset(check_preset_name(name))
    try:
        body, etag = _read(workspace, place)
    except ObjectNotFoundError:
        known = ", ".join(preset_names(workspace)[:20])
        raise ConfigError(
            f"there is no preset {name!r} in {workspace.places.presets}; there are: {known or 'none'}"
        ) from None
    try:
        found = Preset.model_validate_json(body)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))[:100]
        raise DamagedObjectError(
            f"{place} is no preset ({where or 'it is not JSON'}): save it anew, or remove it"
        ) from None
    if found.name != name:
        raise DamagedObjectError(f"{place} says that it is the preset {found.name!r}: save it anew, or remove it")
    check_options(workspace, found.options)
    return found, etag


def _read(workspace: Workspace, place: Location) -> tuple[bytes, str]:
    """The bytes and their ETag; asked for again where somebody replaces it between the two requests."""
    for attempt in itertools.count(1):
        info = workspace.storage.stat(place)
        try:
            return workspace.storage.get(place, max_bytes=MAX_BYTES, if_match=info.etag), info.etag
        except ObjectChangedError:
            if attempt == _TRIES:
                raise
    raise AssertionError("it counts without end")


def check_options(workspace: Workspace, options: dict[str, Any]) -> None:
    """Raise ConfigError unless a job may have these options, and none looks like a secret."""
    if unknown := sorted(set(options) - KEPT):
        raise ConfigError(f"a preset has no {', '.join(unknown)[:200]}: it may hold {', '.join(sorted(KEPT))}")
    for name, value in options.items():
        text = json.dumps(value, ensure_ascii=False)
        if _SECRET.search(text) or without_secrets(text) != text:
            raise ConfigError(
                f"{name}: this looks like a key, a token or a signed URL; everybody reads a preset: leave it out"
            )
    job = job_options(workspace.settings, **options)
    check_choices(job.tuning, job.tuning_overrides)


def save_preset(workspace: Workspace, name: str, options: dict[str, Any], *, by: str, etag: str | None) -> str:
    """Keep options under a name; the ETag of what is kept. Options without a value are left out.

    `etag` is that of the preset that is replaced, as its writer read it; None: there is none yet. Raises
    RunConflictError where somebody else has saved it meanwhile; ConfigError; StorageError, also where the store does
    not honour `If-Match`.
    """
    place = workspace.places.preset(check_preset_name(name))
    options = {field: value for field, value in options.items() if value is not None}
    check_options(workspace, options)
    preset = Preset(name=name, options=options, saved_by=by[:200], saved_at=now())
    body = preset.model_dump_json(indent=1).encode()
    if len(body) > MAX_BYTES:
        raise ConfigError(f"the preset has {len(body):,} bytes, and the limit is {MAX_BYTES:,}: shorten its texts")
    put = workspace.storage.put
    try:
        if etag is None:
            return put(place, body, if_absent=True, content_type=_JSON).etag
        _check_conditions(workspace, name, body)
        return put(place, body, if_match=etag, content_type=_JSON).etag
    except (ObjectExistsError, ObjectChangedError, ObjectNotFoundError):
        raise RunConflictError(
            f"the preset {name!r} was saved or removed by somebody else meanwhile: load it, then save it again, or "
            "choose another name"
        ) from None


_JSON = "application/json"


def _check_conditions(workspace: Workspace, name: str, body: bytes) -> None:
    """Raise StorageError where the store ignores `If-Match`: with a put that has to be refused."""
    try:
        workspace.storage.put(workspace.places.preset(name), body, if_match=_NO_SUCH_ETAG, content_type=_JSON)
    except (ObjectChangedError, ObjectNotFoundError):
        return
    raise StorageError(
        f"the preset {name!r} was saved, but the store ignores If-Match, so that two people at once may lose a preset; "
        "docs/storage.md names stores that honour it"
    )
