"""A text -> chunks of tokens that fit CLIP's encoders, each with its weights; what does not fit is named. No torch.

An encoder reads 77 tokens, two of which mark the ends. A longer text is encoded in several chunks, which the UNet sees
one after another. A chunk ends with a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from inpaint_ops.config import PromptSyntax

MAX_CHUNKS = 4
"""Chunks of one text, at the most: 300 tokens with SDXL's tokenizers."""

LOST_SHOWN = 200
"""Characters of the lost words that a record holds."""


class Piece(NamedTuple):
    """A part of a text, and what its words weigh (1: as they are)."""

    text: str
    weight: float = 1.0


class Chunk(NamedTuple):
    """Token ids of one chunk, without the marks of its ends, and a weight for each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class Chunks(NamedTuple):
    """A text for one encoder: at least one chunk. `lost`: the words that did not fit; empty where all did."""

    chunks: tuple[Chunk, ...]
    lost: str = ""


def pieces(text: str, syntax: PromptSyntax) -> list[Piece]:
    """The text's parts by their weights.

    `plain`: the whole text, whatever it holds. `weighted`: the notation of AUTOMATIC1111's web UI: `(words)` weigh 1.1
    times as much, `(words:1.3)` 1.3 times, `[words]` 1 / 1.1 times; brackets nest; a backslash before a bracket makes
    it a character. A number of 100 or more is words. A bracket without its partner is a character too.
    """
    if syntax == "plain":
        return [Piece(text)]
    return _merged(_weighted(text))


_TOKEN = re.compile(r"\\[()\[\]\\]|\(|\)|\[|\]|[^\\()\[\]]+|\\")
_NUMBER = re.compile(r":\s*([+-]?(?:\d{1,2}(?:\.\d*)?|\.\d+))\s*$")
"""A weight below 100: a year, say, is a word."""


def _weighted(text: str) -> list[Piece]:
    found: list[Piece] = []
    open_: list[tuple[str, int]] = []
    for token in _TOKEN.findall(text):
        if token in "([":
            open_.append((token, len(found)))
            found.append(Piece(token))  # a character, unless its partner comes
        elif token in ")]" and open_ and open_[-1][0] == "(["[")]".index(token)]:
            _, start = open_.pop()
            inside = found[start + 1 :]
            factor = 1.1 if token == ")" else 1 / 1.1
            number = _NUMBER.search(inside[-1].text) if inside and token == ")" else None
            if number:
                factor = float(number[1])
                inside[-1] = Piece(inside[-1].text[: number.start()], inside[-1].weight)
            found[start:] = [Piece(piece.text, piece.weight * factor) for piece in inside]
        else:
            found.append(Piece(token[1:] if len(token) == 2 and token[0] == "\\" else token))
    return found


def _merged(found: Sequence[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in found:
        if merged and merged[-1].weight == piece.weight:
            merged[-1] = Piece(merged[-1].text + piece.text, piece.weight)
        elif piece.text:
            merged.append(piece)
    return merged or [Piece("")]


def split(tokenizer: Any, parts: Sequence[Piece], most: int = MAX_CHUNKS) -> Chunks:
    """The tokens of `parts` in chunks of `tokenizer.model_max_length` less two, `most` of them at the most."""
    size = tokenizer.model_max_length - 2
    ids: list[int] = []
    weights: list[float] = []
    ends: list[bool] = []
    places: list[int] = []
    for part, begin in zip(parts, accumulate((len(part.text) for part in parts), initial=0), strict=False):
        encoded = tokenizer(
            part.text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True
        )
        ids += encoded.input_ids
        weights += [part.weight] * len(encoded.input_ids)
        ends += [token.endswith("</w>") for token in tokenizer.convert_ids_to_tokens(encoded.input_ids)]
        places += [begin + start for start, _ in encoded.offset_mapping]
    starts = list(_starts(ends, size))
    kept = [slice(start, end) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    chunks = tuple(Chunk(tuple(ids[where]), tuple(weights[where])) for where in kept[:most])
    whole = "".join(part.text for part in parts)
    return Chunks(chunks, whole[places[kept[most].start] :].strip() if len(kept) > most else "")


def _starts(ends: Sequence[bool], size: int) -> Iterator[int]:
    """Where chunks of up to `size` tokens begin. Each ends with a word, unless a word is longer than that."""
    start = 0
    yield start
    while len(ends) - start > size:
        last = next((place for place in range(start + size, start, -1) if ends[place - 1]), start + size)
        start = last
        yield start


def cut_note(name: str, lost: str) -> str:
    """The sentence for a record: which text was cut, and the words that were lost."""
    more = f"… and {len(lost) - LOST_SHOWN:,} more characters" if len(lost) > LOST_SHOWN else ""
    return f"the {name} was cut: these words are over {MAX_CHUNKS * 75} tokens and were lost: {lost[:LOST_SHOWN]}{more}"
