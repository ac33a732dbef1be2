"""Views of the gallery that a person has named, kept in the store, `views/<reviewer>.json`: filters and order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import Field, ValidationError

from inpaint_ops.errors import (
    ConfigError,
    DamagedObjectError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location
from inpaint_ops.records import Model
from inpaint_ops.reviewing.reviewers import key_of
from inpaint_ops.runs import Workspace

MAX_VIEWS = 50
"""Of one person."""
MAX_NAME, MAX_QUERY = 60, 2000
"""Characters of a view's name, and of its filters as an address has them."""
FILTERS = ("status", "mark", "flag", "device", "measure", "least", "most", "order", "text")
"""What a view may hold, by its name in the gallery's address."""

_BYTES = 2**20
_TRIES = 20
_PAUSE, _MAX_PAUSE = 0.05, 1.0
"""Seconds between two tries."""
_RANDOM = random.SystemRandom()  # forked processes must not pause in step


class _Kept(Model):
    schema_version: Literal[1] = 1
    views: dict[str, str] = Field(max_length=MAX_VIEWS)


def read_views(workspace: Workspace, reviewer: str) -> dict[str, str]:
    """The person's views by name, each as the query of an address. Raises ConfigError for a name that is no reviewer's;
    DamagedObjectError; StorageError.
    """
    return _read(workspace, reviewer)


def save_view(workspace: Workspace, reviewer: str, name: str, query: str) -> dict[str, str]:
    """Keep a view under a name, in place of another of that name; all views then.

    Raises ConfigError for a name or filters that no view has, and where there are `MAX_VIEWS`; else as `read_views`.
    """
    name, kept = _name(name), _checked(query)

    def with_it(views: dict[str, str]) -> dict[str, str]:
        if name not in views and len(views) >= MAX_VIEWS:
            raise ConfigError(f"there are {MAX_VIEWS} views already: remove one first")
        return views | {name: kept}

    return _change(workspace, reviewer, with_it)


def remove_view(workspace: Workspace, reviewer: str, name: str) -> dict[str, str]:
    """Remove a view, if there is one of this name; all views then. Raises as `read_views`."""
    return _change(workspace, reviewer, lambda views: {one: query for one, query in views.items() if one != name})


def _change(workspace: Workspace, reviewer: str, change: Callable[[dict[str, str]], dict[str, str]]) -> dict[str, str]:
    """Replace the person's views as they were read, again where another window of theirs was first."""
    place = workspace.places.views(key_of(reviewer))
    for _ in _tries():
        with suppress(ObjectExistsError, ObjectChangedError, ObjectNotFoundError):
            views, etag = _read_once(workspace, place)
            changed = change(views)
            if changed != views:
                _put(workspace, place, _Kept(views=changed).model_dump_json(indent=1).encode(), etag)
            return changed
    raise StorageUnavailableError(f"cannot write {place}: it was changed on every try; try again")


def _put(workspace: Workspace, place: Location, body: bytes, etag: str | None) -> None:
    if etag is None:
        workspace.storage.put(place, body, if_absent=True, content_type="application/json")
    else:
        workspace.storage.put(place, body, if_match=etag, content_type="application/json")


def _read(workspace: Workspace, reviewer: str) -> dict[str, str]:
    place = workspace.places.views(key_of(reviewer))
    for _ in _tries():
        with suppress(ObjectChangedError):
            return _read_once(workspace, place)[0]
    raise StorageUnavailableError(f"cannot read {place}: it was changed on every try; try again")


def _read_once(workspace: Workspace, place: Location) -> tuple[dict[str, str], str | None]:
    """The views and their ETag, as they are now. Raises ObjectChangedError where they change meanwhile."""
    try:
        info = workspace.storage.stat(place)
        kept = _Kept.model_validate_json(workspace.storage.get(place, max_bytes=_BYTES, if_match=info.etag))
        return {_name(name): _checked(query) for name, query in kept.views.items()}, info.etag
    except ObjectNotFoundError:
        return {}, None
    except (ValidationError, ConfigError):
        raise DamagedObjectError(f"{place} holds no views: remove it") from None


def _tries() -> Iterator[None]:
    for tried in range(_TRIES):
        if tried:
            time.sleep(min(_MAX_PAUSE, _PAUSE * 2**tried) * _RANDOM.random())
        yield


def _name(name: str) -> str:
    found = name.strip()
    if not 0 < len(found) <= MAX_NAME or not found.isprintable():
        raise ConfigError(f"a view's name has 1 to {MAX_NAME} characters, and none that is not printable")
    return found


def _checked(query: str) -> str:
    """The filters of an address, in one order. Raises ConfigError for anything else."""
    if len(query) > MAX_QUERY:
        raise ConfigError(f"a view has at most {MAX_QUERY:,} characters")
    try:
        found = dict(parse_qsl(query, strict_parsing=bool(query), max_num_fields=len(FILTERS)))
    except ValueError:
        raise ConfigError("a view is the query of an address, and each filter stands in it once") from None
    if unknown := sorted(found.keys() - set(FILTERS)):
        raise ConfigError(f"{unknown[0][:50]!r} is no filter of the gallery: {', '.join(FILTERS)}")
    return urlencode([(name, found[name]) for name in FILTERS if name in found])
