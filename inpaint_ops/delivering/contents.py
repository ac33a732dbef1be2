"""What of a run is delivered: its rows as `results.jsonl` has them, each with the name that its image gets."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint_ops.config import SideProduct
from inpaint_ops.errors import DamagedObjectError
from inpaint_ops.layout import SIDE_PRODUCT_FORMATS, RunLayout, side_product_name
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import is_valid_id
from inpaint_ops.records import Record
from inpaint_ops.run_files.counted import image_of, plain_name
from inpaint_ops.storage.stored import parse_model


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the run, and what is delivered for it: `made` is its own record, or that of the child run's row whose
    image was accepted in its place; `run` is the name of that child run, else empty.
    """

    record: Record
    made: Record
    run: str = ""

    @property
    def shown(self) -> Record:
        """What the contact sheet shows: the image that was made, under the row's own id and line."""
        return self.made.model_copy(update={"id": self.record.id, "row": self.record.row})


@dataclass(frozen=True, slots=True)
class Image:
    """One image that is delivered: of which row, where it lies, and its name in the delivery."""

    row: Row
    place: Location
    name: str
    size: int
    """In bytes."""
    sha256: str
    format: str
    beside: str = ""
    """Of a file that lies beside an image: what it is, such as its patch."""


def read_results(path: Path, *, max_line: int) -> Iterator[Record]:
    """The rows of a downloaded `results.jsonl`, in its order. Raises DamagedObjectError, with the line."""
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(max_line + 1):
            number += 1
            if len(line) > max_line:
                raise DamagedObjectError(f"line {number} of results.jsonl has more than {max_line:,} bytes")
            yield parse_model(line, Record, f"line {number} of results.jsonl")


def image_to_deliver(row: Row, layout: RunLayout, made_in: RunLayout) -> Image | None:
    """The image of a row that has one; None for any other row. `layout` is of the run, `made_in` where it was painted.

    The name is that of the row's own object, without what tells retries apart, with the ending of what was made.
    Raises DamagedObjectError if the record names an object that is none of the run's images: whoever can write to the
    store must not choose what is handed on.
    """
    output = row.made.output
    if output is None:
        return None
    if not (is_valid_id(row.record.id) and is_valid_id(row.made.id)):
        raise DamagedObjectError(f"row {row.record.row}: its id could not name a file everywhere: it was left out")
    place = image_of(row.made, made_in)
    if place is None:
        raise DamagedObjectError(f"row {row.record.row}: its image is not where the run's images lie: it was left out")
    name = plain_name(place.key[len(made_in.images.key) :])
    if row.run:
        own = image_of(row.record, layout)
        stem = row.record.id if own is None else _stem(plain_name(own.key[len(layout.images.key) :]))
        name = stem + name[len(_stem(name)) :]
    return Image(row, place, name, output.bytes, output.sha256, output.format)


def side_products_to_deliver(image: Image, layout: RunLayout, kinds: Collection[SideProduct]) -> Iterator[Image]:
    """The files of these kinds that the row's record names beside its image, which `layout` is the run of.

    Raises DamagedObjectError as `image_to_deliver` does.
    """
    row = image.row
    for found in row.made.side_products:
        kind = next((one for one in kinds if one == found.kind), None)
        if kind is None:
            continue
        place = layout.side_product(image.place, kind)
        if found.uri != place.uri:
            raise DamagedObjectError(f"row {row.record.row}: its {kind} is not where the run's lie: it was left out")
        name = f"{FOLDER}/{side_product_name(image.name, kind)}"
        yield Image(row, place, name, found.bytes, found.sha256, SIDE_PRODUCT_FORMATS[kind], kind)


FOLDER = "side_products"
"""Where files that lie beside images are, in a delivery."""


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def line_of(row: Row, name: str | None, why: str | None = None, beside: Sequence[Image] = ()) -> dict[str, Any]:
    """The row's line in `contents.jsonl`: what whoever gets the images may know, and no place of the store.

    `name` is of the delivered file; None where there is none, for the reason `why` where that is not the row's own.
    `beside` are the files that were delivered beside it.
    """
    record, made = row.record, row.made
    line: dict[str, Any] = {"row": record.row, "id": record.id, "status": made.status, "file": name}
    if row.run:
        line["run"] = row.run
    if record.source is not None:
        line["source"] = parse(record.source).name
    if made.output is not None:
        line |= made.output.model_dump(mode="json", include={"sha256", "bytes", "width", "height", "format"})
    if made.error is not None:
        line["error"] = made.error.type
    if why is not None:
        line["error"] = why
    if made.flags:
        line["flags"] = list(made.flags)
    if beside:
        line["side_products"] = {one.beside: one.name for one in beside}
    return line
