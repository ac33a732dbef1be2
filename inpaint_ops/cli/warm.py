"""`inpaint-ops warm-host`: become the warm host, in the environment that its workers would have."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.supervisor.confinement import identity, worker_environment
from inpaint_ops.worker.fork_request import ONE_THREAD


def become_warm_host(settings: Settings) -> NoReturn:
    """Exec the warm host, with a worker's environment and nothing else of this process's. Raises ConfigError."""
    if not settings.warm_host:
        raise ConfigError("name the socket: inpaint-ops warm-host --socket PATH, or INPAINT_WARM_HOST")
    who = identity(settings.worker_user)
    environment = worker_environment(os.environ, settings.worker_env)
    if who is not None:
        environment |= who.environment(Path.home(), os.environ)
    command = [sys.executable, "-m", "inpaint_ops.worker.warm_host", settings.warm_host]
    os.execve(command[0], command, environment | ONE_THREAD)  # noqa: S606  # the command is our own
