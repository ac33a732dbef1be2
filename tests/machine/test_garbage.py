"""The collector leaves alone what was there before, and what is made meanwhile is collected."""

from __future__ import annotations

import gc
import weakref

from inpaint_ops.machine.garbage import only_new_garbage


class Ring:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


def test_old_objects_are_left_out_until_the_end_and_new_garbage_is_collected() -> None:
    before = gc.get_freeze_count()
    with only_new_garbage():
        assert gc.get_freeze_count() > before
        gone = weakref.ref(Ring())
        gc.collect()
        assert gone() is None
    assert gc.get_freeze_count() <= before
