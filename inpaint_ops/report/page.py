"""`report.html`: a run on one page that needs nothing but itself; no script, no request, everything escaped.

The chart is an SVG that the template draws: pygal was tried and always embeds a script, has no role or labels for
screen readers, and bakes its colours in, so that it knows no dark mode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from inpaint_ops.records import LedgerEntry, Record, RunSummary, StageStats, WorkerReport, duration_in_words
from inpaint_ops.report.facts import STAGE_LABELS, FailureGroup, Part, RunFacts, compared, facts, shares_a_batch
from inpaint_ops.report.gallery import GalleryItem, data_uri
from inpaint_ops.report.summary import DEMO_MODEL, RANDOM_WEIGHTS
from inpaint_ops.tallies.timeline import row_seconds

PAGE_BYTES = 2_000_000
"""A page stays below this."""

FAILURE_GROUPS = 10
LISTED = 30
"""Warnings, conversions, ledger entries, devices and workers; the page says how many more there are."""

_CAPTION_BYTES = 2_500
_MESSAGE_CHARS = 400
_PROMPT_CHARS = 240
_VALUE_CHARS = 300


@dataclass(frozen=True, slots=True)
class _Card:
    record: Record
    seconds: float
    images: tuple[tuple[str, str], ...]
    link: str


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """A group of failures as a page shows it: how many rows there are, and the first of them."""

    type: str
    cure: str
    stages: tuple[str, ...]
    count: int
    shown: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class FailuresShown:
    """What `sections/failures.html.j2` shows: the first groups, how many more there are, and the link to rerun them.

    `rerun_rows` is the number of rows in failed.jsonl; 0, where that file is not written yet, leaves the link out.
    """

    groups: Sequence[ShownGroup]
    more_groups: int
    rerun_rows: int


@dataclass(frozen=True, slots=True)
class TimesShown:
    """What `sections/time.html.j2` and `sections/stages.html.j2` show; what is empty is left out of the page.

    `stage_seconds` has the seconds of work by stage, each batch counted once; `stages` their distribution over rows.
    """

    stage_parts: Sequence[Part]
    worker_parts: Sequence[Part]
    stage_seconds: Mapping[str, float]
    stages: Mapping[str, StageStats]


def render_page(
    summary: RunSummary,
    records: Sequence[Record],
    gallery: Sequence[GalleryItem] = (),
    *,
    workers: Sequence[WorkerReport] = (),
    without_pictures: Sequence[str] = (),
) -> str:
    """The page of a run, as HTML below 2 MB.

    `records` are those that made `summary`. `gallery` is shown in its order (see `choose_gallery`). `workers` adds how
    the workers' time was spent, `without_pictures` a line for each row that the gallery should have shown and cannot.
    """
    return render_facts(summary, facts(records, workers), gallery, workers=workers, without_pictures=without_pictures)


def render_facts(
    summary: RunSummary,
    found: RunFacts,
    gallery: Sequence[GalleryItem] = (),
    *,
    workers: Sequence[WorkerReport] = (),
    without_pictures: Sequence[str] = (),
) -> str:
    """The same of facts that are known already."""
    shown = summary_context(summary) | {
        "facts": found,
        "failures": FailuresShown(
            groups=[_shown(group) for group in found.failures[:FAILURE_GROUPS]],
            more_groups=len(found.failures[FAILURE_GROUPS:]),
            rerun_rows=summary.counts.failed,
        ),
        "times": TimesShown(
            stage_parts=found.stage_parts,
            worker_parts=found.worker_parts,
            stage_seconds={part.key: part.seconds for part in found.stage_parts},
            stages=summary.stages,
        ),
        "conversions": list(found.conversions.items()),
        "without_pictures": [text[:_MESSAGE_CHARS] for text in without_pictures],
        "unclean": [report for report in workers if report.exit != "clean"],
    }
    bare = _template().render(shown, cards=[], left_out=0)
    if not gallery:
        return bare
    cards = _fitting([_card(item) for item in gallery], PAGE_BYTES - len(bare.encode()) - _CAPTION_BYTES)
    return _template().render(shown, cards=cards, left_out=len(gallery) - len(cards))


_MODEL_NOTICES = {"RANDOM WEIGHTS": RANDOM_WEIGHTS, "DEMO MODEL": DEMO_MODEL}


def model_notice(summary: RunSummary) -> tuple[str, str] | None:
    """What a reader must know before looking at the images: a label and a sentence."""
    for label, held in (
        ("RANDOM WEIGHTS", summary.model and summary.model.random_weights),
        ("DEMO MODEL", summary.model and summary.model.demo_model),
    ):
        if held or _MODEL_NOTICES[label] in summary.warnings:
            return label, _MODEL_NOTICES[label]
    return None


def summary_context(summary: RunSummary) -> dict[str, Any]:
    """What the sections need from the summary."""
    return {
        "s": summary,
        "model_notice": model_notice(summary),
        "warnings": [text for text in summary.warnings if text not in _MODEL_NOTICES.values()],
        "measured": _measured_together(summary.ledger),
        "compared": compared(summary),
        "unit": "GPU" if any(device.kind == "cuda" for device in summary.devices) else "CPU",
        "listed": LISTED,
    }


def _shown(group: FailureGroup) -> ShownGroup:
    return ShownGroup(group.type, group.cure, group.stages, group.count, group.records)


def _card(item: GalleryItem) -> _Card:
    images = tuple((name, data_uri(getattr(item, name))) for name in ("source", "mask", "result"))
    return _Card(item.record, row_seconds(item.record), images, _link(item.record))


def _fitting(cards: list[_Card], room: int) -> list[_Card]:
    """As many cards as `room` bytes hold, spread evenly over all of them."""
    sizes = [_CAPTION_BYTES + sum(len(uri) for _, uri in card.images) for card in cards]
    for count in range(len(cards), 0, -1):
        places = [round(index * (len(cards) - 1) / max(1, count - 1)) for index in range(count)]
        if sum(sizes[place] for place in places) <= room:
            return [cards[place] for place in places]
    return []


def _measured_together(ledger: Sequence[LedgerEntry]) -> dict[str, float]:
    """What every entry says alike: optimisations that ran together are measured together."""
    if len(ledger) < 2:
        return {}
    first, *others = (entry.measured for entry in ledger)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _link(record: Record) -> str:
    """Where the finished image lies beside the page."""
    if record.output is None:
        return ""
    return "images/" + quote(record.output.name or record.output.uri.rsplit("/", 1)[-1], safe="/")


@lru_cache(maxsize=1)
def _template() -> Template:
    return environment().get_template("report.html.j2")


def environment(*loaders: BaseLoader) -> Environment:
    """Jinja with the report's sections, filters and escaping; `loaders` add the templates of other pages."""
    made = Environment(
        loader=ChoiceLoader([*loaders, PackageLoader("inpaint_ops.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "seconds": duration_in_words,
        "figures": _figures,
        "bytes": _bytes,
        "moment": _moment,
        "measured": _measured,
        "value": _value,
        "message": lambda text: _cut(text, _MESSAGE_CHARS),
        "prompt": lambda text: _cut(text, _PROMPT_CHARS),
        "share": _share,
        "cut": lambda text: _cut(str(text), _VALUE_CHARS),
    }
    made.globals |= {"shares_a_batch": shares_a_batch, "labels": STAGE_LABELS}
    return made


def _figures(number: float) -> str:
    """A number to three figures, without an exponent."""
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{float(f'{number:.3g}'):f}".rstrip("0").rstrip(".")


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{_figures(count)} {unit}"
        count /= 1024
    return f"{_figures(count)} GiB"


def _measured(name: str, number: float) -> str:
    """`denoise_seconds`, 4.2 -> `denoise 4.2 s`: the unit is the end of the name."""
    for ending, formatted in (("_seconds", duration_in_words), ("_bytes", _bytes)):
        if name.endswith(ending):
            return f"{name.removesuffix(ending).replace('_', ' ')} {formatted(number)}"
    return f"{name.replace('_', ' ')} {_figures(number)}"


def _moment(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "unknown"


def _share(share: float) -> str:
    return f"{share:.1%}"


def _value(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), _VALUE_CHARS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
