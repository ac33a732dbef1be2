"""What of a run is delivered: its rows as `results.jsonl` has them, each with the name that its image gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import Location, parse
from inpaint_ops.records import Record
from inpaint_ops.run_files.counted import image_of
from inpaint_ops.storage.stored import parse_model

_OF_A_RETRY = re.compile(r"~[0-9]{1,4}(?=\.[a-z]{2,5}$)")
"""What a retry's image has in its name where the earlier one's is kept beside it."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image that is delivered: its record, where it lies in the run, and its name in the delivery."""

    record: Record
    place: Location
    name: str
    size: int
    """In bytes."""
    sha256: str
    format: str


def read_results(path: Path, *, max_line: int) -> Iterator[Record]:
    """The rows of a downloaded `results.jsonl`, in its order. Raises DamagedObjectError, with the line."""
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(max_line + 1):
            number += 1
            if len(line) > max_line:
                raise DamagedObjectError(f"line {number} of results.jsonl has more than {max_line:,} bytes")
            yield parse_model(line, Record, f"line {number} of results.jsonl")


def image_to_deliver(record: Record, layout: RunLayout) -> Image | None:
    """The image of a done row; None for any other row.

    The name is that of its object, without what tells retries apart. Raises DamagedObjectError if the record names an
    object that is none of the run's images: whoever can write to the store must not choose what is handed on.
    """
    if record.output is None:
        return None
    place = image_of(record, layout)
    if place is None:
        raise DamagedObjectError(f"row {record.row}: its image is not where the run's images lie: it was left out")
    name = _OF_A_RETRY.sub("", place.key[len(layout.images.key) :])
    return Image(record, place, name, record.output.bytes, record.output.sha256, record.output.format)


def line_of(record: Record, name: str | None, why: str | None = None) -> dict[str, Any]:
    """The row's line in `contents.jsonl`: what whoever gets the images may know, and no place of the store.

    `name` is of the delivered file; None where there is none, for the reason `why` where that is not the row's own.
    """
    line: dict[str, Any] = {"row": record.row, "id": record.id, "status": record.status, "file": name}
    if record.source is not None:
        line["source"] = parse(record.source).name
    if record.output is not None:
        line |= record.output.model_dump(mode="json", exclude={"uri"})
    if record.error is not None:
        line["error"] = record.error.type
    if why is not None:
        line["error"] = why
    if record.flags:
        line["flags"] = list(record.flags)
    return line
