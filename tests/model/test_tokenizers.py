"""Where the tokenizers of a model in one file are found, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights, tokenizers
from inpaint_ops.model.tokenizing import make, write_vocabulary


def test_tokenizers_are_found_in_the_cache_in_a_package_or_in_a_folder_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr(tokenizers, "PACKAGES", ("a_package_with_a_vocabulary",))
    with pytest.raises(ModelError, match=r"models pull.*open_clip_torch.*--tokenizer"):
        tokenizers.find(tokenizers.CLIP_TOKENS, None, hub)
    package = tmp_path / "site" / "a_package_with_a_vocabulary"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is never imported')")
    (package / tokenizers.VOCABULARY).write_bytes(packed_merges())
    monkeypatch.syspath_prepend(str(package.parent))
    found = tokenizers.find(tokenizers.CLIP_TOKENS, None, hub)
    assert found.place == package / tokenizers.VOCABULARY
    first, second = make(found, tokenizers.CLIP_TOKENS)
    assert len(first) == tokenizers.CLIP_TOKENS and first("ab").input_ids == [49406, 512, 49407]
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0) and first.model_max_length == 77
    with pytest.raises(ModelError, match="49,408 tokens, the text encoders know 514"):
        make(found, 514)

    folder = hub / "models--owner--some" / "snapshots" / "abc" / "tokenizer"
    folder.mkdir(parents=True)
    write_vocabulary(package / tokenizers.VOCABULARY, folder)
    found = tokenizers.find(tokenizers.CLIP_TOKENS, None, hub)
    assert found.place == folder.parent
    first.save_pretrained(str(hub / "models--a--new" / "snapshots" / "abc" / "tokenizer"))
    assert not (hub / "models--a--new/snapshots/abc/tokenizer/vocab.json").exists(), "transformers 5 writes one file"
    newer = tokenizers.find(tokenizers.CLIP_TOKENS, None, hub)
    assert newer.place == hub / "models--a--new/snapshots/abc"
    assert make(newer, tokenizers.CLIP_TOKENS)[0]("ab").input_ids == [49406, 512, 49407]
    first, second = make(found, tokenizers.CLIP_TOKENS)
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)
    assert tokenizers.find(tokenizers.CLIP_TOKENS, folder, tmp_path / "empty").place == folder
    with pytest.raises(ModelError, match="there is no tokenizer"):
        tokenizers.find(tokenizers.CLIP_TOKENS, tmp_path, hub)
    with pytest.raises(ModelError, match="1,000 tokens"):
        tokenizers.find(1000, None, hub)


def packed_merges() -> bytes:
    """A file in the form of OpenAI's, with as many merges, all of them made up but the first."""
    characters = random_weights.byte_characters()
    merges = [("a", "b</w>"), *[(one, two) for one in characters for two in characters][: 49_408 - 512 - 2 - 1]]
    return gzip.compress("\n".join(["version", *map(" ".join, merges)]).encode())


@pytest.mark.parametrize(
    "packed",
    [b"not gzip", gzip.compress(b"version\na b\n"), gzip.compress(b"\xff\xfe")],
    ids=["not gzip", "too few", "not UTF-8"],
)
def test_a_vocabulary_that_is_not_clips_is_refused(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / tokenizers.VOCABULARY).write_bytes(packed)
    with pytest.raises(ModelError, match="cannot be read"):
        make(tokenizers.Tokenizers("vocabulary", tmp_path / tokenizers.VOCABULARY), tokenizers.CLIP_TOKENS)
