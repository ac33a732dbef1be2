"""The ledger of a tiny model on the CPU."""

from __future__ import annotations

from typing import Any

from inpaint_ops.device import describe
from inpaint_ops.model import ledger, random_weights
from inpaint_ops.records import LedgerEntry
from inpaint_ops.tuning import Tuning

CPU = describe("cpu")


def fresh() -> Any:
    return random_weights.instantiate("tiny-random")


def by_name(entries: tuple[LedgerEntry, ...]) -> dict[str, LedgerEntry]:
    return {entry.name: entry for entry in entries}


def look(pipe: Any, tuning: Tuning, size: tuple[int, int] = (64, 64), **rest: Any) -> dict[str, LedgerEntry]:
    return by_name(ledger.inspect(pipe, tuning, size, **rest))
