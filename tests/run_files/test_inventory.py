"""What is kept of a run's listings and ids, in few bytes each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.run_files import inventory
from inpaint_ops.run_files.inventory import SeenMarks

MARK = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)


@given(st.lists(st.lists(MARK, max_size=6), max_size=12), st.integers(0, 8))
def test_a_mark_is_seen_from_when_it_was_added(batches: list[list[int]], kept: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inventory, "_NEW_MARKS", kept)
        marks, expected = SeenMarks(), set[int]()
        for some in batches:
            assert marks.among(some) == expected.intersection(some)
            marks.add(some)
            expected.update(some)
        assert marks.among(list(expected)) == expected
