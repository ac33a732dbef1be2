"""How many threads a worker decodes and encodes in."""

from __future__ import annotations

import pytest
import torch

from inpaint_ops.worker import setup
from inpaint_ops.worker.setup import threads_for


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, 2), (2, 2), (4, 2), (5, 2), (7, 3), (8, 3), (16, 7), (17, 8), (128, 8), (0, 2)]
)
def test_beside_a_card_they_share_what_the_painting_thread_leaves(cores: int, threads: int) -> None:
    assert threads_for(cores, paints_on_them=False) == threads
    assert threads_for(cores, paints_on_them=True) == 2


def test_torch_uses_no_more_threads_than_are_granted_unless_a_number_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(setup, "processors", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    setup._use_no_more_threads_than_granted()
    assert used == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    setup._use_no_more_threads_than_granted()
    assert used == [3]
    monkeypatch.setattr(setup, "processors", lambda: 64)
    setup._use_no_more_threads_than_granted()
    assert used == [3]
