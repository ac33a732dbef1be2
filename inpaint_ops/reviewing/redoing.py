"""Rows that reviewers sent back, as the manifest of a child run: other seeds, and whatever else is to be tried.

The child's rows say in `extra.redo_of` which row of which run they do again; the parent has the child's manifest below
`redo/`, under the child's name.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from inpaint_ops.errors import ConfigError, ObjectExistsError, StorageUnavailableError
from inpaint_ops.layout import check_run_name, run_name_from
from inpaint_ops.locations import Location
from inpaint_ops.manifest import is_valid_id, write_jsonl
from inpaint_ops.records import Model
from inpaint_ops.reviewing.deciding import Decision, decide
from inpaint_ops.reviewing.exporting import marked_at, redo_row
from inpaint_ops.reviewing.lineage import Child, Lineage, asked_for, child_runs
from inpaint_ops.reviewing.marks import plain_text
from inpaint_ops.reviewing.reviews import Reviews
from inpaint_ops.reviewing.rows import ReviewedRow, plan_of, reviewed_rows
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.stored import Leftovers

MAX_VARIANTS, MAX_PROMPT = 8, 2000
_TRIES = 20
"""Of a child's name, while others take one at the same time."""


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
        found.pop("variants", None)  # each of our variants is a row, which may be marked and picked by itself
        return found | chosen


@dataclass(frozen=True, slots=True)
class Redo:
    """A child run that is ready to be triggered."""

    run: str
    manifest: Location
    rows: int
    asked_before: Mapping[str, int] = field(default_factory=dict)
    """By child run: rows that are left out here, since that run was triggered for the same marks."""


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
    run: str,
    rows: Iterable[tuple[ReviewedRow, Decision]],
    options: RedoOptions,
    ids: Collection[str] | None = None,
    *,
    child: str = "",
    by: str = "",
) -> Iterator[dict[str, Any]]:
    """The rows of the child's manifest: those that are to be done again, or with `ids`, these.

    Seeds differ from one `child` to the next, so that a row that is done again twice is not painted alike. `by` is the
    user who asked.
    """
    for row, decision in rows:
        wanted = decision.verdict == "redo" if ids is None else row.record.id in ids
        if wanted and row.row is not None:
            for variant in range(1, options.variants + 1):
                written = redo_row(run, row, decision, variant, child=child, by=by)
                yield options.of(written | {"id": variant_id(row.record.id, variant)})


def prepare_redo(
    workspace: Workspace,
    run: str,
    options: RedoOptions,
    ids: Collection[str] | None = None,
    child: str | None = None,
    *,
    by: str = "",
    lineage: Lineage | None = None,
) -> Redo:
    """Put the manifest of a child run beside the run. Whoever triggers it does so with their own rights.

    Without `ids`, a row is left out while a child run was triggered for the very mark that sent it back: of two
    reviewers who ask at once, one paints it. Child runs are numbered, and a number is taken once.

    Raises ConfigError where no row is to be done again, or there is no such run; ObjectExistsError where the name
    `child` is taken; StorageError.
    """
    plan, left = plan_of(workspace, run), Leftovers()
    reviews = Reviews(workspace.storage, workspace.layout(run), left)
    reviews.refresh()
    given, lineage = reviews.opinions, lineage or Lineage(workspace)
    child = check_run_name(child) if child else None
    for _ in range(_TRIES):
        known = child_runs(workspace, workspace.layout(run))
        name = child or _next_name(workspace, run, known)
        before = asked_for(workspace, run, lineage, known, left) if ids is None else {}
        asked_before = Counter[str]()
        all_rows = reviewed_rows(workspace, plan, left)
        decided = ((row, decide(given, row.record.id, row.record.attempt)) for row in all_rows)
        rows = _not_asked_before(decided, before, asked_before)
        place = workspace.layout(run).redo(name)
        with tempfile.TemporaryDirectory(prefix="inpaint-ops-redo-") as folder:
            local, count = Path(folder, "manifest.jsonl"), 0
            with local.open("wb") as out:
                for written in redo_rows(run, rows, options, ids, child=name, by=by):
                    write_jsonl([written], out)
                    count += 1
            if not count:
                raise ConfigError(_none_left(run, asked_before))
            try:
                workspace.storage.put(place, local, if_absent=True, content_type="application/jsonl")
            except ObjectExistsError:
                if child is not None:
                    raise
                continue  # somebody else asked meanwhile: look at what they ask for
            return Redo(name, place, count, dict(asked_before))
    raise StorageUnavailableError(f"cannot write {place}: others took each name that was tried; try again")


def _not_asked_before(
    rows: Iterable[tuple[ReviewedRow, Decision]], before: Mapping[str, tuple[str, str]], asked_before: Counter[str]
) -> Iterator[tuple[ReviewedRow, Decision]]:
    """The rows without those for whose mark a child run was triggered (`asked_for`); these are counted by child."""
    for row, decision in rows:
        asked = before.get(row.record.id)
        if decision.verdict == "redo" and asked is not None and marked_at(decision) <= asked[1]:
            asked_before[asked[0]] += 1
        else:
            yield row, decision


def _none_left(run: str, asked_before: Mapping[str, int]) -> str:
    if not asked_before:
        return f"no row of run {run!r} is to be done again: mark rows as redo first"
    count = sum(asked_before.values())
    return (
        f"{'the row' if count == 1 else f'all {count:,} rows'} to be done again: triggered already as "
        f"{', '.join(sorted(asked_before))}. To paint one once more, mark it as redo again, or paint it by itself"
    )


def _next_name(workspace: Workspace, run: str, known: Iterable[Child]) -> str:
    """The first number after those of the known child runs whose name no run has. Raises StorageError."""
    stem = f"{run[:110]}-redo-"
    ends = (one.run[len(stem) :] for one in known if one.run.startswith(stem))
    number = max((int(end) for end in ends if end.isascii() and end.isdigit() and len(end) < 10), default=0) + 1
    while workspace.storage.exists(workspace.layout(run_name_from(f"{stem}{number}")).plan):
        number += 1
    return run_name_from(f"{stem}{number}")
