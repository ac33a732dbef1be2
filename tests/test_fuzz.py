"""The fuzzer's corpus is replayed, every target is fuzzed for a bounded number of inputs, and the oracles can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz import claims, make_corpus, targets
from tests.fuzz.targets import CORPUS, TARGETS

RUNS = {
    "parquet": 50, "timings": 50, "record": 200, "notes": 200, "placing": 200, "source": 1000, "mask": 500,
    "pictures": 500,
}  # fmt: skip
"""Inputs a target, where a thousand take more than a few seconds; 1000 for the others."""


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_keeps_the_promises(target: str) -> None:
    files = sorted((CORPUS / target).iterdir())
    assert files, "a corpus is there"
    for file in files:
        try:
            TARGETS[target].run(file.read_bytes())
        except Exception as error:
            raise AssertionError(f"{file.name}: {error!r}") from error


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", target, "--runs", str(RUNS.get(target, 1000))]
    folders = ["--keep", str(tmp_path / "keep"), "--artifacts", str(tmp_path)]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, errors="replace", timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"stat::number_of_executed_units: {RUNS.get(target, 1000)}" in done.stderr


def test_the_corpus_is_small_and_of_our_own_making() -> None:
    made = make_corpus.files()
    assert made.keys() == TARGETS.keys()
    for target, files in made.items():
        there = {file.name: file.stat().st_size for file in (CORPUS / target).iterdir()}
        assert {name for name in there if not name.startswith("found-")} == files.keys()
        assert max(there.values()) <= TARGETS[target].longest <= 16_384


def _one_row_less(read: Callable[..., Any]) -> Callable[..., Any]:
    def lossy(*arguments: Any, **options: Any) -> Any:
        parsed = read(*arguments, **options)
        return replace(parsed, accepted=parsed.accepted[1:])

    return lossy


def _one_pixel_more(composite: Callable[..., Any]) -> Callable[..., Any]:
    def smeared(source: Any, mask: Any, *rest: Any) -> Any:
        out = composite(source, mask, *rest)
        out[np.nonzero(mask == 0)[0][:1], np.nonzero(mask == 0)[1][:1]] ^= 1
        return out

    return smeared


@pytest.mark.parametrize(
    ("target", "file", "name", "broken"),
    [
        ("jsonl", "one", "read_manifest", _one_row_less),
        ("csv", "one", "read_manifest", _one_row_less),
        ("parquet", "one", "read_manifest", _one_row_less),
        ("placing", "plain", "composite", _one_pixel_more),
        ("source", "png-8-3", "_size_in_header", lambda _: lambda _: (1, 1)),
        ("source", "png-8-3", "encode", lambda encode: lambda pixels, **options: encode(pixels[::-1], **options)),
        ("mask", "plain", "decode_mask", lambda decode: lambda *a, **o: decode(*a, **o | {"size": (10, 12)})),
        ("pictures", "png-8-3", "make_preview", lambda make: lambda job, files: make(replace(job, longest=3), files)),
        ("commands", "whole", "parse_command", lambda parse: lambda line: parse(line.replace(b"7", b"8"))),
        ("events", "done", "dump", lambda dump: lambda event: dump(event) + "\n"),
        ("keys", "00", "parse", lambda parse: lambda text: parse(text + "x")),
        ("prompts", "one", "read_prompts", lambda read: lambda *a, **o: {"": "x"}),
    ],
)
def test_an_oracle_notices_a_broken_promise(
    target: str, file: str, name: str, broken: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, name, broken(getattr(targets, name)))
    with pytest.raises((AssertionError, TypeError, AttributeError)):
        TARGETS[target].run((CORPUS / target / file).read_bytes())


@pytest.mark.parametrize(
    ("name", "broken"),
    [("claimant_of", lambda body: "x" * 2000), ("claimed_run", lambda body: "n-0" if b"manifest" in body else None)],
)
def test_the_oracle_of_claims_notices_too(name: str, broken: Callable[[bytes], Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(claims, name, broken)
    with pytest.raises(AssertionError):
        TARGETS["claim"].run((CORPUS / "claim" / "whole").read_bytes())
