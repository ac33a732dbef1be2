"""`python -m tests.check`: the fast tests of what changed, for the inner loop.

What changed: since the branch left `main`, and whatever is not committed; on `main` itself the last commit if there is
nothing else. A test file is run if it changed, if it imports a module that changed or the package of one, or, for a
file that is no module, if it names it. Tests marked `slow` or `cluster` are left out, and so is what would begin after
the time that a person waits; the last lines say how many.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("plugins", "dags")
"""Folders from which modules are imported by their bare name."""


def _git(*command: str) -> list[str]:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed() -> list[str]:
    """Paths that differ from where the branch began, relative to the repository."""
    uncommitted = [*_git("diff", "--name-only", "HEAD"), *_git("ls-files", "--others", "--exclude-standard")]
    base = next((found[0] for name in ("main", "origin/main") if (found := _git("merge-base", "HEAD", name))), "HEAD")
    if base in ("HEAD", *_git("rev-parse", "HEAD")):
        base = "HEAD" if uncommitted else "HEAD^"
    return sorted({*uncommitted, *_git("diff", "--name-only", base)})


def module_of(path: str) -> str | None:
    """The name by which a file is imported; None if it is no module."""
    place = PurePosixPath(path)
    if place.suffix != ".py":
        return None
    parts = place.with_suffix("").parts
    if parts[0] in SOURCES:
        parts = parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str) -> set[str]:
    """Every module that the text imports, and everything that might be one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def concerns(test: str, source: str, path: str) -> bool:
    """Whether the test file `test` is one for the file `path`."""
    module = module_of(path)
    if test == path:
        return True
    if module is None:
        return PurePosixPath(path).name in source
    package = module.rpartition(".")[0]
    wanted = {module, package} if "." in package else {module}
    bare = {module.rpartition(".")[2]} if module.startswith("tests.") else set()
    return bool(imported(source) & (wanted | bare))


def picked(paths: Iterable[str]) -> Iterator[str]:
    """The test files for these changes, those that changed themselves first."""
    paths = list(paths)
    tests = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    for name in sorted(tests, key=lambda name: name not in paths):
        if any(concerns(name, tests[name], path) for path in paths):
            yield name


def main() -> int:
    """Run them; pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.check", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="no test begins after this")
    given, arguments = parser.parse_known_args()
    files = list(picked(changed()))
    if not files:
        print("no test file is about what changed")
        return 0
    print(f"{len(files)} test files are about what changed: {' '.join(files)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-m", "not slow and not cluster", f"--begin-within={given.seconds}"]
    code = subprocess.run([*command, *arguments, *files], cwd=ROOT, check=False).returncode
    return 0 if code == 5 else code  # 5: all of them are slow


if __name__ == "__main__":
    sys.exit(main())
