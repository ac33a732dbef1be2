"""What is fuzzed, and what each reader promises: an AssertionError is a promise broken, any other exception a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import claims, manifests, messages, pictures, stored

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Target:
    """One reader under fire: what to call with the bytes, and how many of them at most."""

    run: Callable[[bytes], None]
    longest: int = 4096


TARGETS: dict[str, Target] = {
    "jsonl": Target(manifests.jsonl),
    "csv": Target(manifests.csv_manifest),
    "parquet": Target(manifests.parquet_manifest, 16_384),
    "prompts": Target(manifests.prompts, 1024),
    "keys": Target(manifests.keys, 256),
    "source": Target(pictures.source, 8192),
    "mask": Target(pictures.mask, 8192),
    "pictures": Target(pictures.pictures, 8192),
    "placing": Target(pictures.placing, 256),
    "commands": Target(messages.commands),
    "events": Target(messages.events),
    "claim": Target(claims.claim, 1024),
    "plan": Target(stored.plan),
    "record": Target(stored.record),
    "progress": Target(stored.progress, 1024),
    "notes": Target(stored.notes, 8192),
    "timings": Target(stored.timings, 16_384),
}
