"""Fetch one large file of a hub repository into the hub's own cache, going on where an earlier try stopped.

`huggingface_hub` 2.4 starts a file again in each process (its `_download_to_tmp_and_move` takes a new temporary name),
so a break at the last of 5 GB costs all of them. Here the part that came lies beside the blobs under the blob's own
name, and the whole file is moved to where the hub's client looks for it. Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from inpaint_ops.errors import ModelError
from inpaint_ops.model import cache
from inpaint_ops.model.digests import sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_blob(model: str, revision: str, name: str, hub: Path) -> int:
    """Bring the file `name` at the commit `revision` into the cache `hub`; the bytes that had to be fetched.

    Call it under the model's lock: two processes must not write to one part. Raises ModelError where the file is not
    the one that its hash names, and whatever the hub's HTTP library raises.
    """
    url = hf_hub_url(model, name, revision=revision)
    headers = build_hf_headers()
    about = get_hf_file_metadata(url, headers=headers)
    if about.etag is None or about.size is None:
        return 0  # nothing to go by: the hub's client fetches it its own way
    blobs = cache.blobs(hub, model)
    blob = blobs / about.etag
    if blob.exists():
        return 0
    blobs.mkdir(parents=True, exist_ok=True)
    part = blobs / f"{about.etag}.inpaint_ops-part"
    part.touch()
    there = part.stat().st_size
    if there > about.size:
        part.write_bytes(b"")
        there = 0
    if urlsplit(about.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a presigned address elsewhere: the token is the hub's alone
    with part.open("r+b") as opened:
        opened.seek(there)
        http_get(
            about.location,
            opened,
            resume_size=there,
            headers=headers,
            expected_size=about.size,
            displayed_filename=name,
        )
    if _SHA256.fullmatch(about.etag) and sha256(part) != about.etag:
        part.unlink()
        raise ModelError(f"{model}: {name} came damaged (its SHA-256 is another): fetch it again")
    part.rename(blob)
    return int(about.size) - there


def part_bytes(model: str, hub: Path) -> int:
    """Bytes of files that an earlier try has begun."""
    return sum(path.stat().st_size for path in cache.blobs(hub, model).glob("*.inpaint_ops-part"))
