"""A few rows of a manifest, painted before the night to look at."""

from __future__ import annotations

from inpaint_ops.manifest import ParsedManifest


def sampled(parsed: ParsedManifest, count: int) -> ParsedManifest:
    """`count` of the accepted rows, spread evenly over all of them, so that the same manifest gives the same ones.

    Rejected rows are left out, and a note says how many there are. All accepted rows where there are no more.
    """
    there = len(parsed.accepted)
    chosen = (parsed.accepted[at] for at in _spread(there, min(count, there)))
    left = f"; {len(parsed.rejected):,} rows were rejected and are not in it" if parsed.rejected else ""
    note = f"a sample: {min(count, there):,} of the {there:,} rows that can be painted, spread evenly{left}"
    return ParsedManifest.packed(chosen, (), (*parsed.notes, note))


def _spread(rows: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `rows` positions."""
    return [(2 * part + 1) * rows // (2 * count) for part in range(count)]
