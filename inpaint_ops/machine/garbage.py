"""What Python's collector of garbage need not look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS, _YOUNG_COLLECTIONS, _MIDDLE_COLLECTIONS = 100_000, 20, 100
"""How many objects are made between two looks at the young ones (Python's own: 700 or 2,000), and how many such looks
between two at older ones. So many records are some 50 MB at most, if each were part of a cycle; none is.
"""


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Collect garbage among the objects that are made meanwhile alone, and seldom; may be used as a decorator.

    Where objects are left out already, by whoever calls this, it changes nothing.

    Whoever goes through a million rows has the collector go through all modules' objects again and again, which took a
    fifth of a report's processor time, and through the same few thousand rows, which took another fifth. What a row
    leaves has no cycles, and is freed without the collector.
    """
    if gc.get_freeze_count():
        yield
        return
    thresholds = gc.get_threshold()
    gc.freeze()
    if thresholds[0]:  # 0: somebody has switched it off
        gc.set_threshold(_NEW_OBJECTS, _YOUNG_COLLECTIONS, _MIDDLE_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
