"""Reviews for programs: JSONL, CSV, and the manifests of what was accepted and of what is to be done again. Pure."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any, Literal, get_args

from inpaint_ops.manifest import to_jsonl
from inpaint_ops.records import of_variant
from inpaint_ops.reviewing.deciding import Decision
from inpaint_ops.reviewing.marks import Opinion
from inpaint_ops.reviewing.rows import ReviewedRow

Export = Literal["jsonl", "csv", "accepted", "redo", "final"]
EXPORTS: tuple[Export, ...] = get_args(Export)

COLUMNS = (
    "id", "row", "status", "mark", "variant", "rating", "reason", "note", "reviewer", "at", "disputed", "outdated",
    "output",
)  # fmt: skip
"""Of the CSV; a line of the JSONL has these fields, and `reviews`."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""How text begins that a spreadsheet takes for a formula (CWE-1236), and what is put before it."""

REDO_OF = "redo_of"
"""The field of `extra` in which a row of `redo.jsonl` says what it does again."""


def export(kind: Export, run: str, rows: Iterable[tuple[ReviewedRow, Decision]]) -> Iterator[bytes]:
    """The export, line by line. Rows without a review are in none.

    `final` is made by `finals.final_lines`, since it looks into child runs. `accepted` and `redo` are manifests. A row
    of `redo` has another seed than it was painted with, since the same one would paint the same image, and says in
    `extra.redo_of` what it does again and why.
    """
    if kind == "csv":
        yield _csv_line(COLUMNS)
    for row, decision in rows:
        match kind:
            case "jsonl" if decision.opinions or decision.outdated:
                yield json.dumps(_fields(row, decision), ensure_ascii=False).encode() + b"\n"
            case "csv" if decision.opinions or decision.outdated:
                fields = _fields(row, decision)
                yield _csv_line(_as_text(fields[name]) for name in COLUMNS)
            case "accepted" if decision.verdict == "accept" and row.row is not None:
                yield to_jsonl([row.row.as_manifest_row()])
            case "redo" if decision.verdict == "redo" and row.row is not None:
                yield to_jsonl([redo_row(run, row, decision)])


def redo_row(
    run: str, row: ReviewedRow, decision: Decision, variant: int = 1, *, child: str = "", by: str = ""
) -> dict[str, Any]:
    """The row of a manifest that does `row` again, with another seed for each `variant`, from 1, and each `child` run.

    `extra.redo_of` says what is done again and why; for a child run also when the mark was given that asks for it, and
    who asked for the run.
    """
    assert row.row is not None, "a rejected row was not painted"
    record, written, before = row.record, row.row.as_manifest_row(), row.row.parameters.seed
    again = {"run": run, "id": record.id, "attempt": record.attempt, "seed": before}
    again |= {"reason": decision.of_reviewer.reason} if decision.of_reviewer.reason else {}
    if child:
        again |= {"marked_at": marked_at(decision)} if decision.verdict == "redo" else {}
        again |= {"by": by, "key": secrets.token_hex(8)}  # two who ask for the same write no equal manifests
    parts = [run, record.id, record.attempt, before, *([variant] if variant > 1 else []), *([child] if child else [])]
    text = json.dumps(parts)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])  # the same for each export of this result
    return written | {
        "seed": seed if seed != before else seed + 1,
        "extra": {**written.get("extra", {}), REDO_OF: again},
    }


def marked_at(decision: Decision) -> str:
    """When the verdict that counts was given, as text of one length that sorts; empty without one."""
    at = decision.of_reviewer.decided_at
    return at.astimezone(UTC).isoformat(timespec="microseconds") if at else ""


def _fields(row: ReviewedRow, decision: Decision) -> dict[str, Any]:
    record, opinion = row.record, decision.of_reviewer
    if not decision.reviewer and decision.opinions:  # a note or a rating, and no verdict
        opinion = decision.opinions[max(decision.opinions)]
    moment = opinion.decided_at or opinion.rated_at
    accepted = of_variant(record, opinion.variant, "review") if decision.verdict == "accept" else record
    output = accepted.output if accepted is not None else None
    return {
        "id": record.id,
        "row": record.row,
        "status": record.status,
        "mark": decision.verdict,
        "variant": opinion.variant if decision.verdict == "accept" else None,
        "rating": decision.rating,
        "reason": opinion.reason or None,
        "note": opinion.note or None,
        "reviewer": decision.reviewer or None,
        "at": moment.isoformat() if moment else None,
        "disputed": decision.is_disputed,
        "outdated": bool(decision.outdated) and decision.verdict is None,
        "output": output.uri if output else None,
        "reviews": [_opinion(name, one) for name, one in sorted(decision.opinions.items())],
    }


def _opinion(reviewer: str, opinion: Opinion) -> dict[str, Any]:
    found = {
        "reviewer": reviewer, "mark": opinion.verdict, "rating": opinion.rating, "reason": opinion.reason,
        "note": opinion.note,
        **({"variant": opinion.variant} if opinion.variant is not None else {}),
        "at": opinion.decided_at.isoformat() if opinion.decided_at else None,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value or name == "variant"}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)


def _csv_line(values: Iterable[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(f"'{text}" if text.startswith(_FORMULA) else text for text in values)
    return out.getvalue().encode()
