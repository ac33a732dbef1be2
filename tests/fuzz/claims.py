"""The fuzzers' reader of claims: any bytes may stand in one, and what is believed of it is bounded and plain."""

from __future__ import annotations

import json

from inpaint_ops.inbox import claimant_of, claimed_run
from inpaint_ops.layout import check_run_name


def claim(data: bytes) -> None:
    """A claim in the store."""
    claimant, run = claimant_of(data), claimed_run(data)
    assert claimant is None or len(claimant) <= 1000
    if run is not None:
        assert check_run_name(run) == run
    if claimant is not None:
        again = json.dumps({"claimant": claimant, "run": run}).encode()
        assert (claimant_of(again), claimed_run(again)) == (claimant, run), "what is read is what was written"


def corpus() -> dict[str, bytes]:
    """Claims whole, old, damaged and forged."""
    whole = {"schema_version": 1, "manifest": "s3://b/inbox/n.jsonl", "etag": "e", "run": "n-0", "claimant": "me"}
    return {
        "whole": json.dumps(whole | {"claimed_at": "2026-01-02T03:04:05+00:00"}).encode(),
        "short": json.dumps(whole).encode()[:-1],
        "empty": b"",
        "climbs": json.dumps(whole | {"run": "../x"}).encode(),
        "types": json.dumps({"run": 7, "claimant": ["me"]}).encode(),
        "long": json.dumps({"run": "x" * 151, "claimant": "x" * 800}).encode(),
        "deep": b'{"claimant":' + b"[" * 200,
        "odd": b'{"claimant": "\\ud800", "run": "a..b", "run": "a"}',
    }
