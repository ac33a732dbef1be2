"""A real webhook: an HTTP server on this machine that keeps what it is sent, or answers with an error."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

SECRET = "services-T0-B0-9f8e7d6c5b4a39281706"
"""A part of the address, as services give it to those who may send."""


class Webhook:
    """Use as a context manager; `received` holds the bodies in the order in which they came."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.refused: list[str] = []
        """Names of runs that are answered with status 500."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_refused = any(name in json.dumps(body) for name in outer.refused)
                outer.received.append(body | {"path": self.path})
                self.send_response(500 if is_refused else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Its address, secret included."""
        return f"http://127.0.0.1:{self._server.server_port}/{SECRET}"

    def of(self, run: str) -> list[dict[str, Any]]:
        """What came about a run."""
        return [one for one in self.received if one.get("run") == run or f"Inpainting {run}:" in str(one.get("text"))]

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
