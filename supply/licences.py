"""The licences of what is installed to run, out of an SBOM: `python -m supply.licences dist/bom.json`.

Exit code 1 where one is not on the list of those that are accepted, or is not known: `licences.toml` says which are.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def run_time(repository: Path = REPOSITORY) -> set[str]:
    """The packages of requirements.txt, by their normalized names: what is installed to run, not to develop."""
    lines = (repository / "requirements.txt").read_text().splitlines()
    return {_normal(match[0]) for line in lines if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))}


def policy(repository: Path = REPOSITORY) -> dict[str, Any]:
    """`allowed` SPDX names, `classifiers` in those names, and what was `decided` by package."""
    return tomllib.loads((repository / "supply/licences.toml").read_text())


def licences(component: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    """What an SBOM's component is under, in SPDX's words; several hold at once. Empty: it is not known."""
    decided = rules["decided"].get(_normal(component["name"]))
    if decided:
        return [decided["licence"]]
    said = [entry.get("expression") or _named(entry["license"]) for entry in component.get("licenses", [])]
    return sorted({rules["classifiers"].get(name, name) for name in said})


def _named(licence: Mapping[str, str]) -> str:
    return licence.get("id") or licence.get("name", "")


def accepted(expression: str, rules: Mapping[str, Any]) -> bool:
    """Whether all parts of `A AND B`, or one of `A OR B`, are accepted. Parentheses are not."""
    allowed = rules["allowed"]
    return any(all(part.strip() in allowed for part in way.split(" AND ")) for way in expression.split(" OR "))


def problems(bom: Mapping[str, Any], names: set[str], rules: Mapping[str, Any]) -> list[str]:
    """A line for each run-time component whose licence is not known or not accepted, with the cure."""
    found = []
    for component in bom["components"]:
        name = _normal(component["name"])
        if name not in names or name in rules["decided"]:
            continue
        under = licences(component, rules)
        if not under:
            found.append(f"{name}: its licence is not known: look it up, and decide in supply/licences.toml")
        found += [f"{name}: {one} is not accepted" for one in under if not accepted(one, rules)]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(path: str) -> int:
    """Print each run-time package with its licence, then what is wrong."""
    bom, names, rules = json.loads(Path(path).read_text()), run_time(), policy()
    for component in sorted(bom["components"], key=lambda one: _normal(one["name"])):
        if _normal(component["name"]) in names:
            print(f"{component['name']} {component['version']}: {'; '.join(licences(component, rules)) or 'not known'}")
    wrong = problems(bom, names, rules)
    print("\n".join(wrong) or "every licence is accepted")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
