"""The faults of a run, as values that merge and as sentences: a run that recovered from faults reports them."""

from __future__ import annotations

from collections.abc import Iterable

from inpaint_ops.records import Fault, FaultKind

_PHRASES: dict[FaultKind, tuple[str, str]] = {
    "worker_died": ("worker died", "workers died"),
    "worker_stalled": ("worker stopped responding and was killed", "workers stopped responding and were killed"),
    "try_stopped": (
        "attempt at a shard stopped and another continued",
        "attempts at shards stopped and others continued",
    ),
    "try_killed": (
        "attempt at a shard was killed and another continued",
        "attempts at shards were killed and others continued",
    ),
    "storage_repeated": (
        "request to the store had to be repeated",
        "requests to the store had to be repeated",
    ),
    "out_of_memory": (
        "time the memory ran out and rows continued in smaller batches",
        "times the memory ran out and rows continued in smaller batches",
    ),
    "image_adopted": (
        "image left by an earlier attempt was kept instead of the one painted again",
        "images left by earlier attempts were kept instead of those painted again",
    ),
}
"""Singular and plural by kind, in the order of the report."""


def merge_faults(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """One fault per kind, with the counts added up and the last detail that is not empty."""
    merged: dict[FaultKind, Fault] = {}
    for fault in faults:
        before = merged.get(fault.kind)
        merged[fault.kind] = fault.model_copy(
            update={
                "count": min(fault.count + (before.count if before else 0), 2**31 - 1),
                "what": fault.what or (before.what if before else ""),
            }
        )
    return tuple(merged[kind] for kind in _PHRASES if kind in merged)


def faults_in_words(faults: Iterable[Fault], *, recovered: bool) -> list[str]:
    """One sentence per fault; `recovered`: whether the run is valid in spite of them."""
    sentences = []
    for fault in faults:
        phrase = _PHRASES[fault.kind][fault.count > 1]
        last = f" ({'the last: ' if fault.count > 1 else ''}{fault.what})" if fault.what else ""
        sentences.append(f"{'Recovered' if recovered else 'Fault'}: {fault.count:,} {phrase}{last}.")
    return sentences
