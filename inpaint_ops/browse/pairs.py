"""Which rows two runs both have, and which of their settings differ: for a look at two results side by side."""

from __future__ import annotations

import bisect
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inpaint_ops.browse.run import RunView

By = Literal["id", "image"]

_REDO = re.compile(r"(.+)-redo-[0-9]{1,2}")
"""What a row's further tries are called in a child run: see `reviewing.redoing.variant_id`."""
_VALUE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Pairs:
    """Lines of two manifests that belong together, in the order of the left one, and the lines that only one has."""

    by: By
    both: Sequence[tuple[int, int]]
    only_left: Sequence[int]
    only_right: Sequence[int]

    def near(self, left: int, right: int | None = None) -> int:
        """The place of the pair with these lines; without it, of the first pair from there on, or the last."""
        wanted = (left, right if right is not None else 0)
        return min(bisect.bisect_left(self.both, wanted), max(0, len(self.both) - 1))


def pair_rows(left: RunView, right: RunView, by: By | Literal[""] = "") -> Pairs:
    """The rows that both have: of the same id, or of the same image; without `by`, by id where any is the same.

    By id, a try of a child run (`sofa-redo-2`) belongs to the row that it does again. By image, the nth row of an image
    on one side belongs to its nth row on the other. Raises StorageError.
    """
    if left.run == right.run:
        rows = sorted(map(int, left.records().table.rows))
        return Pairs("id", [(row, row) for row in rows], (), ())
    if by != "image":
        found = _pairs("id", _by_id(left, right), _by_id(right, left))
        if found.both or by == "id":
            return found
    return _pairs("image", _by_image(left), _by_image(right))


def _by_id(view: RunView, other: RunView) -> dict[Any, list[int]]:
    """The lines of each id. A further try counts as its row, unless the other run has a row of just its name."""
    table, theirs = view.records().table, set(other.records().table.ids)
    found = defaultdict(list)
    for row, name in zip(table.rows, table.ids, strict=True):
        again = _REDO.fullmatch(name)
        found[again[1] if again and name not in theirs and again[1] in theirs else name].append(int(row))
    return found


def _by_image(view: RunView) -> dict[Any, list[int]]:
    records = view.records()
    seen: dict[str, int] = defaultdict(int)
    found: dict[Any, list[int]] = {}
    table, images = records.table, records.images()
    for row, image in sorted(zip(map(int, table.rows), images, strict=True)):
        found[(image, seen[image]) if image else ("", row, view.run)] = [row]
        seen[image] += 1
    return found


def _pairs(by: By, left: Mapping[Any, list[int]], right: Mapping[Any, list[int]]) -> Pairs:
    both = [(one, other) for name, rows in left.items() for one in rows for other in right.get(name, ())]
    only_left = [row for name, rows in left.items() if name not in right for row in rows]
    only_right = [row for name, rows in right.items() if name not in left for row in rows]
    return Pairs(by, sorted(both), sorted(only_left), sorted(only_right))


@dataclass(frozen=True, slots=True)
class Differing:
    """A setting that two runs do not have alike, in words."""

    name: str
    left: str
    right: str


def differing_settings(left: RunView, right: RunView) -> list[Differing]:
    """What the plans, and of finished runs the summaries, do not have alike: options, model, optimisations in effect,
    devices and versions.
    """
    first, second = _settings(left), _settings(right)
    return [
        Differing(name, _in_words(first.get(name)), _in_words(second.get(name)))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _settings(view: RunView) -> dict[str, Any]:
    found: dict[str, Any] = {"manifest": view.plan.manifest}
    found |= {
        name: value for name, value in view.plan.job.model_dump(mode="json").items() if name != "tuning_overrides"
    }
    found |= {f"tuning, {name}": value for name, value in view.plan.job.tuning_overrides.items()}
    summary = view.summary
    if summary is not None:
        if summary.model is not None:
            found |= {f"model, {name}": value for name, value in summary.model.model_dump(mode="json").items()}
        found |= {f"in effect, {entry.name}": entry.effective for entry in summary.ledger}
        found["device"] = ", ".join(sorted({device.name for device in summary.devices}))
        found |= {f"version of {name}": version for name, version in summary.versions.items()}
    return found


def _in_words(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARS else text[:_VALUE_CHARS] + "…"
