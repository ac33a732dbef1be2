"""What counts where several people reviewed a result. Pure.

The latest verdict counts; of two of the same time, that of the reviewer whose name comes last. A mark of the
result of an earlier attempt does not count: the image is another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from inpaint_ops.reviewing.marks import VERDICTS, Opinion, Verdict

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Decision:
    """What counts for one result, and who says what of it."""

    verdict: Verdict | None
    reviewer: str
    """Who gave the verdict that counts; empty without one."""
    rating: int | None
    opinions: Mapping[str, Opinion]
    """By reviewer; those of the result as it is now."""
    outdated: tuple[str, ...] = ()
    """Reviewers whose marks are of an earlier attempt's result only."""

    @property
    def is_disputed(self) -> bool:
        """Whether reviewers give different verdicts."""
        if len(self.opinions) < 2:
            return False
        return len({one.verdict for one in self.opinions.values() if one.verdict is not None}) > 1

    @property
    def of_reviewer(self) -> Opinion:
        """The opinion that gave the verdict; an empty one without."""
        return self.opinions.get(self.reviewer, Opinion())


NOTHING = Decision(None, "", None, {})
"""No reviewer has marked the row."""


def decide(given: Mapping[str, Mapping[str, Opinion]], row: str, attempt: str) -> Decision:
    """What counts for the row's result that `attempt` made. `given` is `Reviews.opinions`."""
    return _of({name: opinions[row] for name, opinions in given.items() if row in opinions}, attempt)


def decisions(
    given: Mapping[str, Mapping[str, Opinion]], attempts: Mapping[str, str]
) -> Iterator[tuple[str, Decision]]:
    """Each row that a reviewer has marked, in no order. `attempts` has the present one by the row's id."""
    by_row: dict[str, dict[str, Opinion]] = {}
    for name, opinions in given.items():
        for row, one in opinions.items():
            if row in by_row:
                by_row[row][name] = one
            elif row in attempts:
                by_row[row] = {name: one}
    for row, of_row in by_row.items():
        yield row, _of(of_row, attempts[row])


def _of(given: Mapping[str, Opinion], attempt: str) -> Decision:
    if not given:
        return NOTHING
    now: dict[str, Opinion] = {}
    decided, rated = (_NEVER, ""), (_NEVER, "")
    for name, one in given.items():
        if one.attempt and one.attempt != attempt:
            continue
        now[name] = one
        if one.verdict is not None:
            decided = max(decided, (one.decided_at or _NEVER, name))
        if one.rating is not None:
            rated = max(rated, (one.rated_at or _NEVER, name))
    reviewer = decided[1]
    return Decision(
        verdict=now[reviewer].verdict if reviewer else None,
        reviewer=reviewer,
        rating=now[rated[1]].rating if rated[1] else None,
        opinions=now,
        outdated=tuple(sorted(given.keys() - now.keys())) if len(now) < len(given) else (),
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a review is."""

    rows: int
    verdicts: Mapping[Verdict, int]
    disputed: int
    outdated: int
    """Rows that were reviewed before they were painted again, and not since."""

    @property
    def reviewed(self) -> int:
        """Rows with a verdict."""
        return sum(self.verdicts.values())


def tally(rows: int, found: Mapping[str, Decision]) -> Tally:
    """Count decisions; `rows` are those that there are to review."""
    counted = Counter(one.verdict for one in found.values() if one.verdict is not None)
    return Tally(
        rows=rows,
        verdicts={verdict: counted[verdict] for verdict in VERDICTS},
        disputed=sum(one.is_disputed for one in found.values()),
        outdated=sum(bool(one.outdated) and one.verdict is None for one in found.values()),
    )
