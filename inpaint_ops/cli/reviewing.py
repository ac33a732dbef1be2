"""inpaint-ops review: mark a run's results, and export the marks, from a shell."""

from __future__ import annotations

import getpass
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from inpaint_ops.cli.options import EXIT_NOT_ALL_DONE, as_command, json_option
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import Settings, load_settings
from inpaint_ops.errors import ConfigError, did_you_mean
from inpaint_ops.layout import variant_name
from inpaint_ops.locations import parse
from inpaint_ops.manifest import to_jsonl
from inpaint_ops.reviewing import (
    EXPORTS,
    Change,
    Child,
    Export,
    Mark,
    RedoOptions,
    ReviewedRow,
    Reviews,
    Tally,
    check_reviewer,
    child_runs,
    decide,
    decisions,
    export,
    final_lines,
    parent_of,
    plan_of,
    read_changes,
    redo_rows,
    reviewed_rows,
    tally,
)
from inpaint_ops.reviewing.marks import MAX_NOTE, MAX_REASON, plain_text
from inpaint_ops.reviewing.redoing import MAX_PROMPT
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.stored import Leftovers
from inpaint_ops.wording import counted

_IMPORT_BYTES = 64 * 2**20
_COMPARED = 10_000
"""Ids that are compared with one that is misspelt."""
_NAMED = 20
"""Lines of an import that are named when they are wrong, and child runs."""


@click.command()
@click.argument("run")
@click.option("--out", metavar="PREFIX", help="The store that has the run [INPAINT_STORE].")
@click.option("--accept", multiple=True, metavar="IDS", help="Accept these rows: ids with commas between.")
@click.option("--reject", multiple=True, metavar="IDS", help="Reject these rows.")
@click.option("--redo", multiple=True, metavar="IDS", help="Ask for these rows to be painted again.")
@click.option("--clear", multiple=True, metavar="IDS", help="Remove this reviewer's marks of these rows.")
@click.option("--reason", metavar="TEXT", help="Why they are rejected or done again.")
@click.option("--note", metavar="TEXT", help="A note on each of these rows.")
@click.option("--rating", type=click.IntRange(0, 5), help="1 to 5 for each of these rows; 0: none.")
@click.option("--import", "imported", metavar="FILE", help="Marks from a JSONL or CSV file: a path or URI.")
@click.option("--reviewer", metavar="NAME", help="Who says so; default: the user of this machine.")
@click.option(
    "--export", "exported", type=click.Choice(EXPORTS), help="Write the reviews, a manifest, or the final images."
)
@click.option("--variants", type=click.IntRange(1, 8), help="With --export redo: rows per row, each with another seed.")
@click.option("--prompt", help="With --export redo: in place of the rows' own.")
@click.option("--steps", type=click.IntRange(1, 500), help="With --export redo.")
@click.option("--strength", type=click.FloatRange(0, 1, min_open=True), help="With --export redo.")
@click.option("--mask-dilate", type=click.IntRange(0, 512), help="With --export redo: grow masks by so many pixels.")
@click.option("--mask-blur", type=click.FloatRange(0, 256), help="With --export redo: soften masks, sigma in pixels.")
@click.option("-o", "file", metavar="FILE", help="Where to export to: a path or URI; default: to standard output.")
@json_option
@as_command
def review(
    run: str,
    out: str | None,
    accept: tuple[str, ...],
    reject: tuple[str, ...],
    redo: tuple[str, ...],
    clear: tuple[str, ...],
    reason: str | None,
    note: str | None,
    rating: int | None,
    imported: str | None,
    reviewer: str | None,
    exported: Export | None,
    file: str | None,
    as_json: bool,
    **again: Any,
) -> None:
    """Mark results of RUN as accepted, rejected or to be done again, and export the reviews.

    With no option, tell how far the review is. `accepted` and `redo` are exported as manifests. Where reviewers
    disagree, the latest mark counts. Exit code 3 if lines of an imported file were left out.
    """
    settings = load_settings()
    workspace = Workspace.open(settings, store=out)
    plan = plan_of(workspace, run)
    left = Leftovers()
    reviews = Reviews(workspace.storage, workspace.layout(run), left)
    asked = {"accept": accept, "reject": reject, "redo": redo, "clear": clear}
    changes = list(_changes(asked, reason=reason, note=note, rating=rating))
    if file and not exported:
        raise ConfigError("-o names a file to export to: give --export too, one of " + ", ".join(EXPORTS))
    options = _redo_options(again, exported)
    refused: list[str] = []
    if imported:
        for found in read_changes(*_read(settings, imported)):
            if isinstance(found, Change):
                changes.append(found)
            else:
                refused.append(str(found))
    results = _Results.of(reviewed_rows(workspace, plan, left))
    marked = 0
    if changes:
        marks = _marks(changes, results, run, refused if imported else None)
        reviews.append(check_reviewer(reviewer or _user()), marks)
        marked = len(marks)
    reviews.refresh()
    for message in refused[:_NAMED]:
        say(f"left out: {message}", err=True)
    if len(refused) > _NAMED:
        say(f"left out: {len(refused) - _NAMED:,} more lines", err=True)
    written = None
    if exported:
        given = reviews.opinions
        rows = ((row, decide(given, row.record.id, row.record.attempt)) for row in reviewed_rows(workspace, plan, left))
        if exported == "final":
            lines = final_lines(workspace, run, left)
        elif exported == "redo":
            lines = (to_jsonl([row]) for row in redo_rows(run, rows, options))
        else:
            lines = export(exported, run, rows)
        written = _write(settings, lines, file) - (exported == "csv")
    for note_line in left.lines():
        say(f"note: {note_line}", err=True)
    counted = tally(len(results.attempts), dict(decisions(reviews.opinions, results.attempts)))
    if as_json and not (exported and not file):
        lineage = {"parent": parent_of(workspace, plan), "children": [one.run for one in _children(workspace, run)]}
        outcome = {"run": run, "marked": marked, "left_out": len(refused), "exported": written}
        say_json(_as_json(counted) | outcome | lineage)
    else:
        aside = bool(exported and not file)
        say(_line(run, counted, results), err=aside)
        if (parent := parent_of(workspace, plan)) is not None:
            say(f"  does rows of {parent} again", err=aside)
        if children := _children(workspace, run):
            more = f" and {len(children) - _NAMED:,} older ones" if len(children) > _NAMED else ""
            say(f"  painted again in: {', '.join(one.run for one in children[-_NAMED:])}{more}", err=aside)
    sys.exit(EXIT_NOT_ALL_DONE if refused else 0)


def _children(workspace: Workspace, run: str) -> list[Child]:
    return child_runs(workspace, workspace.layout(run))


def _changes(
    asked: dict[str, tuple[str, ...]], *, reason: str | None, note: str | None, rating: int | None
) -> Iterator[Change]:
    """What the options say. Raises ConfigError for a row that is named twice, and for texts that do not fit."""
    seen: dict[str, str] = {}
    texts = {"reason": _checked("--reason", reason, MAX_REASON), "note": _checked("--note", note, MAX_NOTE)}
    for mark, lists in asked.items():
        for row in (part.strip() for text in lists for part in text.split(",")):
            if not row:
                raise ConfigError(f"--{mark} has an empty part: give ids, with one comma between")
            if row in seen:
                raise ConfigError(f"--{mark} names {row!r}, which --{seen[row]} names too: leave one out")
            seen[row] = mark
            yield Change(id=row[:200], mark=mark, rating=rating, **texts)
    if not seen and (reason is not None or note is not None or rating is not None):
        raise ConfigError("--reason, --note and --rating belong to rows: name them with --accept, --reject or --redo")


def _checked(option: str, text: str | None, most: int) -> str | None:
    if text is None:
        return None
    try:
        found = plain_text(text)
    except ValueError as error:
        raise ConfigError(f"{option} {error}") from None
    if len(found) > most:
        raise ConfigError(f"{option} has {len(found):,} characters, and the limit is {most:,}: shorten it")
    return found


@dataclass(frozen=True, slots=True)
class _Results:
    """The results of a run."""

    attempts: dict[str, str]
    """By the id of a row that has an image: the attempt that made it."""
    without: dict[str, str]
    """By the id of a row that has none: how it ended."""
    variants: dict[str, tuple[str, int]]
    """By the name of a variant that has an image, such as `sofa.2`: its row and number."""

    @classmethod
    def of(cls, rows: Iterable[ReviewedRow]) -> _Results:
        found = cls({}, {}, {})
        for row in rows:
            record = row.record
            if record.status == "done":
                found.attempts[record.id] = record.attempt
                for one in record.variants:
                    if one.output is not None:
                        found.variants[variant_name(record.id, one.variant)] = record.id, one.variant
            else:
                found.without[record.id] = record.status
        return found

    def by_variant(self, change: Change) -> Change:
        """The same for the row, where `sofa.2` is accepted and is no row but a variant of one."""
        if change.mark != "accept" or change.id in self.attempts or change.id not in self.variants:
            return change
        row, variant = self.variants[change.id]
        return change.model_copy(update={"id": row, "variant": variant})

    def why_not(self, row: str, run: str) -> str:
        """Why this row cannot be marked."""
        if row in self.without:
            return f"{row!r} has no image to review: it {'failed' if self.without[row] == 'failed' else 'was rejected'}"
        return f"run {run!r} has no row with the id {row!r}{did_you_mean(row, list(self.attempts)[:_COMPARED])}"


def _marks(changes: Iterable[Change], results: _Results, run: str, refused: list[str] | None) -> list[Mark]:
    """The changes as lines. Of rows that have no image, `refused` gets a line; where it is None, raises ConfigError."""
    marks = []
    for asked in changes:
        change = results.by_variant(asked)
        attempt = results.attempts.get(change.id)
        if attempt is not None:
            marks.append(Mark(**dict(change), attempt=attempt))
        elif refused is None:
            raise ConfigError(results.why_not(change.id, run))
        else:
            refused.append(results.why_not(change.id, run))
    return marks


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ConfigError("this machine does not say who you are: give --reviewer NAME") from None


def _read(settings: Settings, name: str) -> tuple[bytes, str]:
    """The content and the name of a file that the user named, and so may read wherever it lies."""
    place = parse(name)
    beside = Workspace.open(settings, store=place.parent.uri)
    return beside.storage.get(place, max_bytes=_IMPORT_BYTES), place.name


@contextmanager
def _opened(settings: Settings, file: str | None) -> Iterator[IO[bytes]]:
    """Where the export is written: put as a whole at the end, or standard output."""
    if file is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    place = parse(file)
    with tempfile.TemporaryDirectory(prefix="inpaint-ops-review-") as folder:
        local = Path(folder, "export")
        with local.open("wb") as out:
            yield out
        Workspace.open(settings, store=place.parent.uri).storage.put(place, local)


def _redo_options(again: dict[str, Any], exported: Export | None) -> RedoOptions:
    """What is tried where rows are done again. Raises ConfigError."""
    chosen = {name: value for name, value in again.items() if value is not None}
    if chosen and exported != "redo":
        raise ConfigError(
            f"--{next(iter(chosen)).replace('_', '-')} says how rows are done again: give --export redo too"
        )
    if "prompt" in chosen:
        chosen["prompt"] = _checked("--prompt", chosen["prompt"], MAX_PROMPT)
    return RedoOptions(**chosen)


def _write(settings: Settings, lines: Iterable[bytes], file: str | None) -> int:
    """Write the export; returns how many lines it has."""
    count = 0
    with _opened(settings, file) as out:
        for line in lines:
            out.write(line)
            count += 1
    return count


def _as_json(found: Tally) -> dict[str, Any]:
    return {
        "rows": found.rows, "reviewed": found.reviewed, "marks": dict(found.verdicts),
        "disputed": found.disputed, "outdated": found.outdated,
    }  # fmt: skip


def _line(run: str, found: Tally, results: _Results) -> str:
    counts = ", ".join(f"{count:,} {_DONE[name]}" for name, count in found.verdicts.items())
    more = f"; {found.disputed:,} disputed" if found.disputed else ""
    more += f"; {found.outdated:,} painted again since they were reviewed" if found.outdated else ""
    without = len(results.without)
    more += f"; {counted(without, 'row has', 'rows have')} no image" if without else ""
    return f"{run}: {found.reviewed:,} of {found.rows:,} reviewed ({counts}){more}"


_DONE = {"accept": "accepted", "reject": "rejected", "redo": "to be done again"}
