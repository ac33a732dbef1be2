"""The fuzzer's corpus is replayed, every target is fuzzed for a bounded number of inputs, and the oracles can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.fuzz import claims, make_corpus
from tests.fuzz.targets import CORPUS, TARGETS

RUNS = {
    "parquet": 50, "timings": 50, "record": 100, "notes": 100, "placing": 100, "source": 400, "mask": 200,
    "pictures": 200,
}  # fmt: skip
"""Inputs for a target, where 400 take more than two seconds; 400 for the others. `make fuzz` gives each ten minutes."""


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_keeps_the_promises(target: str) -> None:
    files = sorted((CORPUS / target).iterdir())
    assert files, "a corpus is there"
    for file in files:
        try:
            TARGETS[target].run(file.read_bytes())
        except Exception as error:
            raise AssertionError(f"{file.name}: {error!r}") from error


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the fuzzer printed about each target, all fuzzed by one command."""
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    folder = tmp_path_factory.mktemp("fuzz")
    runs = ",".join(str(RUNS.get(target, 400)) for target in TARGETS)
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", *TARGETS, "--runs", runs]
    folders = ["--keep", str(folder / "keep"), "--artifacts", str(folder)]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, errors="replace", timeout=1100)
    printed = {}
    for target in TARGETS:
        begin, end = done.stderr.find(f"fuzzing {target}\n"), done.stderr.find(f"fuzzing {target} ended with")
        printed[target] = (
            done.stderr[begin:].partition("\n")[2] if end < 0 else done.stderr[begin : done.stderr.find("\n", end) + 1]
        )
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str, fuzzed: dict[str, str]) -> None:
    assert f"fuzzing {target} ended with 0\n" in fuzzed[target], fuzzed[target][-4000:]
    assert f"stat::number_of_executed_units: {RUNS.get(target, 400)}" in fuzzed[target]


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
    readers = sys.modules[TARGETS[target].run.__module__]
    monkeypatch.setattr(readers, name, broken(getattr(readers, name)))
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
