"""Rows that reviewers sent back, as the manifest of a child run: other seeds, and whatever else is to be tried.

The child's rows say in `extra.redo_of` which row of which run they do again; the parent has the child's manifest below
`redo/`, under the child's name.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from inpaint_ops.errors import ConfigError
from inpaint_ops.layout import RunLayout, check_run_name, run_name_from
from inpaint_ops.locations import Location
from inpaint_ops.manifest import is_valid_id, write_jsonl
from inpaint_ops.records import Model, now
from inpaint_ops.reviewing.deciding import Decision, decide
from inpaint_ops.reviewing.exporting import redo_row
from inpaint_ops.reviewing.marks import plain_text
from inpaint_ops.reviewing.reviews import Reviews
from inpaint_ops.reviewing.rows import ReviewedRow, plan_of, reviewed_rows
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.stored import Leftovers, listed

MAX_VARIANTS, MAX_PROMPT = 8, 2000
MAX_CHILDREN = 1000
"""Child runs of one run that are looked at."""

_ENDING = ".jsonl"


class RedoOptions(Model):
    """What is tried: where a field is None, as the row was painted before, but for the seed."""

    variants: Annotated[int, Field(ge=1, le=MAX_VARIANTS, description="Rows per row, each with a seed of its own.")] = 1
    prompt: Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(plain_text)] | None = None
    steps: Annotated[int, Field(ge=1, le=500)] | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    mask_dilate: Annotated[int, Field(ge=0, le=512)] | None = None
    mask_blur: Annotated[float, Field(ge=0, le=256)] | None = None

    def of(self, written: dict[str, Any]) -> dict[str, Any]:
        """The row of a manifest with these choices. A blurred mask is feathered: no other edge can be made of it."""
        found = dict(written)
        chosen = self.model_dump(exclude={"variants"}, exclude_none=True)
        if "steps" in chosen:
            found.pop("quality", None)
        if chosen.get("mask_blur") and found.get("blend") in ("hard", "poisson"):
            found["blend"] = "feather"
        if "prompt" in chosen:
            found.pop("prompt_2", None)  # else the second text encoder would go on with the old text
        return found | chosen


@dataclass(frozen=True, slots=True)
class Redo:
    """A child run that is ready to be triggered."""

    run: str
    manifest: Location
    rows: int


def variant_id(row: str, variant: int) -> str:
    """What a variant is called in the child run: the first has the row's own id. Raises ConfigError where none fits."""
    found = row if variant == 1 else f"{row}-redo-{variant}"
    if not is_valid_id(found):
        raise ConfigError(f"row {row!r}: its id is too long to have variants: ask for one, or shorten the id")
    return found


def variant_ids(row: str) -> list[str]:
    """All names that a row and its variants may have in a child run."""
    return [row, *(f"{row}-redo-{variant}" for variant in range(2, MAX_VARIANTS + 1))]


def redo_rows(
    run: str, rows: Iterable[tuple[ReviewedRow, Decision]], options: RedoOptions, ids: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of the child's manifest: those that are to be done again, or with `ids`, these."""
    for row, decision in rows:
        wanted = decision.verdict == "redo" if ids is None else row.record.id in ids
        if wanted and row.row is not None:
            for variant in range(1, options.variants + 1):
                written = redo_row(run, row, decision, variant)
                yield options.of(written | {"id": variant_id(row.record.id, variant)})


def prepare_redo(
    workspace: Workspace, run: str, options: RedoOptions, ids: Collection[str] | None = None, child: str | None = None
) -> Redo:
    """Put the manifest of a child run beside the run. Whoever triggers it does so with their own rights.

    Raises ConfigError where no row is to be done again, or there is no such run; ObjectExistsError where the child's
    name is taken; StorageError.
    """
    plan, left = plan_of(workspace, run), Leftovers()
    reviews = Reviews(workspace.storage, workspace.layout(run), left)
    reviews.refresh()
    given = reviews.opinions
    rows = ((row, decide(given, row.record.id, row.record.attempt)) for row in reviewed_rows(workspace, plan, left))
    child = check_run_name(child) if child else _child_name(run)
    place = workspace.layout(run).redo(child)
    count = 0
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-redo-") as folder:
        local = Path(folder, "manifest.jsonl")
        with local.open("wb") as out:
            for written in redo_rows(run, rows, options, ids):
                write_jsonl([written], out)
                count += 1
        if not count:
            raise ConfigError(f"no row of run {run!r} is to be done again: mark rows as redo first")
        workspace.storage.put(place, local, if_absent=True, content_type="application/jsonl")
    return Redo(child, place, count)


def _child_name(run: str) -> str:
    return run_name_from(f"{run[:110]}-redo-{now():%Y%m%dT%H%M%S}-{secrets.token_hex(2)}")


def children(workspace: Workspace, layout: RunLayout) -> list[str]:
    """The names of the runs that do rows of this one again, the oldest first; each may not have been triggered yet."""
    found = []
    for info in listed(workspace.storage, layout.redos, Leftovers(), limit=MAX_CHILDREN):
        name = info.location.key[len(layout.redos.key) :]
        try:
            found.append((info.modified, check_run_name(name.removesuffix(_ENDING))))
        except ConfigError:  # somebody else's object
            continue
    return [name for _, name in sorted(found)]
