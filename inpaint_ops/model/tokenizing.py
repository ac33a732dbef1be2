"""Both of SDXL's tokenizers from where `tokenizers` has found them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CLIPTokenizer

from inpaint_ops.errors import ModelError
from inpaint_ops.model.random_weights import byte_characters, byte_tokenizer
from inpaint_ops.model.tokenizers import CLIP_TOKENS, MAX_BYTES, PAD_TOKENS, Tokenizers, is_tokenizer

_MERGES = CLIP_TOKENS - 2 * 256 - 2


def make(found: Tokenizers, tokens: int) -> tuple[Any, Any]:
    """Both tokenizers, of transformers. Raises ModelError for one whose ids the text encoders do not know."""
    load = partial(CLIPTokenizer.from_pretrained, local_files_only=True, model_max_length=77)
    try:
        if found.place is None:
            both = tuple(map(byte_tokenizer, PAD_TOKENS))
        elif found.kind == "folder":
            both = _of_folder(found.place, load)
        else:
            with TemporaryDirectory() as scratch:
                write_vocabulary(found.place, Path(scratch))
                both = tuple(load(scratch, pad_token=pad) for pad in PAD_TOKENS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"the tokenizer {found} cannot be read ({text}): use that of another SDXL model") from error
    for one in both:
        if len(one) > tokens:
            raise ModelError(
                f"the tokenizer {found} has {len(one):,} tokens, the text encoders know {tokens:,}: "
                "use the model's own (--tokenizer)"
            )
    return both[0], both[1]


def write_vocabulary(packed: Path, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` from OpenAI's file of merges, as its SimpleTokenizer numbers them.

    Raises OSError, and ValueError for a file that is not CLIP's.
    """
    with gzip.open(packed) as opened:
        lines = opened.read(MAX_BYTES).decode().split("\n")[1 : _MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != _MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError("not the merges of CLIP")
    characters = byte_characters()
    words = [*characters, *(character + "</w>" for character in characters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _of_folder(folder: Path, load: Callable[..., Any]) -> tuple[Any, Any]:
    places = [place for place in (folder / "tokenizer", folder) if is_tokenizer(place)]
    second = folder / "tokenizer_2"
    if is_tokenizer(second):
        return load(str(places[0])), load(str(second))
    return load(str(places[0])), load(str(places[0]), pad_token=PAD_TOKENS[1])
