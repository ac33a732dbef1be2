"""Manifests for tests: a good row, files of rows, and the product's reader of them."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inpaint_ops.locations import parse
from inpaint_ops.manifest import ParsedManifest, read_manifest

GOOD = {"image": "photos/a.png", "mask": "masks/a.png", "prompt": "a cup"}


def read(data: bytes | list[Any], name: str = "m.jsonl", **options: Any) -> ParsedManifest:
    if isinstance(data, list):
        data = "".join(json.dumps(row) + "\n" for row in data).encode()
    return read_manifest(
        data, location=parse(f"s3://bucket/inbox/{name}"), is_allowed=lambda place: place.bucket == "bucket", **options
    )


def only_rejection(parsed: ParsedManifest) -> str:
    assert len(parsed.accepted) == 1, "the good row goes on"
    assert len(parsed.rejected) == 1
    return parsed.rejected[0].error.message


def parquet(rows: list[dict[str, Any]] | pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()
