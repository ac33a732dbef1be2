"""A program in a new interpreter, with an Airflow home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_python(folder: Path, program: str, **settings: str) -> str:
    """What it prints; it must succeed. `settings` are further variables."""
    environment = os.environ | {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"} | settings
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
