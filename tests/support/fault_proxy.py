"""An HTTP proxy in front of a store that breaks the requests it is told to break.

The client signs for the proxy's address and the proxy passes the Host header on unchanged, so signatures hold.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from tests.support.local_server import Handler, LocalServer


class Fault(Enum):
    """What happens to a request."""

    UNAVAILABLE = "503 without asking the store"
    SLOW_DOWN = "503 SlowDown, as S3 says it"
    INTERNAL = "500 InternalError, as S3 says it"
    NOT_IMPLEMENTED = "501 NotImplemented, as stores say of what they cannot do"
    DROP = "the connection ends before the store is asked"
    LOST_REPLY = "the store does it, and the connection ends without a reply"
    TRUNCATE = "half of the body, then an orderly end"
    RESET = "half of the body, then a reset"
    STALL = "half of the body, then silence"
    TRICKLE = "the body byte by byte, with pauses, for ever"
    FLIP = "one bit of the body is another"
    DELAY = "the request waits before it is passed on"
    FLIP_SENT = "one bit of what the client sent is another"
    EXPIRED = "403 ExpiredToken, as S3 says it of a session's token"


@dataclass
class Rule:
    """Requests of `method` whose path holds `path`: the `nth` that matches and those after it, `times` in all."""

    fault: Fault
    method: str
    path: str
    nth: int
    times: int
    seconds: float
    matched: int = 0
    before: Callable[[], bool | None] | None = None
    after: Callable[[], bool | None] | None = None

    def applies(self, method: str, path: str) -> bool:
        """Count a request, and say whether it is to be broken."""
        if method != self.method or self.path not in path:
            return False
        self.matched += 1
        return self.nth <= self.matched < self.nth + self.times


@dataclass(frozen=True)
class Exchange:
    """A request that the store has answered."""

    method: str
    path: str
    status: int
    at: float


@dataclass
class FaultProxy(LocalServer):
    """A context manager; `url` is where clients go, `on` scripts a fault, `requests` is what came (method, path).

    `down` ends every connection without an answer, `latency` (seconds) delays every request, and a request signed with
    an access key in `expired` is told that its token has expired.
    """

    upstream: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0
    down: bool = False
    latency: float = 0.0
    expired: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        LocalServer.__init__(self, type("Handler", (_Handler,), {"proxy": self}))

    def on(
        self,
        fault: Fault,
        *,
        method: str = "GET",
        path: str = "",
        nth: int = 1,
        times: int = 1,
        seconds: float = 0.1,
        before: Callable[[], bool | None] | None = None,
    ) -> Rule:
        """Break the `nth` matching request from now, and the next ones up to `times`; `matched` counts them all."""
        rule = Rule(fault, method, path, nth, times, seconds, before=before)
        with self._lock:
            self._rules.append(rule)
        return rule

    def barrier(
        self,
        method: str,
        path: str,
        nth: int = 1,
        *,
        before: Callable[[], bool | None] | None = None,
        after: Callable[[], bool | None] | None = None,
    ) -> None:
        """Call `before` when the `nth` matching request from now has come and the store has not seen it, or `after`
        when the store has done it and the client does not know. The request waits for the call, and ends there and
        then if it returns False.
        """
        rule = Rule(Fault.DELAY, method, path, nth, 1, 0.0, before=before, after=after)
        with self._lock:
            self._rules.append(rule)

    def count(self, method: str, path: str = "") -> int:
        """The requests seen so far of this method, whose path holds `path`."""
        with self._lock:
            return sum(seen == method and path in where for seen, where in self.requests)

    def fault_for(self, method: str, path: str) -> Rule | None:
        with self._lock:
            self.requests.append((method, path))
            hits = [rule for rule in list(self._rules) if rule.applies(method, path)]
        return hits[0] if hits else None

    def passed(self, method: str, path: str, status: int) -> None:
        with self._lock:
            self.exchanges.append(Exchange(method, path, status, time.monotonic()))

    def opened(self) -> None:
        with self._lock:
            self.connections += 1

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        super().__exit__(*exception)


class _Handler(Handler):
    proxy: FaultProxy

    def setup(self) -> None:
        super().setup()
        self.proxy.opened()

    def _serve(self) -> None:
        rule = self.proxy.fault_for(self.command, self.path)
        fault = rule.fault if rule else None
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if rule and rule.before and rule.before() is False:
            return self._hang_up(reset=True)
        if fault is Fault.DELAY and rule:
            self.proxy.closing.wait(rule.seconds)
        if self.proxy.latency:
            self.proxy.closing.wait(self.proxy.latency)
        signed = self.headers.get("Authorization", "")
        if any(f"Credential={key}/" in signed for key in self.proxy.expired):
            fault = Fault.EXPIRED
        if self.proxy.down:
            return self._hang_up(reset=True)
        if fault is Fault.FLIP_SENT:
            body = _flipped(body)
        if fault in _REFUSALS:
            return self._reply(*_REFUSALS[fault])
        if fault is Fault.DROP:
            return self._hang_up(reset=True)
        status, headers, answer = self._ask_upstream(body)
        self.proxy.passed(self.command, self.path, status)
        if rule and rule.after and rule.after() is False:
            return self._hang_up(reset=True)
        if fault is Fault.LOST_REPLY:
            return self._hang_up(reset=False)
        if fault is Fault.FLIP:
            answer = _flipped(answer)
        if fault in (Fault.TRUNCATE, Fault.RESET, Fault.STALL):
            self._reply(status, headers, answer, send=len(answer) // 2)
            if fault is Fault.STALL:
                self.proxy.closing.wait()
            return self._hang_up(reset=fault is Fault.RESET)
        if fault is Fault.TRICKLE and rule:
            self._reply(status, headers, answer, send=0)
            with suppress(OSError):
                for byte in answer:
                    self.wfile.write(bytes([byte]))
                    if self.proxy.closing.wait(rule.seconds):
                        break
            return self._hang_up(reset=True)
        return self._reply(status, headers, answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 (http.server's names)

    def _ask_upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):  # this hop's own; neither is signed
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            reply = upstream.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            upstream.close()

    def _reply(self, status: int, headers: dict[str, str], body: bytes, *, send: int | None = None) -> None:
        """Answer with the whole body's length, and its first `send` bytes (default: all)."""
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers.items():
            if name.lower() == "content-length":
                length = value  # a HEAD's is not its body's
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        with suppress(OSError):
            self.end_headers()
            self.wfile.write(body[:send])
            self.wfile.flush()

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:  # no lingering: the kernel sends RST in place of FIN, once the reader had time for what was sent
            time.sleep(0.05)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            if not reset:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()


def _refusal(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {}, f"<Error><Code>{code}</Code></Error>".encode() if code else b""


_REFUSALS = {
    Fault.UNAVAILABLE: _refusal(503, ""),
    Fault.SLOW_DOWN: _refusal(503, "SlowDown"),
    Fault.INTERNAL: _refusal(500, "InternalError"),
    Fault.NOT_IMPLEMENTED: _refusal(501, "NotImplemented"),
    Fault.EXPIRED: _refusal(403, "ExpiredToken"),
}


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data
