"""Which rows of a run are done again: `failed`, `rejected`, `unchanged`, or ids, with commas between. Pure."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inpaint_ops.errors import ConfigError, UnchangedError
from inpaint_ops.manifest import is_valid_id
from inpaint_ops.records import Record

STATES = ("failed", "rejected", "unchanged")
"""What a selection may name beside ids: how rows ended. Unchanged rows are some of the failed ones."""

MAX_CHARS = 100_000
"""Of a selection, which the retry's plan keeps."""

_ID = "id:"


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection, taken apart. `text` says the same in one way, so that two of them can be compared."""

    states: frozenset[str]
    ids: tuple[str, ...]

    @property
    def text(self) -> str:
        """The selection in a fixed order."""
        ids = [f"{_ID}{name}" if name in STATES else name for name in sorted(self.ids)]
        return ",".join([*sorted(self.states), *ids])


def parse_selection(text: str) -> Selection:
    """Take a selection apart. An id that is itself one of `STATES` is written `id:failed`.

    Raises ConfigError that says what is wrong with it.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"--retry has {len(text):,} characters, and the limit is {MAX_CHARS:,}: ask for fewer rows")
    parts = [unicodedata.normalize("NFC", part.strip()) for part in text.split(",")]
    if not all(parts):
        raise ConfigError(
            f"--retry {text!r} names no rows: give {', '.join(STATES)} or ids, with commas between"
            if not any(parts)
            else f"--retry {text!r} has an empty part: give {', '.join(STATES)} or ids, with one comma between"
        )
    twice = [part for part, count in Counter(parts).items() if count > 1]
    if twice:
        raise ConfigError(f"--retry names {twice[0]!r} twice: leave one out")
    states = frozenset(part for part in parts if part in STATES)
    ids = tuple(part.removeprefix(_ID) for part in parts if part not in STATES)
    for name in ids:
        if not is_valid_id(name):
            raise ConfigError(f"--retry: {name!r} is no id, and none of {', '.join(STATES)}")
    return Selection(states, ids)


def select(selection: Selection, records: Iterable[Record], run: str) -> list[Record]:
    """Those of a run's newest records that the selection names, by line.

    Raises ConfigError for an id that the run has not.
    """
    found: dict[int, Record] = {}
    by_id: dict[str, Record] = {}
    for record in records:
        by_id[record.id] = record
        if record.status in selection.states or (is_unchanged(record) and "unchanged" in selection.states):
            found[record.row] = record
    for name in selection.ids:
        if name not in by_id:
            raise ConfigError(f"--retry: run {run!r} has no row with the id {name!r}{_hint(name, by_id)}")
        found[by_id[name].row] = by_id[name]
    return [found[row] for row in sorted(found)]


def is_unchanged(record: Record) -> bool:
    """Whether the row failed because its masked part hardly differed from its source."""
    return record.error is not None and record.error.type == UnchangedError.__name__


_COMPARED = 10_000


def _hint(name: str, ids: Mapping[str, Record]) -> str:
    near = difflib.get_close_matches(name, list(ids)[:_COMPARED], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
