"""Variables and folders that belong to one test process alone, so that no test meets another program's state.

Leases, scratch, model and compile caches, credentials and Airflow's files are all found by an environment variable, by
the temporary folder or by the home folder. All of these are replaced before the first test module is imported.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

FOREIGN = (
    "AIRFLOW_", "AWS_", "HF_", "HUGGINGFACE_", "INPAINT_", "TORCHINDUCTOR_", "TRANSFORMERS_", "TRITON_", "XDG_",
)  # fmt: skip
"""Whoever starts the tests may have these set for another purpose; no test reads them."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
BROWSERS = "PLAYWRIGHT_BROWSERS_PATH"


def isolate(environment: MutableMapping[str, str]) -> Path:
    """Point `environment` (and the module `tempfile`) into a new folder and return it.

    A process that shares the tests inherits the folder of the one that started it, and makes its own inside it.
    """
    shared = Path(tempfile.gettempdir())
    browsers = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ms-playwright"
    environment.setdefault(BROWSERS, str(browsers))
    # Hundreds of processes would each compile the package anew: a fifth of the processor time of a short command.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in list(environment):
        if name.startswith(FOREIGN) or name.lower() in PROXIES or name == "USE_XFORMERS":
            del environment[name]
    # pytest's own folder stays outside: it keeps those of the last three sessions for whoever looks into a failure.
    environment.setdefault("PYTEST_DEBUG_TEMPROOT", str(shared))
    folder = Path(tempfile.mkdtemp(prefix="inpaint-tests-", dir=shared))
    folder.chmod(0o711)  # started by root, PostgreSQL runs as nobody and has its folder in here
    for name in ("tmp", "home", "hub", "cache"):
        (folder / name).mkdir()
    environment |= {
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",  # planning would ask the hub for a model that is not in the cache
        "XDG_CACHE_HOME": str(folder / "cache"),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AWS_EC2_METADATA_DISABLED": "true",  # without credentials the SDK would ask the network for some
        "OMP_NUM_THREADS": "1",  # tests share the processors already, and threads that wait for each other spin
    }
    tempfile.tempdir = None  # looked up anew
    return folder


def forget(folder: Path) -> None:
    """Remove what `isolate` made."""
    shutil.rmtree(folder, ignore_errors=True)
