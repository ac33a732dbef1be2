"""Any order of events leaves every row in one phase, ends it once, and blames none for a single death."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inpaint_ops.supervisor.rows import FINAL, RowBook, RowPhase


class Shard(RuleBasedStateMachine):
    """A shard's attempt: downloads, a worker that dies as it likes, records that are stored or not."""

    @initialize(rows=strategies.integers(1, 12), window=strategies.integers(1, 6))
    def start(self, rows: int, window: int) -> None:
        self.window = window
        self.book = RowBook(range(1, rows + 1), window=window)
        self.all = set(range(1, rows + 1))
        self.final: dict[int, RowPhase] = {}
        self.ends_alone: dict[int, list[str]] = {number: [] for number in self.all}
        self.blamed: set[int] = set()

    def any_in(self, data: Any, phase: RowPhase) -> int:
        number: int = data.draw(strategies.sampled_from(sorted(self.book.in_phase(phase))))
        return number

    @rule()
    def download(self) -> None:
        before = self.book.held
        number = self.book.next_download()
        assert (number is None) == (before >= self.window or not self._waiting_before(number))

    def _waiting_before(self, number: int | None) -> bool:
        return number is not None or bool(self.book.in_phase(RowPhase.WAITING))

    @precondition(lambda self: self.book.in_phase(RowPhase.DOWNLOADING))
    @rule(data=strategies.data(), how=strategies.sampled_from(["here", "bad", "left"]))
    def downloaded(self, data: Any, how: str) -> None:
        number = self.any_in(data, RowPhase.DOWNLOADING)
        {"here": self.book.downloaded, "bad": self.book.failed, "left": self.book.leave}[how](number)

    @rule()
    def feed(self) -> None:
        busy = (*self.book.in_phase(RowPhase.IN_WORKER), *self.book.in_phase(RowPhase.RECORDING))
        suspects = {number for number in busy if self.book[number].suspect}
        number = self.book.next_for_worker()
        if number is not None:
            assert not suspects, "a suspect is alone, until its output has been accepted"
            assert not self.book[number].suspect or len(self.book.in_phase(RowPhase.IN_WORKER)) == 1

    @precondition(lambda self: self.book.in_phase(RowPhase.IN_WORKER))
    @rule(data=strategies.data())
    def begin(self, data: Any) -> None:
        inside = sorted(self.book.in_phase(RowPhase.IN_WORKER))
        self.book.begun([*data.draw(strategies.lists(strategies.sampled_from(inside))), 0, 99])

    @precondition(lambda self: self.book.in_phase(RowPhase.IN_WORKER))
    @rule(data=strategies.data(), how=strategies.sampled_from(["painted", "failed", "left"]))
    def worker_ends_row(self, data: Any, how: str) -> None:
        number, fruitless = self.any_in(data, RowPhase.IN_WORKER), self.book.fruitless_workers
        {"painted": self.book.painted, "failed": self.book.failed, "left": self.book.leave}[how](number)
        assert self.book.fruitless_workers == (fruitless if how == "painted" else 0)

    @precondition(lambda self: self.book.in_phase(RowPhase.RECORDING))
    @rule(data=strategies.data(), runs=strategies.booleans())
    def output_is_refused(self, data: Any, runs: bool) -> None:
        number = self.any_in(data, RowPhase.RECORDING)
        if number in self.blamed:
            return
        if runs:
            self.book.refused(number)
            return
        self.ends_alone[number].append("")
        if self.book.refused_later(number):
            assert self.ends_alone[number].count("") >= 2
            self.blamed.add(number)
        else:
            assert next(iter(self.book.in_phase(RowPhase.WAITING))) == number, "it goes first"

    @rule(lost=strategies.sampled_from(["", "GPU-a", "GPU-b"]))
    def worker_dies(self, lost: str) -> None:
        inside, ready = set(self.book.in_phase(RowPhase.IN_WORKER)), set(self.book.in_phase(RowPhase.READY))
        begun = [number for number in inside if self.book[number].begun]
        if len(begun) == 1:
            self.ends_alone[begun[0]].append(lost)
        fruitless = self.book.fruitless_workers
        end = self.book.worker_ended(lost)
        assert set(end.suspects) == set(begun)
        assert not self.book.in_phase(RowPhase.IN_WORKER)
        assert set(end.again) <= set(self.book.in_phase(RowPhase.WAITING)), "no row is lost with its worker"
        if end.blamed is None:
            assert self.book.fruitless_workers == fruitless + 1
            assert set(end.again) == inside | ready
            ahead = list(self.book.in_phase(RowPhase.WAITING))[: len(begun)]
            assert set(ahead) == set(begun), "suspects go first"
        else:
            assert begun == [end.blamed] and set(end.again) == (inside | ready) - {end.blamed}
            ends = self.ends_alone[end.blamed]
            assert max(ends.count(""), len({device for device in ends if device})) >= 2, "one death is no proof"
            self.blamed.add(end.blamed)

    @precondition(lambda self: self.book.in_phase(RowPhase.RECORDING))
    @rule(data=strategies.data(), how=strategies.sampled_from(["done", "failed", "left"]))
    def recorded(self, data: Any, how: str) -> None:
        number = self.any_in(data, RowPhase.RECORDING)
        if how == "left":
            self.book.leave(number)
        else:
            self.book.recorded(number, done=how == "done")

    @rule(data=strategies.data())
    def another_attempt_recorded(self, data: Any) -> None:
        numbers = data.draw(strategies.sets(strategies.integers(0, 14)))
        for number in self.book.skip(numbers):
            assert number in numbers and self.book[number].phase is RowPhase.SKIPPED

    @invariant()
    def every_row_is_in_one_phase(self) -> None:
        members = [number for phase in RowPhase for number in self.book.in_phase(phase)]
        assert sorted(members) == sorted(self.all)
        for phase in RowPhase:
            assert all(self.book[number].phase is phase for number in self.book.in_phase(phase))
        assert set(self.book.open_rows()) == {n for n in self.all if self.book[n].phase not in FINAL}
        assert self.book.open_count == len(list(self.book.open_rows()))

    @invariant()
    def every_row_ends_once(self) -> None:
        for number, phase in self.final.items():
            assert self.book[number].phase is phase, "a row that has ended stays so"
        self.final |= {n: self.book[n].phase for n in self.all if self.book[n].phase in FINAL}

    @invariant()
    def the_window_holds(self) -> None:
        assert self.book.held <= self.window

    def teardown(self) -> None:
        """From wherever the events have led, a worker that works ends every row."""
        if not hasattr(self, "book"):
            return
        for _ in range(4 * len(self.all) + 4):
            while (number := self.book.next_download()) is not None:
                pass
            for number in list(self.book.in_phase(RowPhase.DOWNLOADING)):
                self.book.downloaded(number)
            while (number := self.book.next_for_worker()) is not None:
                pass
            for number in list(self.book.in_phase(RowPhase.IN_WORKER)):
                self.book.painted(number)
            for number in list(self.book.in_phase(RowPhase.RECORDING)):
                self.book.recorded(number, done=True)
        assert self.book.open_count == 0 and not self.book.has_work


Shard.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestShard = Shard.TestCase


def test_a_row_cannot_skip_a_phase() -> None:
    book = RowBook([1], window=4)
    with pytest.raises(ValueError, match="row 1 cannot go from waiting to recorded"):
        book.recorded(1, done=True)


def test_two_poison_rows_of_one_batch_are_both_found() -> None:
    book = RowBook([1, 2, 3], window=4)
    poison, blamed = {1, 3}, []
    while book.open_count:
        while (number := book.next_download()) is not None:
            book.downloaded(number)
        while (number := book.next_for_worker()) is not None:
            pass
        inside = list(book.in_phase(RowPhase.IN_WORKER))
        book.begun(inside)
        if poison & set(inside):
            blamed.append(book.worker_ended().blamed)
        else:
            for number in inside:
                book.painted(number)
        for number in list(book.in_phase(RowPhase.RECORDING)):
            book.recorded(number, done=number not in poison)
    assert sorted(number for number in blamed if number is not None) == [1, 3]
    assert len(book.in_phase(RowPhase.RECORDED)) == 3
