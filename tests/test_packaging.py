"""The wheel is all that a user needs: with its dependencies it brings the commands, the data and the pages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("inpaint_ops", "inpaint_ops_airflow")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Clean:
    """A copy of the sources, the wheel made of them, and an environment with nothing of ours but that wheel."""

    sources: Path
    wheel: Path
    dependencies: Path
    venv: Path
    home: Path

    def run(self, *command: str | Path, **settings: str) -> str:
        kept = {
            name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "INPAINT", "AIRFLOW"))
        }
        settings = {"AIRFLOW_HOME": str(self.home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **settings}
        done = subprocess.run(
            command, env=kept | settings, cwd=self.home, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def python(self, program: str, **settings: str) -> str:
        return self.run(self.venv / "bin/python", "-c", program, **settings).strip().splitlines()[-1]


def run(command: Sequence[str | Path], **options: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    home = tmp_path_factory.mktemp("packaging")
    sources, venv, dependencies = home / "sources", home / "venv", home / "dependencies"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", home / "dist"], cwd=sources)
    (wheel,) = (home / "dist").glob("*.whl")

    # What is installed here, less this project, which is installed here too, as an editable one.
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "inpaint_ops" not in entry.name and entry.suffix != ".pth":
            (dependencies / entry.name).symlink_to(entry)
    run([sys.executable, "-m", "venv", "--without-pip", venv])
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    run([sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "--no-index", wheel], cwd=home)
    return Clean(sources, wheel, dependencies, venv, home)


def test_the_wheel_holds_every_file_of_the_packages(clean: Clean) -> None:
    with zipfile.ZipFile(clean.wheel) as archive:
        held = {name for name in archive.namelist() if name.partition("/")[0] in PACKAGES}
    there = {
        str(path.relative_to(REPOSITORY))
        for name in PACKAGES
        for path in (REPOSITORY / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == there
    for kind in (".py", ".js", ".css", ".j2", ".json", ".typed"):
        assert any(name.endswith(kind) for name in held), kind


def test_the_command_works_where_the_wheel_is_installed(clean: Clean) -> None:
    text = clean.run(clean.venv / "bin/inpaint-ops", "--help")
    for command in ("run", "doctor", "models"):
        assert f"\n  {command}" in text, command


READ = """
import json, inpaint_ops, inpaint_ops_airflow
from inpaint_ops_airflow.ui.app import create_app
from inpaint_ops_airflow.ui.rendering import _environment, asset
from inpaint_ops.runs.forecasting import benchmark_table
print(json.dumps({
    "where": [inpaint_ops.__file__, inpaint_ops_airflow.__file__],
    "assets": [asset(name) is not None for name in ("ui.css", "report.css", "main.js", "chart.js")],
    "templates": _environment().list_templates(), "routes": len(create_app().routes),
    "estimates": bool(benchmark_table().model_dump()),
}))
"""


def test_the_pages_and_the_figures_are_read_out_of_the_installed_package(clean: Clean) -> None:
    found = json.loads(clean.python(READ))
    assert all(path.startswith(str(clean.venv)) for path in found["where"])
    assert found["assets"] == [True] * 4
    assert {"run.html.j2", "runs.html.j2", "problem.html.j2", "sections/failures.html.j2"} <= set(found["templates"])
    assert found["routes"] >= 17
    assert found["estimates"]


PLUGINS = """
import json
from airflow.plugins_manager import _get_plugins, _get_ui_plugins, get_fastapi_plugins
plugins, errors = _get_plugins()
ours = [plugin for plugin in plugins if type(plugin).__name__ == "InpaintPlugin"]
print(json.dumps({
    "sources": [str(plugin.source) for plugin in ours], "errors": errors,
    "apps": [app["url_prefix"] for app in get_fastapi_plugins()[0] if app["name"] == "Inpainting"],
    "views": [view["url_route"] for view in _get_ui_plugins()[0] if view["name"] == "Inpainting"],
}))
"""
VIEWS = ["inpainting", "inpainting-run", "inpainting-shard"]
BY_ENTRY_POINT = "inpaint_ops_airflow.plugin:InpaintPlugin"


def test_airflow_finds_the_pages_by_the_entry_point(clean: Clean, tmp_path: Path) -> None:
    found = json.loads(clean.python(PLUGINS, AIRFLOW__CORE__PLUGINS_FOLDER=str(tmp_path)))
    (source,) = found["sources"]
    assert BY_ENTRY_POINT in source
    assert (found["errors"], found["apps"], found["views"]) == ({}, ["/inpaint"], VIEWS)


def test_the_plugins_folder_beside_the_entry_point_is_no_second_plugin_and_no_error(clean: Clean) -> None:
    found = json.loads(clean.python(PLUGINS, AIRFLOW__CORE__PLUGINS_FOLDER=str(REPOSITORY / "plugins")))
    (source,) = found["sources"]
    assert BY_ENTRY_POINT in source
    assert (found["errors"], found["apps"], found["views"]) == ({}, ["/inpaint"], VIEWS)


def test_the_plugins_folder_brings_the_pages_where_the_package_is_not_installed(clean: Clean) -> None:
    output = clean.run(
        sys.executable, "-S", "-c", PLUGINS,
        PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(clean.dependencies)]),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(REPOSITORY / "plugins"),
    )  # fmt: skip
    found = json.loads(output.strip().splitlines()[-1])
    assert found["sources"] == ["$PLUGINS_FOLDER/inpaint_ops_plugin.py"]
    assert (found["errors"], found["apps"], found["views"]) == ({}, ["/inpaint"], VIEWS)
