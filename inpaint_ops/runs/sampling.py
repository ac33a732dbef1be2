"""A few rows of a manifest, painted before the night to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inpaint_ops.manifest import AcceptedRow, ParsedManifest


def sampled(parsed: ParsedManifest, count: int) -> ParsedManifest:
    """`count` of the accepted rows, spread evenly over all of them, so that the same manifest gives the same ones.

    Rejected rows are left out, and a note says how many there are. All accepted rows where there are no more.
    """
    there = len(parsed.accepted)
    chosen = spread_over(parsed.accepted, count)
    left = f"; {len(parsed.rejected):,} rows were rejected and are not in it" if parsed.rejected else ""
    note = f"a sample: {min(count, there):,} of the {there:,} rows that can be painted, spread evenly{left}"
    return ParsedManifest.packed(chosen, (), (*parsed.notes, note))


def spread_over(rows: Sequence[AcceptedRow], count: int) -> Iterator[AcceptedRow]:
    """`count` of the rows, the middles of equal parts; all of them where there are no more."""
    count = min(count, len(rows))
    return (rows[(2 * part + 1) * len(rows) // (2 * count)] for part in range(count))
