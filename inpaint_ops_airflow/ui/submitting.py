"""Routes to submit a job: the page, what is known of the job before it runs, its manifest, and presets.

Nothing is triggered here: the page asks Airflow's own API, with the session of whoever looks, and so with their rights.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from inpaint_ops.errors import ConfigError, ForbiddenLocationError, InpaintOpsError, RunConflictError
from inpaint_ops.layout import check_run_name
from inpaint_ops.locations import parse
from inpaint_ops.manifest.formats import MANIFEST_ENDINGS
from inpaint_ops.records import Model
from inpaint_ops.submitting import (
    Finding,
    names_of_runs,
    parse_request,
    preset_names,
    read_preset,
    save_preset,
)
from inpaint_ops.submitting import Request as Asked
from inpaint_ops.submitting.preflight import PARTS
from inpaint_ops_airflow import preflight
from inpaint_ops_airflow.form import PARAMS
from inpaint_ops_airflow.ui.access import DAG_ID, may_review, may_trigger_runs, reviewer, sent_by_these_pages
from inpaint_ops_airflow.ui.dependencies import ViewsDep
from inpaint_ops_airflow.ui.errors import message_of
from inpaint_ops_airflow.ui.rendering import render

router = APIRouter()

BODY_BYTES = 256 * 2**10
"""Of a job that a page sends, at most."""
POOL = "gpu"

_NOT_OPTIONS = ("manifest", "run", "retry", "sample")
"""Fields of the form that the page asks for in its own way, or not at all."""
_FIRST = ("prompt", "negative_prompt", "quality", "variants")
"""Options that are seen without opening the others."""

_SUGGESTED = 100
_LOOKED_AT = 1000
_LISTING_SECONDS = 2.0

_writes = [sent_by_these_pages, may_trigger_runs]


@dataclass(frozen=True, slots=True)
class FormField:
    """One option as the page asks for it."""

    name: str
    title: str
    description: str
    kind: Literal["choice", "integer", "number", "boolean", "text", "lines", "object"]
    choices: tuple[tuple[str, str], ...] = ()
    minimum: float | None = None
    maximum: float | None = None


def fields() -> list[FormField]:
    """The options of the DAG's form, in its order."""
    return [_field(name, param) for name, param in PARAMS.items() if name not in _NOT_OPTIONS]


def _field(name: str, param: Param) -> FormField:
    schema = param.schema
    kinds = schema.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    base = {"name": name, "title": schema["title"], "description": param.description or ""}
    if "enum" in schema:
        shown = schema.get("values_display", {})
        choices = [("", shown.get("null", f"{param.value}, the default"))]
        choices += [(one, shown.get(one, one)) for one in schema["enum"] if one is not None]
        return FormField(**base, kind="choice", choices=tuple(choices))
    if "boolean" in kinds:
        choices = [("", "as the settings say"), ("true", "on"), ("false", "off")]
        return FormField(**base, kind="boolean", choices=tuple(choices))
    if "integer" in kinds or "number" in kinds:
        number: Literal["integer", "number"] = "integer" if "integer" in kinds else "number"
        return FormField(**base, kind=number, minimum=schema.get("minimum"), maximum=schema.get("maximum"))
    return FormField(**base, kind="lines" if "array" in kinds else "object" if "object" in kinds else "text")


@router.get("/submit", response_class=HTMLResponse)
def submit_page(request: Request, views: ViewsDep, may: Annotated[bool, may_review]) -> str:
    """The page on which a job is put together, looked at and triggered."""
    every = sorted(fields(), key=lambda one: _FIRST.index(one.name) if one.name in _FIRST else len(_FIRST))
    workspace = views.workspace
    try:
        presets = preset_names(workspace)
    except InpaintOpsError:
        presets = ()
    return render(
        request, "submit.html.j2", dag_id=DAG_ID, may=may, presets=presets,
        first=[one for one in every if one.name in _FIRST], more=[one for one in every if one.name not in _FIRST],
        inbox=workspace.inbox.uri, store=workspace.store.uri, price=workspace.settings.gpu_hour_price,
    )  # fmt: skip


class PlacesBody(Model):
    """What lies directly below a prefix: folders, and files that may be manifests; `more`: not all was looked at."""

    folders: tuple[str, ...]
    manifests: tuple[str, ...]
    more: bool


@router.get("/api/submit/places", dependencies=[may_trigger_runs])
def places(views: ViewsDep, under: Annotated[str, Query(max_length=2000)] = "") -> PlacesBody:
    """Folders and manifests directly below a prefix that rows may be read from; without one, the inbox."""
    storage = views.workspace.storage
    prefix = parse(under).as_prefix() if under else views.workspace.inbox
    until = time.monotonic() + _LISTING_SECONDS
    folders: list[str] = []
    manifests: list[str] = []
    more = False
    for count, name in enumerate(storage.folders(prefix)):
        if count >= _SUGGESTED or time.monotonic() > until:
            more = True
            break
        folders.append(f"{prefix.uri}{name}/")
    for count, info in enumerate(storage.list(prefix, direct=True)):
        if count >= _LOOKED_AT or len(manifests) >= _SUGGESTED or time.monotonic() > until:
            more = True
            break
        if any(info.location.name.lower().endswith((one, one + ".gz")) for one in MANIFEST_ENDINGS):
            manifests.append(info.location.uri)
    return PlacesBody(folders=tuple(folders), manifests=tuple(manifests), more=more)


class CheckedBody(Model):
    """What is known of a job, and the names of its runs, which go back with it."""

    run: str
    sample_run: str
    findings: tuple[Finding, ...]
    left_out: str = Field(description="What was not looked at, and why; empty: all was.")
    may_run: bool


class PreparedBody(Model):
    """What Airflow is asked for: a DAG run's id, which exists once, and its configuration."""

    run: str
    dag_run_id: str
    conf: dict[str, Any]


def _asked(sent: Any) -> Asked:
    if not isinstance(sent, dict):
        raise ConfigError("this is no job: send an object")
    request = parse_request(sent)
    check_form(request.options)
    return request


def check_form(options: dict[str, Any]) -> None:
    """Raise ConfigError for a value that the DAG's form would refuse, naming the field."""
    for name, value in options.items():
        if name not in PARAMS or name in _NOT_OPTIONS:
            raise ConfigError(f"options: there is no {name[:100]!r}")
        try:
            copy.copy(PARAMS[name]).resolve(value)
        except ParamValidationError as error:
            raise ConfigError(f"{name}: {str(error).splitlines()[0][:300]}") from None


def _devices(session: Any) -> int:
    """Slots of the pool that tasks paint in; 1 where it is not known."""
    if session is None:
        return 1
    from airflow.models.pool import Pool

    found = Pool.get_pool(POOL, session=session)
    return max(1, min(1024, found.slots)) if found is not None and found.slots > 0 else 1


async def _body(request: Request) -> Any:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > BODY_BYTES:
            raise HTTPException(413, f"a job has {BODY_BYTES:,} bytes at most")
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        raise HTTPException(422, "this is no JSON") from None


SentDep = Annotated[Any, Depends(_body)]


@router.post("/api/submit/check", dependencies=_writes)
def check(sent: SentDep, views: ViewsDep, session: SessionDep) -> CheckedBody:
    """Look at a job: nothing is written, and nothing is triggered."""
    request = _refused_as_422(_asked, sent)
    run, sample = names_of_runs(request, datetime.now(UTC))
    task = {"what": "check", "request": request.model_dump(mode="json"), "run": run, "devices": _devices(session)}
    lines, why = _ask(task, views)
    by_part = {line["part"]: Finding.model_validate(line) for line in lines}  # a later one replaces an earlier one
    findings = tuple(by_part[part] for part in PARTS if part in by_part)
    missing = [_NAMES[part] for part in PARTS if part not in by_part]
    if missing and not why:
        why = "something before them is in the way"
    left_out = f"Not looked at, since {why}: {', '.join(missing) or 'nothing else'}." if why else ""
    if why and any(not one.whole for one in findings):
        left_out += " Of the rows only the first were looked at."
    return CheckedBody(
        run=run, sample_run=sample, findings=findings, left_out=left_out,
        may_run=not any(one.state == "wrong" for one in findings),
    )  # fmt: skip


_NAMES = {
    "options": "the options", "run": "the name", "rows": "the rows", "forecast": "the time", "sample": "the sample",
    "model": "the model", "files": "images and masks", "pictures": "their content",
}  # fmt: skip


def _ask(task: dict[str, Any], views: ViewsDep) -> tuple[list[dict[str, Any]], str]:
    try:
        return preflight.ask(task, seconds=views.workspace.settings.preflight_seconds)
    except preflight.BusyError:
        raise HTTPException(
            503, f"{preflight.AT_ONCE} jobs are being looked at: try again in a moment", headers={"Retry-After": "5"}
        ) from None


def _refused_as_422(work: Any, *arguments: Any) -> Any:
    """Our errors about what was sent are answers to whoever sent it, and name no page that is missing."""
    try:
        return work(*arguments)
    except RunConflictError as error:
        raise HTTPException(409, message_of(error)) from None
    except (ConfigError, ForbiddenLocationError) as error:
        raise HTTPException(422, message_of(error)) from None


@router.post("/api/submit/prepare", dependencies=_writes)
def prepare(sent: SentDep, views: ViewsDep) -> PreparedBody:
    """What to trigger the DAG with. The manifest of two prefixes is written, once per name."""
    if not isinstance(sent, dict) or set(sent) - {"request", "run", "sample"} or not isinstance(sent.get("run"), str):
        raise HTTPException(422, 'send {"request": ..., "run": ..., "sample": ...}')
    request = _refused_as_422(_asked, sent.get("request"))
    run = _refused_as_422(check_run_name, sent["run"])
    manifest = request.manifest
    if manifest is None:
        lines, why = _ask({"what": "write", "request": request.model_dump(mode="json"), "run": run}, views)
        if why:
            raise HTTPException(
                503, f"the manifest was not written: {why}. Make it with `inpaint-ops manifest`, and submit that"
            )
        if "problem" in lines[-1]:
            raise HTTPException(409, lines[-1]["problem"][:500])
        manifest = lines[-1]["manifest"]
    conf = {**request.options, "manifest": manifest, "run": run}
    if sent.get("sample"):
        conf["sample"] = request.sample
    return PreparedBody(run=run, dag_run_id=f"page__{run}", conf=conf)


# -- presets ------------------------------------------------------------------------------------------------------


class PresetBody(Model):
    """A preset, and its ETag, which goes back with what replaces it."""

    name: str
    options: dict[str, Any]
    saved_by: str
    saved_at: datetime
    etag: str


@router.get("/api/presets/{name}")
def preset(name: str, views: ViewsDep) -> PresetBody:
    """One preset."""
    found, etag = read_preset(views.workspace, name)
    return PresetBody(
        name=found.name, options=found.options, saved_by=found.saved_by, saved_at=found.saved_at, etag=etag
    )


@router.post("/api/presets/{name}", dependencies=_writes)
def keep_preset(name: str, sent: SentDep, views: ViewsDep, by: Annotated[str, reviewer]) -> dict[str, str]:
    """Save a preset: a new one, or in place of the one whose ETag is sent. 409 where somebody else was first."""
    options, etag = (sent.get("options"), sent.get("etag")) if isinstance(sent, dict) else (None, None)
    if not isinstance(options, dict) or not isinstance(etag, str | None):
        raise HTTPException(422, 'send {"options": {...}, "etag": null or that of the preset}')
    chosen = {field: value for field, value in options.items() if value is not None}
    _refused_as_422(check_form, chosen)
    return {"etag": _refused_as_422(lambda: save_preset(views.workspace, name, chosen, by=by, etag=etag))}
