"""A row with several variants as what is painted: units, each with a seed and a name of its own. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inpaint_ops.layout import variant_name
from inpaint_ops.manifest import AcceptedRow, ParsedManifest, RejectedRow
from inpaint_ops.planning import JobOptions, PlannedRow, planned
from inpaint_ops.protocol import unit_number
from inpaint_ops.records import ErrorInfo
from inpaint_ops.row_work import RowWork, kept_work, reject_rows_without_steps, with_rejected


@dataclass(frozen=True, slots=True)
class Unit:
    """What is painted at once: a row, or one variant of it, with the seed of that."""

    row: PlannedRow
    variant: int | None = None
    """None: the row has no variants."""

    @property
    def number(self) -> int:
        """What distinguishes it from the other units of a shard."""
        return unit_number(self.row.row, self.variant)


def seed_of_variant(seed: int, variant: int) -> int:
    """The seed of one of a row's variants, from the row's own.

    That of variant 0 is the row's. Of variant k it is the first 48 bits of the SHA-256 of `<seed>.<k>`, as decimal
    text: not `seed + k`, which a neighbouring row, or another region of the mask (`crop: regions`), may have.
    """
    if variant == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}.{variant}".encode()).digest()[:6])


def units_of(row: PlannedRow) -> list[Unit]:
    """What a row is painted as: itself, or its variants in order."""
    settled = row.parameters
    if settled.variants == 1:
        return [Unit(row)]
    return [
        Unit(
            row.model_copy(
                update={"parameters": settled.model_copy(update={"seed": seed_of_variant(settled.seed, variant)})}
            ),
            variant,
        )
        for variant in range(settled.variants)
    ]


_LIKE_A_VARIANT = re.compile(r"(.+)\.([0-9]|1[0-9])")


def settle(parsed: ParsedManifest, job: JobOptions) -> tuple[ParsedManifest, RowWork]:
    """The manifest with those rows rejected that cannot be painted as the job asks: see `reject_rows_without_steps`,
    and rows of whose variants one would have the name of another row's image. Beside it what the accepted ones have to
    do.
    """
    parsed, work = reject_rows_without_steps(parsed, job)
    if max(work.images, default=1) == 1 or job.names is not None:  # names by a template are told apart elsewhere
        return parsed, work
    singles = names_like_variants(row for row, images in zip(parsed.accepted, work.images, strict=True) if images == 1)
    if not singles:
        return parsed, work
    taken = {row.row: found for row in parsed.accepted if (found := taken_name(row, job, singles)) is not None}
    if not taken:
        return parsed, work
    rejected = (_rejected(row, taken[row.row], job) for row in parsed.accepted if row.row in taken)
    kept = with_rejected(parsed, (row for row in parsed.accepted if row.row not in taken), rejected)
    return kept, kept_work(work, (row.row not in taken for row in parsed.accepted))


def names_like_variants(rows: Iterable[AcceptedRow]) -> dict[str, int]:
    """The ids, case folded, that a variant of another row could have, and whose they are. The rows have one image."""
    return {_folded(row.id): row.row for row in rows if _LIKE_A_VARIANT.fullmatch(row.id)}


def taken_name(row: AcceptedRow, job: JobOptions, others: Mapping[str, int]) -> tuple[str, int] | None:
    """The name of a variant of the row that another row's image has, and that row; `others` are folded ids by row."""
    count = row.variants or job.variants
    if count == 1:
        return None
    names = (variant_name(row.id, variant) for variant in range(count))
    return next(((name, others[_folded(name)]) for name in names if _folded(name) in others), None)


def taken_message(row: AcceptedRow, taken: tuple[str, int]) -> str:
    """What is said of a row of whose variants one has a name that is taken."""
    name, other = taken
    return (
        f"row {row.row}: variants: {name!r}, one of its images, is the id of row {other}: give one of the two rows "
        "another id"
    )


def _rejected(row: AcceptedRow, taken: tuple[str, int], job: JobOptions) -> RejectedRow:
    message = taken_message(row, taken)
    error = ErrorInfo(type="RowError", stage="validate", message=message, permanent=True, field="variants")
    return RejectedRow(row.row, row.id, error, row.prompt, planned(row, job).as_manifest_row())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
