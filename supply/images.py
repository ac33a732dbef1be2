"""Are the images of others as new as their known holes want, and what does a scanner say? `python -m supply.images`.

The table `images.toml` is looked at always. The images are scanned where trivy or grype is installed; where neither is,
that is said, image by image, and the exit code is 1: what was not looked at is not clean.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
SCANNERS = {
    "trivy": ("trivy", "image", "--quiet", "--exit-code", "1", "--severity", "HIGH,CRITICAL", "--ignore-unfixed"),
    "grype": ("grype", "--quiet", "--fail-on", "high", "--only-fixed"),
}
"""How each is told to fail for a hole that has a fix; the image's name comes last."""
_OURS = re.compile(r"inpaint-ops-[\w-]+:")
"""What docker/Dockerfile* build: the base stands there, and its packages are in the locks."""
_RELEASE = re.compile(r"\d+(\.\d+)+")


def images(repository: Path = REPOSITORY) -> dict[str, str]:
    """Every image of others that a compose file or a Dockerfile names, with the file that names it."""
    found: dict[str, str] = {}
    for path in (*repository.glob("docker-compose*.y*ml"), *repository.glob("docker/*.y*ml")):
        for service in (yaml.safe_load(path.read_text()).get("services") or {}).values():
            if "image" in service:
                found.setdefault(service["image"], path.name)
    for path in repository.glob("docker/Dockerfile*"):
        stages = set()
        for image, stage in re.findall(r"^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", path.read_text(), re.M | re.I):
            if image not in stages:
                found.setdefault(image, path.name)
            stages.add(stage)
    return {image: file for image, file in found.items() if not _OURS.match(image)}


def floors(repository: Path = REPOSITORY) -> dict[str, dict[str, object]]:
    """By an image's name without tag: `floor`, `closes`, and what is `open`."""
    return dict(tomllib.loads((repository / "supply/images.toml").read_text())["images"])


def below_floor(image: str, known: dict[str, dict[str, object]]) -> str | None:
    """What is wrong with an image by the table, in one line with the cure; None if nothing is."""
    name, _, tag = image.partition("@")[0].rpartition(":")
    name = (name or tag).removeprefix("docker.io/").removeprefix("library/")
    entry = known.get(name)
    if entry is None:
        return f"{image}: not in supply/images.toml: look up its advisories, and write its least fixed version there"
    release = _RELEASE.search(tag)
    if release is None:
        return f"{image}: its tag names no release: pin one"
    if Version(release[0]) < Version(str(entry["floor"])):
        closed = ", ".join(map(str, entry["closes"])) or "older holes"  # type: ignore[call-overload]
        return f"{image}: older than {entry['floor']}, which closes {closed}: pin that or a newer one"
    return None


def scanner() -> tuple[str, ...] | None:
    """The command of the scanner that is installed, if one is."""
    return next((command for name, command in SCANNERS.items() if shutil.which(name)), None)


def main() -> int:
    """Print what is wrong or was not looked at; 0 only if every image was scanned and is clean."""
    known, command, bad = floors(), scanner(), 0
    for image, file in sorted(images().items()):
        wrong = below_floor(image, known)
        if wrong:
            bad += 1
            print(f"{file}: {wrong}")
        for hole in known.get(image.partition(":")[0], {}).get("open", ()):  # type: ignore[attr-defined]
            print(f"{file}: {image}: {hole} is open, and known: see supply/images.toml")
        if command is None:
            bad += 1
            print(f"{file}: {image}: not audited: neither {' nor '.join(SCANNERS)} is installed")
        elif subprocess.run([*command, image], check=False).returncode:
            bad += 1
            print(f"{file}: {image}: {command[0]} found something, or could not look; its own words stand above")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
