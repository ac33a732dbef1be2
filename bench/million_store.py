"""The store of `bench.million`: a folder or a real S3 server of this machine, and a count of the requests to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import load_settings
from inpaint_ops.locations import Location
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """A store of that kind; what a process needs in its environment to find it."""
    if kind == "folder":
        yield {"INPAINT_STORE": str(folder / "store")}
        return
    with ObjectStoreServer(folder / "objects") as server:
        yield server.env | {"INPAINT_STORE": f"s3://{server.bucket}/bench/", _UNGUARDED: server.unguarded}


_UNGUARDED = "BENCH_UNGUARDED"


class FastPuts:
    """Small objects written as no run writes them: millions are to be there, and what writing them costs is not asked.

    Into a folder without the sync of a real put; into the bench's own S3 server past its S3 part, which is asked for
    nothing else. Threads may share it.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        if workspace.store.bucket is not None:
            self._url = urllib3.util.parse_url(os.environ[_UNGUARDED])
            self._pool = urllib3.HTTPConnectionPool(self._url.host or "", self._url.port, maxsize=64, retries=False)

    def put(self, place: Location, body: bytes) -> str:
        """Write the object; its ETag."""
        if place.bucket is None:
            Path(place.key).parent.mkdir(parents=True, exist_ok=True)
            Path(place.key).write_bytes(body)
            return self._workspace.storage.stat(place.key).etag
        reply = self._pool.request("PUT", f"{self._url.path}{quote(place.key)}", body=body, headers=_ANY_BYTES)
        if reply.status >= 300:
            raise OSError(f"{place}: {reply.status} {reply.data[:200]!r}")
        return hashlib.md5(body, usedforsecurity=False).hexdigest()


_ANY_BYTES = {"Content-Type": "application/octet-stream"}


@dataclass
class Counted:
    """A workspace, and the HTTP requests to its store so far; None in a folder, which has none."""

    workspace: Workspace = field(init=False)
    requests: int | None = None

    @classmethod
    def open(cls, readable: Sequence[str]) -> Counted:
        """The workspace that the environment names."""
        counted = cls()
        counted.workspace = Workspace.open(load_settings(), also_readable=readable, s3_client=counted._client)
        if os.environ["INPAINT_STORE"].startswith("s3://"):
            counted.requests = 0
        return counted

    def _client(self) -> Any:
        client = make_s3_client()
        client.meta.events.register("before-send.s3", self._count)
        return client

    def _count(self, **_: object) -> None:
        self.requests = (self.requests or 0) + 1
