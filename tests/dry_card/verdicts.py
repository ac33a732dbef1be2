"""What makes a case fail, and the table of what was counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.dry_card.cases import Case
from tests.dry_card.painting import Finding

TOLERANCE = 0.05
"""By how much a plan's counted peak may differ from what the dry card counts."""

SLACK = 50_000_000
"""Bytes that may be live after the last row beyond what was before the first one."""


def faults(case: Case, finding: Finding) -> Iterator[str]:
    """What is wrong with how `case` went, one sentence each; nothing where it is as it must be."""
    for error in finding.errors:
        if not case.error or case.error not in error:
            yield error
    if case.error and not any(case.error in error for error in finding.errors):
        yield f"nothing failed with {case.error!r}"
    for text in finding.not_in_effect:
        name = text.partition(":")[0]
        made_smaller = name == "batch_size" and case.batch_after is not None  # compared below
        if name not in case.not_in_effect and not made_smaller:
            yield f"not in effect: {text}"
    for place, count in finding.waits.items():
        yield f"the processor waits for the card within the pipeline's call, {count} times: {place}"
    if case.offloads == "none":  # offloaded weights go back to the host
        for place, count in finding.downloads.items():
            yield f"something is copied off the card within the pipeline's call, {count} times: {place}"
    if finding.left > finding.held + SLACK:
        yield f"{(finding.left - finding.held) / 1e9:.2f} GB more are live than before the first row"
    if case.batch_after is not None and finding.batch != case.batch_after:
        yield f"the engine paints {finding.batch} rows at once, not {case.batch_after}"
    if case.relieved != any("painted as with low-memory" in text for text in finding.warnings):
        yield f"a row was {'not ' if case.relieved else ''}painted with less memory: {finding.warnings}"
    if not case.lacks_memory and not case.error:
        if not case.relieved and finding.warnings:
            yield f"warnings: {finding.warnings}"
        if finding.peak > finding.estimate:
            yield f"the peak of {finding.peak / 1e9:.2f} GB is above the estimate of {finding.estimate / 1e9:.2f} GB"
        if abs(off(finding)) > TOLERANCE:
            yield f"the plan counts {finding.counted / 1e9:.2f} GB, the dry card {finding.peak / 1e9:.2f} GB"


def off(finding: Finding) -> float:
    """By which share the plan's counted peak is above the dry card's."""
    return finding.counted / finding.peak - 1 if finding.peak else 0.0


PHASES = ("load", "prompts", "encode", "denoise", "decode")
_HEAD = ("case", "batch", *PHASES, "peak", "plan counts", "off", "with allowance", "layouts copied")


def table(done: Sequence[tuple[Case, Finding]]) -> str:
    """A Markdown table of the cases that are about a plan's peak: 1e9 bytes."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    rows += [_row(finding) for case, finding in done if not case.lacks_memory and finding.peak]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(finding: Finding) -> tuple[str, ...]:
    phases = (f"{finding.peaks[name] / 1e9:.2f}" if name in finding.peaks else "" for name in PHASES)
    copied = ", ".join(
        f"{finding.layouts.get(f'{name} copied', 0)} of {finding.layouts.get(f'{name} all', 0)} {name}s"
        for name in ("convolution", "norm")
    )
    return (
        finding.name, str(finding.batch), *phases, f"{finding.peak / 1e9:.2f}", f"{finding.counted / 1e9:.2f}",
        f"{off(finding):+.1%}", f"{finding.estimate / 1e9:.2f}", copied,
    )  # fmt: skip
