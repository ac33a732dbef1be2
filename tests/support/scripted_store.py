"""A small S3 server in memory that answers as a test scripts it: for what no real server can be brought to do.

It checks no signature. Use the real server (`object_store`) for everything that it can show.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

import boto3

from demo.object_store import sdk_environment
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.local_server import Handler, LocalServer

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

BUCKET = "scripted"
_SESSION = boto3.session.Session("scripted", "scripted", region_name="us-east-1")
"""One for all: it keeps botocore's descriptions of S3, which take half a second to read."""


@dataclass
class Reply:
    """What the server answers; a Content-Length is added unless the body is sent in chunks."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False


@dataclass(frozen=True)
class Request:
    """What was asked; `key` is empty for the bucket, `headers` have lower-case names."""

    method: str
    bucket: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


def refusal(status: int, code: str, message: str = "", **headers: str) -> Reply:
    """An error in S3's XML."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Reply(status, body, {"Content-Type": "application/xml", **headers})


def md5_etag(data: bytes) -> str:
    """As Amazon S3 makes the ETag of a plain object."""
    return f'"{hashlib.md5(data).hexdigest()}"'


@dataclass
class ScriptedStore(LocalServer):
    """A context manager; `objects` by key (of any bucket), `headers` of each, `script` answers before the rules do."""

    objects: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    script: Callable[[Request], Reply | None] = lambda _: None
    etag: Callable[[bytes], str] = md5_etag
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        LocalServer.__init__(self, type("Handler", (_Handler,), {"store": self}))

    @property
    def env(self) -> dict[str, str]:
        """What the AWS SDK reads to find this store."""
        return sdk_environment(self.url, "scripted", "scripted")

    def client(self, **options: object) -> S3Client:
        """The product's client of this store, which tries once; without options always the same one."""
        if options or self._client is None:
            client = make_s3_client(_SESSION, endpoint_url=self.url, **{"attempts": 1, **options})  # type: ignore[arg-type]
            if options:
                return client
            self._client = client
        return self._client

    def storage(self, bucket: str = BUCKET, **options: object) -> Storage:
        """The product's storage, which may write in the whole bucket."""
        return Storage(
            writable=[f"s3://{bucket}/"],
            s3_client=self.client,
            **{"attempts": 3, "backoff": 0.001, **options},  # type: ignore[arg-type]
        )

    def count(self, method: str, key: str = "") -> int:
        return sum(one.method == method and key in one.key for one in self.requests)

    def answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            scripted = self.script(request)
            if scripted is not None:
                return scripted
            return self._list(request) if not request.key else self._object(request)

    def _object(self, request: Request) -> Reply:
        key = request.key
        if request.method == "PUT":
            if request.headers.get("if-none-match") == "*" and key in self.objects:
                return refusal(412, "PreconditionFailed")
            self.objects[key] = request.body
            return Reply(headers={"ETag": self.etag(request.body)})
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return Reply(204)
        if key not in self.objects:
            return refusal(404, "NoSuchKey", "The specified key does not exist.")
        return self.described(key)

    def described(self, key: str) -> Reply:
        """The reply to a GET of the whole object."""
        body = self.objects[key]
        headers = {"ETag": self.etag(body), "Last-Modified": formatdate(usegmt=True), "Content-Type": "image/png"}
        return Reply(200, body, headers | self.headers.get(key, {}))

    def _list(self, request: Request) -> Reply:
        prefix = request.query.get("prefix", [""])[0]
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(body)}</Size><ETag>{self.etag(body)}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, body in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        body = (
            f"<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>{entries}"
            "</ListBucketResult>"
        )
        return Reply(200, body.encode(), {"Content-Type": "application/xml"})


class _Handler(Handler):
    store: ScriptedStore

    def _serve(self) -> None:
        path = urlsplit(self.path)
        bucket, _, key = path.path.lstrip("/").partition("/")
        reply = self.store.answer(
            Request(
                self.command,
                unquote(bucket),
                unquote(key),
                parse_qs(path.query, keep_blank_values=True),
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(int(self.headers.get("Content-Length") or 0)),
            )
        )
        self.send_response_only(reply.status)
        if "Date" not in reply.headers:
            self.send_header("Date", formatdate(usegmt=True))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header(
            *(("Transfer-Encoding", "chunked") if reply.chunked else ("Content-Length", str(len(reply.body))))
        )
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.chunked:
            for part in (reply.body[:1000], reply.body[1000:]):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n" if reply.body[1000:] else b"")
            return
        self.wfile.write(reply.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 (http.server's names)
