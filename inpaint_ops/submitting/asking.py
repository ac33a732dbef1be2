"""What a person asks for: a manifest, or prefixes of images and masks, with options; and the names of its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, ManifestError, ObjectExistsError, ObjectTooLargeError, RunConflictError
from inpaint_ops.layout import check_run_name, run_name_from
from inpaint_ops.locations import Location, check_whole, parse
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import Model
from inpaint_ops.runs import Workspace
from inpaint_ops.standing import Entry
from inpaint_ops.standing.taking import find

_URI = Field(default=None, min_length=1, max_length=2000)

MAX_SAMPLE = 1000
"""Rows of a sample, at most."""


class Request(Model):
    """A job to be: where its rows come from, what it is called, and its options."""

    manifest: str | None = _URI
    images: str | None = _URI
    masks: str | None = _URI
    mask_suffix: str | None = Field(default=None, min_length=1, max_length=80)
    glob: str | None = Field(default=None, min_length=1, max_length=200)
    recursive: bool = True
    run: str | None = Field(default=None, max_length=120, description="The run's name; None: made of the source's.")
    sample: int = Field(default=5, ge=1, le=MAX_SAMPLE, description="Rows of the sample that is painted first.")
    options: dict[str, Any] = Field(default_factory=dict, description="As in the form of `inpaint_manifest`.")

    @field_validator("options")
    @classmethod
    def _are_chosen(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {name: chosen for name, chosen in value.items() if chosen is not None}

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.run is not None:
            check_run_name(self.run)
        for where in (self.manifest, self.images, self.masks):
            if where is not None:
                check_whole(where)
        if "sample" in self.options:
            raise ValueError("the sample is a run of its own: leave `sample` out of the options")
        return self

    def entry(self) -> Entry:
        """The same as a standing job without a schedule states it. Raises ValidationError."""
        fields = self.model_dump(exclude={"run", "sample"}, exclude_defaults=True)
        return Entry.model_validate(fields | {"options": self.options})

    def job(self, settings: Settings) -> JobOptions:
        """The job of the whole run. Raises ConfigError naming the option."""
        return self.entry().job(settings)


def parse_request(found: Mapping[str, Any]) -> Request:
    """What was asked for. Raises ConfigError naming the field and the cure."""
    try:
        request = Request.model_validate(found)
        request.entry()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:100]
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{place}: {message}" if place else message) from None
    return request


def names_of_runs(request: Request, at: datetime) -> tuple[str, str]:
    """The names of the whole run and of its sample. One request at one time has the same names, however often asked."""
    source = PurePosixPath(parse(request.manifest or request.images or "").key.rstrip("/"))
    stem = source.stem if request.manifest is not None else source.name
    stamp = f"{at:%Y%m%dT%H%M%SZ}"
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", stem).strip("._+-") or "run"
    run = request.run or run_name_from(f"{plain[:100]}-{stamp}")
    return run, f"{run}-sample" if request.run is None else f"{run}-sample-{stamp}"


def rows_of_folders(workspace: Workspace, request: Request) -> tuple[bytes, int, tuple[str, ...]]:
    """The manifest that two prefixes make: its bytes, its rows, and a line for each file that gives none.

    Raises ConfigError for a prefix that holds nothing or may not be read, ManifestError where no file has a partner.
    """
    found = find(workspace, request.entry())
    if not found.rows:
        raise ManifestError("no image has a mask: " + "; ".join(found.notes[:3]))
    body = "".join(json.dumps(row.written, ensure_ascii=False) + "\n" for row in found.rows)
    return body.encode(), len(found.rows), found.notes


def write_manifest(workspace: Workspace, request: Request, run: str) -> tuple[str, int]:
    """Put the manifest of two prefixes where it stays, for the run of this name; its URI, and its rows.

    The same rows again change nothing. Raises RunConflictError where other rows were put for a run of this name, and
    as `rows_of_folders`.
    """
    body, rows, _ = rows_of_folders(workspace, request)
    place = workspace.places.submitted_manifest(run)
    try:
        workspace.storage.put(place, body, if_absent=True, content_type="application/jsonl")
    except ObjectExistsError:
        if not _is(workspace, place, body):
            raise RunConflictError(
                f"{place} has other rows: a run {run!r} was asked for before, and files have changed since: check again"
            ) from None
    return place.uri, rows


def _is(workspace: Workspace, place: Location, body: bytes) -> bool:
    try:
        return workspace.storage.get(place, max_bytes=len(body)) == body
    except ObjectTooLargeError:
        return False
