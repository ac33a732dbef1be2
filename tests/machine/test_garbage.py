"""The collector leaves alone what was there before, and what is made meanwhile is collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from inpaint_ops.machine.garbage import only_new_garbage


class Ring:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def nothing_left_out() -> Iterator[None]:
    """The tests' own process leaves its modules out."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("nothing_left_out")
def test_old_objects_are_left_out_until_the_end_and_new_garbage_is_collected() -> None:
    with only_new_garbage():
        assert gc.get_freeze_count() > 0
        with only_new_garbage():
            gone = weakref.ref(Ring())
            gc.collect()
            assert gone() is None
        assert gc.get_freeze_count() > 0, "the end of an inner one is not that of the outer one"
    assert gc.get_freeze_count() == 0


def test_what_the_caller_leaves_out_stays_left_out() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with only_new_garbage():
        pass
    assert gc.get_freeze_count() > before // 2


@pytest.mark.usefixtures("nothing_left_out")
def test_the_collector_looks_seldom_meanwhile_and_as_often_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with only_new_garbage():
        assert gc.get_threshold() > before
    assert gc.get_threshold() == before


@pytest.mark.usefixtures("nothing_left_out")
def test_a_collector_that_is_switched_off_stays_so() -> None:
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with only_new_garbage():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
