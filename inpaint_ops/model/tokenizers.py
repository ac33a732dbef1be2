"""The tokenizers of a model in one file, which holds none: where on this machine CLIP's vocabulary is. No torch.

All SDXL models have CLIP's vocabulary of 49,408 tokens. It is 1.5 MB, and not a part of this package.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.errors import ModelError
from inpaint_ops.model.cache import repositories, repository, snapshots

CLIP_TOKENS = 49_408
"""Of CLIP's vocabulary."""

OWN_TOKENS = 514
"""Of the vocabulary of this package's own models: bytes."""

PAD_TOKENS = ("<|endoftext|>", "!")
"""What SDXL's two tokenizers fill a chunk with (tokenizer_config.json of both)."""

PACKAGES = ("open_clip", "clip")
"""Python packages whose wheels carry the vocabulary: open_clip_torch and clip-anytorch, both of the MIT licence. Only
the file is read; the package is never imported, and needs none of its requirements."""

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """Where both tokenizers come from: `kind` is bytes, folder or vocabulary; `place` is None for bytes."""

    kind: str
    place: Path | None

    def __str__(self) -> str:
        return str(self.place or "bytes, as in this package's own models")


def find(tokens: int, given: Path | None, hub: Path) -> Tokenizers:
    """Tokenizers for text encoders that know `tokens` tokens.

    Looked for in `given`, a folder of the user's; then in the models of the cache `hub`; then in the packages of
    PACKAGES. Raises ModelError that says how to get them.
    """
    if given is not None:
        if not any(is_tokenizer(place) for place in (given, given / "tokenizer")):
            raise ModelError(
                f"the tokenizer {given}: there is no tokenizer (vocab.json with merges.txt, or tokenizer.json), nor a "
                "folder `tokenizer` with one; give the folder of an SDXL model, or of its tokenizer"
            )
        return Tokenizers("folder", given)
    if tokens == OWN_TOKENS:
        return Tokenizers("bytes", None)
    if tokens != CLIP_TOKENS:
        raise ModelError(
            f"the text encoders know {tokens:,} tokens, CLIP has {CLIP_TOKENS:,}: name the model's own tokenizer's "
            "folder with --tokenizer"
        )
    for folder in _cached(hub):
        if is_tokenizer(folder / "tokenizer", CLIP_TOKENS):
            return Tokenizers("folder", folder)
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            if (Path(place) / VOCABULARY).is_file():
                return Tokenizers("vocabulary", Path(place) / VOCABULARY)
    raise ModelError(
        "a model in one file has no tokenizer, and CLIP's vocabulary is not on this machine: fetch any SDXL model "
        "(`inpaint-ops models pull`), or `pip install --no-deps open_clip_torch`, whose wheel carries it, or name an "
        "SDXL model's folder with --tokenizer"
    )


def _cached(hub: Path) -> Iterator[Path]:
    """Snapshots of the cache, the default model's first."""
    for model in (repository(hub, DEFAULT_MODEL), *repositories(hub)):
        yield from snapshots(model)


def is_tokenizer(folder: Path, tokens: int | None = None) -> bool:
    """Whether `folder` holds a tokenizer, of `tokens` tokens where given: vocab.json and merges.txt as they are
    published, or the one file tokenizer.json that transformers 5 writes.
    """
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary, keys = folder / "vocab.json", tuple[str, ...]()
    elif (folder / "tokenizer.json").is_file():
        vocabulary, keys = folder / "tokenizer.json", ("model", "vocab")
    else:
        return False
    if tokens is None:
        return True
    try:
        if vocabulary.stat().st_size > MAX_BYTES:
            return False
        found = json.loads(vocabulary.read_bytes())
        for key in keys:
            found = found[key]
        return len(found) == tokens
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return False
