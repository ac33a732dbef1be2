"""The store of `bench.million`: a folder or a real S3 server of this machine, and a count of the requests to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import load_settings
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import make_s3_client


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """A store of that kind; what a process needs in its environment to find it."""
    if kind == "folder":
        yield {"INPAINT_STORE": str(folder / "store")}
        return
    with ObjectStoreServer(folder / "objects") as server:
        yield server.env | {"INPAINT_STORE": f"s3://{server.bucket}/bench/"}


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
