"""What went wrong on the way, as values that merge, and in words: a run that recovered says that it had to."""

from __future__ import annotations

from collections.abc import Iterable

from inpaint_ops.records import Fault, FaultKind

_WORDS: dict[FaultKind, tuple[str, str]] = {
    "worker_died": ("worker died", "workers died"),
    "worker_stalled": ("worker gave no sign of life and was killed", "workers gave no sign of life and were killed"),
    "try_stopped": ("try of a shard stopped and another went on", "tries of shards stopped and others went on"),
    "try_killed": ("try of a shard was killed and another went on", "tries of shards were killed and others went on"),
    "storage_repeated": (
        "request to the store had to be repeated",
        "requests to the store had to be repeated",
    ),
    "out_of_memory": (
        "time the memory ran out and rows went on in smaller batches",
        "times the memory ran out and rows went on in smaller batches",
    ),
    "image_adopted": (
        "image that an ended try had left was kept in place of the one painted anew",
        "images that ended tries had left were kept in place of those painted anew",
    ),
}
"""One and many, by kind, in the order in which they are told."""


def merge_faults(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """One fault a kind, with the counts added up and the last words that say anything."""
    merged: dict[FaultKind, Fault] = {}
    for fault in faults:
        before = merged.get(fault.kind)
        merged[fault.kind] = fault.model_copy(
            update={
                "count": min(fault.count + (before.count if before else 0), 2**31 - 1),
                "what": fault.what or (before.what if before else ""),
            }
        )
    return tuple(merged[kind] for kind in _WORDS if kind in merged)


def faults_in_words(faults: Iterable[Fault], *, recovered: bool) -> list[str]:
    """A sentence a fault; `recovered` says whether the run is good in spite of them."""
    told = []
    for fault in faults:
        words = _WORDS[fault.kind][fault.count > 1]
        last = f" ({'the last: ' if fault.count > 1 else ''}{fault.what})" if fault.what else ""
        told.append(f"{'Recovered' if recovered else 'On the way'}: {fault.count:,} {words}{last}.")
    return told
