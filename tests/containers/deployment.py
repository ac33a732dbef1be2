"""The project's compose file at work in the engine: a copy of the working tree, its `.env`, and what tests ask."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.containers.engine import CommandError, Engine

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "/shared/project"
PATIENCE = 900
"""Seconds that a condition may take on a busy machine."""


class Deployment:
    """The services of docker-compose.yaml, unmodified, from a copy that its owner alone may read (umask 077)."""

    def __init__(self, engine: Engine, profile: str | None, settings: Mapping[str, str]) -> None:
        self.engine = engine
        self.profile = profile
        self.copy = engine.shared / "project"
        shutil.rmtree(self.copy, ignore_errors=True)
        self._copy_working_tree()
        subprocess.run([sys.executable, self.copy / "docker/make-env"], check=True, capture_output=True)
        with (self.copy / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
        lines = (self.copy / ".env").read_text().splitlines()
        self.secrets = dict(line.split("=", 1) for line in lines)
        self._token = ""

    def _copy_working_tree(self) -> None:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout.split("\0")
        before = os.umask(0o077)
        try:
            for name in filter(None, names):
                source, target = REPOSITORY / name, self.copy / name
                if source.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(source.read_bytes())
                    target.chmod(0o700 if os.access(source, os.X_OK) else 0o600)
        finally:
            os.umask(before)

    def compose(
        self,
        *command: str,
        profile: str | None = None,
        files: tuple[str, ...] = (),
        environment: Mapping[str, str] = {},
    ) -> str:
        """Run `docker compose`; returns what it prints. Raises CommandError."""
        return self.engine.run(*self._compose(*command, profile=profile, files=files), environment=environment)

    def _compose(self, *command: str, profile: str | None = None, files: tuple[str, ...] = ()) -> list[str]:
        chosen = profile or self.profile
        named = [part for file in ("docker-compose.yaml", *files) for part in ("-f", f"{FOLDER}/{file}")]
        profiles = ["--profile", chosen] if chosen else []
        return ["docker", "compose", "--project-directory", FOLDER, *named, *profiles, *command]

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each container, by its service."""
        ids = self.compose("ps", "--all", "--quiet").split()
        known = json.loads(self.engine.run("docker", "inspect", *ids)) if ids else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in known}

    def wait_until_healthy(self) -> dict[str, float]:
        """Wait until each service but init is healthy, and init has done its work; returns after how many seconds each
        was. Raises CommandError with the ends of the logs."""
        began, seen = time.monotonic(), dict[str, float]()

        def everything() -> bool:
            states = {name: one["State"] for name, one in self.containers().items()}
            for name, state in states.items():
                good = state["Running"] and state.get("Health", {}).get("Status", "healthy") == "healthy"
                if good or (name == "init" and state["Status"] == "exited" and state["ExitCode"] == 0):
                    seen.setdefault(name, round(time.monotonic() - began, 1))
                else:
                    seen.pop(name, None)
            return bool(states) and states.keys() == seen.keys()

        try:
            wait(everything, "every service to be healthy", pause=2)
        except CommandError as error:
            raise CommandError(f"{error}; healthy: {seen}\n{self.compose('logs', '--tail', '30')[-12000:]}") from None
        return seen

    def inside(self, service: str, *command: str) -> str:
        """Run a command in a service's container; returns what it prints. Raises CommandError."""
        return self.compose("exec", "-T", service, *command)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask Airflow's REST API by the port that compose publishes, as the user admin."""
        if not self._token:
            login = {"username": "admin", "password": self.secrets["ADMIN_PASSWORD"]}
            self._token = self._curl("POST", "/auth/token", login)["access_token"]
        return self._curl(method, f"/api/v2{path}", body, self._token)

    def _curl(self, method: str, path: str, body: object, token: str = "") -> Any:
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--retry", "5", "-X", method]
        command += ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {token}"]
        data = json.dumps(body).encode() if body is not None else None
        command += ["--data-binary", "@-"] if data is not None else []
        return json.loads(self.engine.output(*command, f"http://127.0.0.1:8080{path}", data=data) or "null")

    def put(self, files: Mapping[str, bytes]) -> str:
        """Files into the inbox, as docs/deploy.md says; returns what the service reports."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, body in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        return self.engine.run(*self._compose("run", "--rm", "-T", "transfer", "put"), data=archive.getvalue())

    def get(self, prefix: str) -> dict[str, bytes]:
        """Everything below a prefix of the store, as docs/deploy.md says; empty if there is nothing."""
        with contextlib.suppress(CommandError):
            body = self.engine.output(*self._compose("run", "--rm", "-T", "transfer", "get", prefix))
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
        return {}


def wait(is_so: Callable[[], object], what: str, pause: float = 1) -> None:
    """Wait for a condition. Raises CommandError after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise CommandError(f"waited {PATIENCE} s for {what}")
        time.sleep(pause)
