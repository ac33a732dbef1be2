"""The image that is final for each row: the accepted one, of the run itself or of a child run that redid its row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from inpaint_ops.records import Record, of_variant
from inpaint_ops.reviewing.deciding import decide
from inpaint_ops.reviewing.exporting import REDO_OF
from inpaint_ops.reviewing.lineage import child_runs
from inpaint_ops.reviewing.reviews import Reviews
from inpaint_ops.reviewing.rows import plan_of, reviewed_rows
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.stored import Leftovers

MAX_DEPTH = 5
"""Child runs of child runs that are followed."""

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Final:
    """An accepted image: the run that painted it, its record there, and who accepted it last, when.

    Where a reviewer accepted another of the row's variants than the run picked, the record has that one: its `pick` is
    `by` review.
    """

    run: str
    record: Record
    reviewer: str
    at: datetime

    @property
    def order(self) -> tuple[datetime, str]:
        """By which the last of several accepted images is found."""
        return self.at, self.run


def finals(workspace: Workspace, run: str, left: Leftovers) -> Iterator[tuple[Record, Final]]:
    """The rows of a run that have an accepted image, in its order, each with the one that was accepted last.

    Raises ConfigError where there is no such run, StorageError.
    """
    redone = _accepted_below(workspace, run, left, MAX_DEPTH, {run})
    given = _opinions(workspace, run, left)
    for row in reviewed_rows(workspace, plan_of(workspace, run), left):
        own = _accepted(given, run, row.record, left)
        found = [one for one in (own, redone.get(row.record.id)) if one is not None]
        if found:
            yield row.record, max(found, key=lambda one: one.order)


def final_lines(workspace: Workspace, run: str, left: Leftovers) -> Iterator[bytes]:
    """The same as lines of JSON, for whatever delivers them."""
    for record, final in finals(workspace, run, left):
        output = final.record.output
        assert output is not None, "only images are accepted"
        line: dict[str, Any] = {
            "id": record.id, "row": record.row, "run": final.run, "run_id": final.record.id, "seed": final.record.seed,
            "reviewer": final.reviewer, "at": final.at.isoformat(),
            **({"variant": final.record.pick.variant} if final.record.pick else {}), **output.model_dump(mode="json"),
        }  # fmt: skip
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _accepted_below(workspace: Workspace, run: str, left: Leftovers, depth: int, seen: set[str]) -> dict[str, Final]:
    """By the id of the run's row: the image of a child run, or of one of that run's own, that was accepted last."""
    found: dict[str, Final] = {}
    for child in [one.run for one in child_runs(workspace, workspace.layout(run))] if depth else ():
        plan = workspace.plan(child) if child not in seen else None
        if plan is None:  # it was never triggered, or is known already
            continue
        seen.add(child)
        below = _accepted_below(workspace, child, left, depth - 1, seen)
        given = _opinions(workspace, child, left)
        for row in reviewed_rows(workspace, plan, left):
            of = row.record.extra.get(REDO_OF)
            if not isinstance(of, dict) or of.get("run") != run or not isinstance(of.get("id"), str):
                continue
            for one in (_accepted(given, child, row.record, left), below.get(row.record.id)):
                if one is not None and (of["id"] not in found or one.order > found[of["id"]].order):
                    found[of["id"]] = one
    return found


def _opinions(workspace: Workspace, run: str, left: Leftovers) -> Any:
    reviews = Reviews(workspace.storage, workspace.layout(run), left)
    reviews.refresh()
    return reviews.opinions


def _accepted(given: Any, run: str, record: Record, left: Leftovers) -> Final | None:
    decision = decide(given, record.id, record.attempt)
    if decision.verdict != "accept" or record.output is None:
        return None
    opinion = decision.of_reviewer
    picked = of_variant(record, opinion.variant, "review")
    if picked is None:
        left.add(
            f"run {run}, row {record.row}: variant {opinion.variant} is accepted and has no image: it was left out."
        )
        return None
    return Final(run, picked, decision.reviewer, opinion.decided_at or _NEVER)
