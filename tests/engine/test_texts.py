"""Texts in chunks that the encoders can read, and their weights: with CLIP's own way to tokenise, of bytes alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.engine.texts import MAX_CHUNKS, Piece, cut_note, pieces, split
from inpaint_ops.model.random_weights import instantiate

SIZE = 75


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return instantiate("tiny-random").tokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red boat", [("a red boat", 1)]),
        ("a (red) boat", [("a ", 1), ("red", 1.1), (" boat", 1)]),
        ("a ((red)) boat", [("a ", 1), ("red", 1.21), (" boat", 1)]),
        ("a (red:1.5) boat", [("a ", 1), ("red", 1.5), (" boat", 1)]),
        ("(red: .5)", [("red", 0.5)]),
        ("a [grey] boat", [("a ", 1), ("grey", 1 / 1.1), (" boat", 1)]),
        ("(a (red:2) boat:1.5)", [("a ", 1.5), ("red", 3.0), (" boat", 1.5)]),
        (r"a \(red\) boat", [("a (red) boat", 1)]),
        (r"back\slash \\", [(r"back\slash \ "[:-1], 1)]),
        ("a (red boat", [("a (red boat", 1)]),
        ("a red) boat]", [("a red) boat]", 1)]),
        ("(a [b) c]", [("(a ", 1), ("b) c", 1 / 1.1)]),
        ("12:30 o'clock", [("12:30 o'clock", 1)]),
        ("(ratio 3:4)", [("ratio 3", 4.0)]),
        ("(the year:1999)", [("the year:1999", 1.1)]),
        ("[words:1.3]", [("words:1.3", 1 / 1.1)]),
        ("", [("", 1)]),
        ("()", [("", 1)]),
    ],
)
def test_weights_are_read_as_the_web_ui_reads_them(text: str, expected: list[tuple[str, float]]) -> None:
    found = pieces(text, "weighted")
    assert [piece.text for piece in found] == [words for words, _ in expected]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in expected])


@given(st.text("ab()[]:.1\\ ", max_size=40))
def test_any_text_has_weights(text: str) -> None:
    found = pieces(text, "weighted")
    assert found
    kept = "".join(piece.text for piece in found)
    assert [one for one in text if one in "ab"] == [one for one in kept if one in "ab"]


@pytest.mark.parametrize("text", ["a (red:1.5) boat", "[x] \\( y"])
def test_plain_brackets_are_characters(text: str) -> None:
    assert pieces(text, "plain") == [Piece(text)]


def test_a_short_text_is_one_chunk(tokenizer: Any) -> None:
    found = split(tokenizer, [Piece("a red boat")])
    assert len(found.chunks) == 1 and not found.lost
    whole = tokenizer("a red boat").input_ids
    assert list(found.chunks[0].ids) == whole[1 : 1 + len(found.chunks[0].ids)]


@pytest.mark.parametrize("length", [SIZE - 1, SIZE])
def test_a_text_that_just_fits_is_one_chunk(tokenizer: Any, length: int) -> None:
    found = split(tokenizer, [Piece("x" * length)])
    assert [len(chunk.ids) for chunk in found.chunks] == [length]


def test_a_long_text_has_chunks_that_end_with_words(tokenizer: Any) -> None:
    text = " ".join(["boats"] * 40)  # 5 tokens each: 15 words a chunk
    found = split(tokenizer, [Piece(text)])
    assert [len(chunk.ids) for chunk in found.chunks] == [75, 75, 50]
    text = " ".join(["sailors"] * 20)  # 7 tokens each: 10 words a chunk, and 5 tokens left over
    assert [len(chunk.ids) for chunk in split(tokenizer, [Piece(text)]).chunks] == [70, 70]


def test_a_word_longer_than_a_chunk_is_divided(tokenizer: Any) -> None:
    assert [len(chunk.ids) for chunk in split(tokenizer, [Piece("x" * 100)]).chunks] == [75, 25]


def test_what_does_not_fit_is_named(tokenizer: Any) -> None:
    words = [f"word{n:02d}" for n in range(60)]  # 6 tokens each: 12 a chunk
    found = split(tokenizer, [Piece(" ".join(words))])
    assert len(found.chunks) == MAX_CHUNKS
    assert found.lost == " ".join(words[12 * MAX_CHUNKS :])
    assert "word48" in cut_note("prompt", found.lost)
    assert "and 1,800 more characters" in cut_note("prompt", "x" * 2000)


def test_each_token_has_its_weight(tokenizer: Any) -> None:
    (chunk,) = split(tokenizer, pieces("a (red:1.5) boat", "weighted")).chunks
    assert len(chunk.ids) == len(chunk.weights)
    assert sorted(set(chunk.weights)) == [1.0, 1.5]
    assert chunk.weights.count(1.5) == 3
