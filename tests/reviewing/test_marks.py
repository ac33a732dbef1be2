"""What a reviewer's lines come to, what counts where reviewers disagree, and names of reviewers as names of objects."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inpaint_ops.errors import ConfigError, RowError
from inpaint_ops.locations import check_relative
from inpaint_ops.reviewing import NOTHING, Change, Mark, Opinion, check_reviewer, decide, decisions, read_changes, tally
from inpaint_ops.reviewing.marks import LINE_BYTES, MAX_NOTE, MAX_REASON, add_marks
from inpaint_ops.reviewing.reviewers import key_of, reviewer_of

START = datetime(2026, 11, 27, 7, 0, tzinfo=UTC)

printable = st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")), max_size=20)
marks = st.builds(
    lambda variant, **fields: Mark(**fields, variant=variant if fields["mark"] == "accept" else None),
    variant=st.sampled_from([None, 0, 3]),
    id=st.sampled_from(["a", "b"]),
    mark=st.sampled_from([None, "accept", "reject", "redo", "clear"]),
    rating=st.sampled_from([None, 0, 1, 5]),
    reason=st.none() | printable,
    note=st.none() | printable,
    attempt=st.sampled_from(["", "first", "second"]),
    at=st.integers(0, 100).map(lambda second: START + timedelta(seconds=second)),
)


def folded(lines: list[Mark]) -> dict[str, Opinion]:
    found: dict[str, Opinion] = {}
    add_marks(found, lines)
    return found


def mark(what: str | None, second: int = 0, **fields: object) -> Mark:
    return Mark(id="a", mark=what, at=START + timedelta(seconds=second), attempt="now", **fields)  # type: ignore[arg-type]


class TestLines:
    @given(st.lists(marks, max_size=12))
    def test_superseded_lines_may_be_dropped(self, lines: list[Mark]) -> None:
        found = folded(lines)
        assert folded([one for row, said in found.items() for one in said.as_marks(row)]) == found

    @given(st.lists(marks, max_size=12), st.integers(0, 12))
    def test_lines_may_be_read_in_pieces(self, lines: list[Mark], cut: int) -> None:
        found: dict[str, Opinion] = {}
        add_marks(found, lines[:cut])
        add_marks(found, lines[cut:])
        assert found == folded(lines)

    @given(marks)
    def test_a_line_is_read_back_as_it_was(self, one: Mark) -> None:
        line = one.line()
        assert line.count(b"\n") == 1
        assert Mark.model_validate_json(line) == one

    def test_the_longest_mark_fits_a_line(self) -> None:
        longest = Mark(id="\U0001f5bc" * 200, mark="reject", rating=5, reason="\U0001f5bc" * MAX_REASON,
                       note="\U0001f5bc" * MAX_NOTE, attempt="a" * 200)  # fmt: skip
        assert len(longest.line()) <= LINE_BYTES

    def test_a_variant_is_named_by_the_verdict_that_accepts_it(self) -> None:
        assert folded([mark("accept", variant=2), mark(None, rating=4)])["a"].variant == 2
        assert folded([mark("accept", variant=2), mark("reject")])["a"].variant is None
        assert folded([mark("accept", variant=2), mark("accept")])["a"].variant is None
        for what in (None, "reject", "redo", "clear"):
            with pytest.raises(ValidationError, match="a variant is named by mark accept alone"):
                mark(what, variant=0)

    def test_what_is_not_said_stays(self) -> None:
        said = folded([mark("accept", note="fine"), mark(None, rating=4), mark("reject", reason="seam")])["a"]
        assert (said.verdict, said.rating, said.note, said.reason) == ("reject", 4, "fine", "seam")
        assert said.decided_at == START

    def test_clear_takes_all_back_and_may_say_something_at_once(self) -> None:
        assert folded([mark("accept", rating=3, note="x"), mark("clear")]) == {}
        assert folded([mark("accept", note="x"), mark("clear", rating=2)])["a"] == Opinion(
            attempt="now", rating=2, rated_at=START
        )

    def test_what_was_said_of_an_earlier_attempts_result_is_not_said_of_the_new_one(self) -> None:
        before = Mark(id="a", mark="reject", rating=1, note="a seam", attempt="before")
        assert folded([before, mark("accept")])["a"] == Opinion(attempt="now", verdict="accept", decided_at=START)

    @pytest.mark.parametrize(
        "fields",
        [{"mark": "maybe"}, {"rating": 6}, {"rating": -1}, {"note": "x" * (MAX_NOTE + 1)}, {"note": "a\nb"},
         {"reason": "\x1b[31m"}, {"reason": "\u202eevil"}, {"id": ""}, {"more": 1}],
    )  # fmt: skip
    def test_what_is_no_mark_is_refused(self, fields: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            Change(**{"id": "a"} | fields)


class TestDecisions:
    def test_the_latest_verdict_counts_and_both_are_there(self) -> None:
        given_ = {"ann": folded([mark("accept", 1)]), "ben": folded([mark("reject", 2), mark(None, 9, note="later")])}
        found = decide(given_, "a", "now")
        assert (found.verdict, found.reviewer, found.is_disputed) == ("reject", "ben", True)
        assert found.opinions["ann"].verdict == "accept"
        given_["ann"] = folded([mark("accept", 3)])
        assert decide(given_, "a", "now").reviewer == "ann"

    def test_of_the_same_time_the_last_name_counts(self) -> None:
        given_ = {"ben": folded([mark("reject", 1)]), "ann": folded([mark("accept", 1)])}
        assert decide(given_, "a", "now").verdict == "reject"

    def test_where_one_takes_back_the_other_counts(self) -> None:
        given_ = {"ann": folded([mark("accept", 1)]), "ben": folded([mark("reject", 2), mark("clear", 3)])}
        found = decide(given_, "a", "now")
        assert (found.verdict, found.is_disputed) == ("accept", False)

    def test_the_latest_rating_counts_whoever_decides(self) -> None:
        given_ = {"ann": folded([mark("accept", 5, rating=2)]), "ben": folded([mark(None, 6, rating=4)])}
        assert (decide(given_, "a", "now").verdict, decide(given_, "a", "now").rating) == ("accept", 4)

    def test_a_result_that_was_painted_again_is_not_reviewed(self) -> None:
        given_ = {"ann": folded([mark("accept", 1)])}
        found = decide(given_, "a", "later attempt")
        assert (found.verdict, found.outdated, dict(found.opinions)) == (None, ("ann",), {})
        counted = tally(10, dict(decisions(given_, {"a": "later attempt", "b": "x"})))
        assert (counted.reviewed, counted.outdated) == (0, 1)

    def test_rows_that_the_run_has_not_are_not_counted(self) -> None:
        given_ = {"ann": folded([mark("accept", 1)])}
        assert dict(decisions(given_, {"b": "now"})) == {}
        assert decide(given_, "b", "now") is NOTHING


class TestNames:
    @given(st.text(max_size=120))
    def test_a_name_is_a_plain_key_of_its_own_or_refused(self, name: str) -> None:
        try:
            key = key_of(name)
        except ConfigError as error:
            assert "\n" not in str(error)
            return
        assert reviewer_of(key) == check_reviewer(name)
        check_relative(f"{key}.jsonl")
        assert "/" not in key
        assert not key.startswith(".")
        assert key.isascii()
        assert len(key) <= 200

    @pytest.mark.parametrize(
        ("name", "key"),
        [("anna", "anna"), ("anna.b+c@studio.example", "anna.b+c@studio.example"), ("José Ü", "Jos%C3%A9%20%C3%9C"),
         ("../../claims/x", "%2E.%2F..%2Fclaims%2Fx"), ("{{ ti }}", "%7B%7B%20ti%20%7D%7D"), ("a\\b", "a%5Cb"),
         ("%41", "%2541")],
    )  # fmt: skip
    def test_what_names_become(self, name: str, key: str) -> None:
        assert key_of(name) == key

    @pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00", "\ud800", "x" * 101, "ü" * 40, "\u202eanna"])
    def test_what_is_no_name_is_one_line(self, name: str) -> None:
        with pytest.raises(ConfigError, match="a reviewer's name has 1 to 100 characters") as caught:
            check_reviewer(name)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("key", ["a/b", "%41", ".a", "%zz", "%ff", "%c3%a9", "", "a%0Ab", " a"])
    def test_a_key_that_no_name_has_is_nobodys(self, key: str) -> None:
        assert reviewer_of(key) is None


class TestFilesOfOthers:
    @given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode), st.sampled_from(["a.csv", "a.jsonl"]))
    def test_any_file_gives_marks_and_lines_or_one_error(self, data: bytes, name: str) -> None:
        try:
            found = list(read_changes(data, name))
        except ConfigError as error:
            assert str(error).isprintable()
            return
        for one in found:
            assert isinstance(one, Change) or str(one).isprintable()

    @pytest.mark.parametrize("rating", ["9" * 5000, "1e3", "٣", "-1", "01", "1.0", [1], True, 1e300])
    def test_a_rating_is_a_figure_from_0_to_5(self, rating: object) -> None:
        for name, data in (
            ("a.jsonl", json.dumps({"id": "a", "rating": rating})), ("a.csv", f'id,rating\na,"{rating}"\n'),
        ):  # fmt: skip
            (found,) = read_changes(data.encode(), name)
            assert isinstance(found, RowError)
            assert "rating: write 1 to 5, or 0 for none" in str(found) or "is no JSON" in str(found)

    def test_figures_in_a_table_are_read(self) -> None:
        found = list(read_changes(b"\xef\xbb\xbfid,mark,rating\r\na,accept,4\r\nb,,0\r\n", "A.CSV"))
        assert found == [Change(id="a", mark="accept", rating=4), Change(id="b", rating=0)]
