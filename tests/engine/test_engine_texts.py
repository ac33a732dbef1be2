"""Long and weighted prompts through the engine: no word is lost in silence, and no row depends on its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inpaint_ops.engine import BatchKey, Engine, PaintItem
from inpaint_ops.model.random_weights import instantiate
from inpaint_ops.protocol import Text, text_of
from tests.support.engine_parts import painting_model

KEY = BatchKey(width=64, height=64, steps=3, guidance_scale=7.5, strength=0.9999)
LONG = "a red boat on a calm sea, painted at dawn by a patient hand, with white gulls above and grey stones below it, "
"""88 tokens of the tiny model, which has one per letter: two chunks."""


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield instantiate("tiny-random")
    torch.set_num_threads(threads)


def item(engine: Engine, row: int, prompt: Text, negative: Text | None = None) -> PaintItem:
    draw = np.random.default_rng(5)
    rgb = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    chunks, _ = engine.prompts.shape(prompt, negative, guided=True)
    return PaintItem(row, KEY._replace(chunks=chunks), rgb, mask, prompt, negative, 7)


def painted(engine: Engine, *items: PaintItem) -> list[NDArray[np.uint8]]:
    found = []
    for result in engine.paint(items):
        assert result.image is not None, result.error
        found.append(result.image)
    return found


def apart(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.abs(first.astype(int) - second).max())


def test_words_after_the_77th_token_change_the_image(pipe: Any) -> None:
    engine = Engine(painting_model(pipe))
    first, second = item(engine, 1, LONG + "and a lighthouse"), item(engine, 2, LONG + "and two houses")
    assert first.key.chunks == second.key.chunks == 2
    one, other = painted(engine, first, second)
    assert apart(one, other) > 1


def test_a_text_of_one_chunk_is_encoded_as_the_pipeline_does(pipe: Any) -> None:
    """The chunks' own way, on a text that the pipeline can read whole too."""
    engine = Engine(painting_model(pipe))
    tokens, _, pooled, _ = pipe.encode_prompt(prompt="a red boat", do_classifier_free_guidance=False)
    long = engine.prompts._encode(" ".join(["boats"] * 15) + " a red boat")
    assert long.tokens.shape == (1, 154, tokens.shape[2])
    assert torch.allclose(long.tokens[:, 77:], tokens, atol=1e-6)
    first, _, own, _ = pipe.encode_prompt(prompt=" ".join(["boats"] * 15), do_classifier_free_guidance=False)
    assert torch.allclose(long.tokens[:, :77], first, atol=1e-6)
    assert torch.allclose(long.pooled, own, atol=1e-6)
    assert not torch.allclose(long.pooled, pooled, atol=1e-3)


def test_a_row_is_the_same_alone_and_beside_others(pipe: Any) -> None:
    engine = Engine(painting_model(pipe))
    rows = [
        item(engine, 1, LONG + "and a lighthouse"), item(engine, 2, LONG * 2, "grey"), item(engine, 3, LONG, LONG * 2),
    ]  # fmt: skip
    assert [row.key.chunks for row in rows] == [2, 3, 3]
    second, third = painted(engine, *rows[1:])
    assert apart(second, painted(engine, rows[1])[0]) <= 1
    assert apart(third, painted(engine, rows[2])[0]) <= 1


def test_long_negative_prompts_count_where_there_is_guidance(pipe: Any) -> None:
    engine = Engine(painting_model(pipe))
    assert engine.prompts.shape("a boat", LONG, guided=True)[0] == 2
    assert engine.prompts.shape("a boat", LONG, guided=False)[0] == 1
    one, other = painted(engine, item(engine, 1, "a boat", LONG + "rust"), item(engine, 2, "a boat", LONG + "mould"))
    assert apart(one, other) > 1


def test_what_is_cut_is_said(pipe: Any) -> None:
    engine = Engine(painting_model(pipe))
    chunks, notes = engine.prompts.shape(LONG * 4 + "and the end", "short", guided=True)
    assert chunks == 4
    assert len(notes) == 1 and notes[0].startswith("the prompt was cut") and notes[0].endswith("below it, and the end")
    _, notes = engine.prompts.shape("short", LONG * 6, guided=True)
    assert [note.split(" was")[0] for note in notes] == ["the negative prompt"]


def test_weights_change_the_image_and_weights_of_one_do_not(pipe: Any) -> None:
    engine = Engine(painting_model(pipe), prompt_syntax="weighted")
    plain, same, heavy = painted(
        engine, item(engine, 1, "a red boat"), item(engine, 2, "a (red:1.0) boat"), item(engine, 3, "a (red:1.8) boat")
    )
    assert apart(plain, same) <= 1
    assert apart(plain, heavy) > 1


def test_the_chunks_are_counted_in_the_ledger(pipe: Any) -> None:
    engine = Engine(painting_model(pipe))
    engine.prepare_prompts(["a boat", LONG])
    (entry,) = (one for one in engine.with_measured(ledger()) if one.name == "release_text_encoders")
    assert (entry.measured["texts_encoded"], entry.measured["chunks_encoded"]) == (3, 4)


def ledger() -> Any:
    from inpaint_ops.records import LedgerEntry

    return [LedgerEntry(name="release_text_encoders", requested="on", effective="on", matches=True)]


def test_the_second_encoder_may_have_a_text_of_its_own(pipe: Any) -> None:
    """As the pipeline's own `prompt_2`; the same text for both is one text."""
    engine = Engine(painting_model(pipe))
    both = engine.prompts._text(("a red boat", "oil painting"))
    tokens, _, pooled, _ = pipe.encode_prompt(
        prompt="a red boat", prompt_2="oil painting", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(both.tokens, tokens) and torch.equal(both.pooled, pooled)
    rows = [item(engine, 1, "a red boat"), item(engine, 2, ("a red boat", "oil painting")),
            item(engine, 3, "a red boat", ("", "fog"))]  # fmt: skip
    first, second, third = (painted(engine, one)[0] for one in rows)
    assert apart(first, second) > 1 and apart(first, third) > 1
    assert text_of("a", None) == text_of("a", "a") == "a" and text_of(None, None) is None
    assert text_of(None, "fog") == ("", "fog") and text_of("a", "") == ("a", "")


def test_a_long_second_text_is_chunked_and_named_where_it_is_cut(pipe: Any) -> None:
    engine = Engine(painting_model(pipe))
    chunks, cut = engine.prompts.shape(("a boat", LONG), None, guided=True)
    assert (chunks, cut) == (2, ())
    assert engine.prompts._text(("a boat", LONG)).tokens.shape[1] == 2 * 77
    _, cut = engine.prompts.shape(("a boat", LONG * 4 + "lighthouse"), None, guided=True)
    assert len(cut) == 1 and "lighthouse" in cut[0]
