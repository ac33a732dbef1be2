"""What Airflow loads of the plugin by itself: nearly nothing, and one file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_plugin_imports_next_to_nothing_and_builds_nothing(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = [{str(REPOSITORY)!r}]
import airflow.plugins_manager
before = set(sys.modules)
from inpaint_ops_airflow.plugin import InpaintPlugin
new = set(sys.modules) - before
print(sorted(name for name in new if name.partition(".")[0] in
    ("torch", "numpy", "pyarrow", "boto3", "cv2", "PIL", "fastapi", "jinja2", "inpaint_ops", "inpaint_ops_airflow.ui")))
views = InpaintPlugin.external_views
print([view["href"] for view in views])
"""
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__API__BASE_URL": "https://host/airflow/"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    heavy, links = done.stdout.splitlines()[-2:]
    assert heavy == "[]"
    assert links.count("'/airflow/inpaint/") == 3


def test_airflow_scans_one_file_of_the_plugins_folder() -> None:
    from airflow._shared.module_loading import find_path_from_directory

    found = [
        Path(path).name for path in find_path_from_directory(str(REPOSITORY / "plugins"), ".airflowignore", "glob")
    ]
    assert [name for name in found if name.endswith(".py")] == ["inpaint_ops_plugin.py"]
