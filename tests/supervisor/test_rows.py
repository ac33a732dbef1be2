"""Any order of events leaves every row in one phase, ends it once, and blames none for a single death."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inpaint_ops.supervisor.rows import FINAL, Limits, RowBook, RowPhase

HELD = (RowPhase.DOWNLOADING, RowPhase.READY, RowPhase.IN_WORKER, RowPhase.RECORDING)


class Shard(RuleBasedStateMachine):
    """A shard's attempt: downloads, a worker that dies as it likes, records that are stored or not."""

    @initialize(
        rows=strategies.integers(1, 12),
        limits=strategies.builds(
            Limits,
            rows=strategies.integers(1, 6),
            bytes=strategies.integers(1, 30),
            downloads=strategies.integers(1, 4),
            batch=strategies.integers(1, 4),
            in_worker=strategies.integers(1, 9),
            pixels_in_worker=strategies.integers(1, 30),
        ),
    )
    def start(self, rows: int, limits: Limits) -> None:
        self.limits = limits
        self.book = RowBook(range(1, rows + 1), limits)
        self.all = set(range(1, rows + 1))
        self.final: dict[int, RowPhase] = {}
        self.ends_alone: dict[int, list[str]] = {number: [] for number in self.all}
        self.blamed: set[int] = set()

    def any_in(self, data: Any, phase: RowPhase) -> int:
        number: int = data.draw(strategies.sampled_from(sorted(self.book.in_phase(phase))))
        return number

    @rule()
    def download(self) -> None:
        book, limits = self.book, self.limits
        held = {number: phase for phase in HELD for number in book.in_phase(phase)}
        size = sum(book[number].bytes for number in held)
        waits, arriving = bool(book.in_phase(RowPhase.WAITING)), len(book.in_phase(RowPhase.DOWNLOADING))
        room = len(held) < limits.rows and arriving < limits.downloads and (not held or size < limits.bytes)
        assert (book.next_download() is not None) == (waits and room)

    @precondition(lambda self: self.book.in_phase(RowPhase.DOWNLOADING))
    @rule(
        data=strategies.data(),
        how=strategies.sampled_from(["here", "bad", "left"]),
        size=strategies.integers(0, 12),
        group=strategies.sampled_from("ab"),
    )
    def downloaded(self, data: Any, how: str, size: int, group: str) -> None:
        number = self.any_in(data, RowPhase.DOWNLOADING)
        if how == "here":
            self.book.downloaded(number, size=size, pixels=size, group=group)
        else:
            {"bad": self.book.failed, "left": self.book.leave}[how](number)

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
        begun = data.draw(strategies.lists(strategies.sampled_from(inside)))
        self.book.begun([*begun, 0, 99], data.draw(strategies.sampled_from(["decode", "paint", "encode"])))

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
    def the_limits_hold(self) -> None:
        assert self.book.held <= self.limits.rows
        assert len(self.book.in_phase(RowPhase.DOWNLOADING)) <= self.limits.downloads
        inside = self.book.in_worker()
        assert len(inside) <= max(self.limits.in_worker, self.limits.batch)

    def _painted_by_the_worker(self) -> list[int]:
        """What a worker paints next: the batch that it has begun, else a full one, else, where it is flushed, the
        largest. Rows of one group may still have different shapes.
        """
        inside = self.book.in_worker()
        if begun := [number for number, row in inside.items() if row.stage in ("paint", "encode")]:
            return begun
        shapes: dict[tuple[object, int], list[int]] = {}
        for number, row in inside.items():
            shapes.setdefault((row.group, number % 2), []).append(number)
        largest = max(shapes.values(), key=len, default=[])
        return largest[: self.limits.batch] if len(largest) >= self.limits.batch or self.book.should_flush else []

    def teardown(self) -> None:
        """From wherever the events have led, a worker that works ends every row."""
        if not hasattr(self, "book"):
            return
        for _ in range(12 * len(self.all) + 12):
            while (number := self.book.next_download()) is not None:
                pass
            for number in list(self.book.in_phase(RowPhase.DOWNLOADING)):
                self.book.downloaded(number)
            while (number := self.book.next_for_worker()) is not None:
                pass
            for number in self._painted_by_the_worker():
                self.book.painted(number)
            for number in list(self.book.in_phase(RowPhase.RECORDING)):
                self.book.recorded(number, done=True)
        assert self.book.open_count == 0 and not self.book.has_work


Shard.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestShard = Shard.TestCase


def test_a_row_cannot_skip_a_phase() -> None:
    book = RowBook([1], Limits(rows=4))
    with pytest.raises(ValueError, match="row 1 cannot go from waiting to recorded"):
        book.recorded(1, done=True)


def test_two_poison_rows_of_one_batch_are_both_found() -> None:
    book = RowBook([1, 2, 3], Limits(rows=4))
    poison, blamed = {1, 3}, []
    while book.open_count:
        while (number := book.next_download()) is not None:
            book.downloaded(number)
        while (number := book.next_for_worker()) is not None:
            pass
        inside = list(book.in_phase(RowPhase.IN_WORKER))
        book.begun(inside, "decode")
        if poison & set(inside):
            blamed.append(book.worker_ended().blamed)
        else:
            for number in inside:
                book.painted(number)
        for number in list(book.in_phase(RowPhase.RECORDING)):
            book.recorded(number, done=number not in poison)
    assert sorted(number for number in blamed if number is not None) == [1, 3]
    assert len(book.in_phase(RowPhase.RECORDED)) == 3


def numbers_given(book: RowBook) -> list[int]:
    given = []
    while (number := book.next_for_worker()) is not None:
        given.append(number)
    return given


def arrive(book: RowBook, groups: str) -> None:
    """The next rows arrive, each of its group."""
    for group in groups:
        number = book.next_download()
        assert number is not None
        book.downloaded(number, group=group)


def test_the_worker_gets_whole_batches_of_one_group_while_more_rows_can_come() -> None:
    book = RowBook(range(1, 100), Limits(rows=50, batch=3, in_worker=12))
    arrive(book, "abacb")
    assert (numbers_given(book), book.should_flush) == ([], False)
    arrive(book, "a")
    assert numbers_given(book) == [1, 3, 6]
    assert not book.should_flush, "more rows of its shape may come"
    arrive(book, "bcc")
    assert numbers_given(book) == [2, 5, 7, 4, 8, 9]


def test_a_batch_that_is_not_full_waits_for_the_one_that_is_painted() -> None:
    """No more rows are held, and no group has a whole batch: nothing can come before something is finished."""
    book = RowBook(range(1, 100), Limits(rows=7, batch=3, in_worker=12))
    arrive(book, "aaabbcd")
    assert numbers_given(book) == [1, 2, 3]
    book.begun([1, 2, 3], "paint")
    assert (numbers_given(book), book.should_flush) == ([], False)
    for number in (1, 2, 3):
        book.painted(number)
        book.recorded(number, done=True)
    arrive(book, "b")
    assert numbers_given(book) == [4, 5, 8]


def test_the_last_rows_are_painted_in_batches_that_are_not_full() -> None:
    book = RowBook(range(1, 6), Limits(rows=50, batch=3, in_worker=12))
    arrive(book, "ababb")
    assert numbers_given(book) == [2, 4, 5, 1, 3]
    book.begun([2, 4, 5], "paint")
    assert book.should_flush, "no row is on its way: the worker need not be asked again"


def test_rows_of_one_group_that_have_other_shapes_are_painted_all_the_same() -> None:
    """What was known of their files did not show it: the worker has a batch, and none that it can fill."""
    book = RowBook(range(1, 100), Limits(rows=4, batch=3, in_worker=12))
    arrive(book, "aaab")
    assert numbers_given(book) == [1, 2, 3]
    book.begun([1, 2, 3], "decode")
    assert (numbers_given(book), book.should_flush) == ([], True)


def test_a_suspect_that_was_alone_when_a_worker_ended_goes_before_one_that_was_not_whichever_arrives_first() -> None:
    """Else each of several poison rows ends one worker, and the attempt stops before the first is found."""
    book = RowBook([1, 2, 3], Limits(rows=4, batch=3))
    arrive(book, "aaa")
    book.begun(numbers_given(book), "paint")
    book.worker_ended()
    arrive(book, "aaa")
    assert numbers_given(book) == [1]
    book.begun([1], "paint")
    book.worker_ended()
    assert [book.next_download() for _ in range(3)] == [1, 2, 3]
    book.downloaded(2)
    book.downloaded(3)
    assert (numbers_given(book), book.should_flush) == ([], True)
    book.downloaded(1)
    assert numbers_given(book) == [1]
    book.begun([1], "paint")
    assert book.worker_ended().blamed == 1
