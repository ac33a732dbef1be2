"""The pages tell the truth about the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from inpaint_ops.config import Scheduler, Settings
from inpaint_ops.manifest import Row
from inpaint_ops.tuning import Tuning

REPOSITORY = Path(__file__).resolve().parent.parent


def variables() -> set[str]:
    return {str(field.validation_alias or f"INPAINT_{name.upper()}") for name, field in Settings.model_fields.items()}


def test_every_setting_is_on_its_page_and_none_that_is_gone() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text()
    assert variables() <= set(re.findall(r"`([A-Z0-9_]+)`", page))
    places = ("dags/*.py", "inpaint_ops_airflow/**/*.py", "inpaint_ops/**/*.py")
    code = "".join(path.read_text() for place in places for path in REPOSITORY.glob(place))
    for name in set(re.findall(r"`(INPAINT_[A-Z0-9_]+)`", page)) - variables():
        assert name in code, f"{name} is on the page and nowhere else"


def test_every_default_on_the_settings_page_is_the_codes() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text()
    shown = re.findall(r"^\| `([A-Z0-9_]+)` \| `([^`]*)` \|", page, re.MULTILINE)
    limits = re.findall(r"^\| [^|`]+ \| `([^`]*)` \| `([A-Z0-9_]+)` \|", page, re.MULTILINE)
    assert len(limits) == 10
    by_variable = {
        str(field.validation_alias or f"INPAINT_{name.upper()}"): field.default
        for name, field in Settings.model_fields.items()
    }
    shown = [pair for pair in shown if pair[0] in by_variable]
    assert len(shown) > 20
    for variable, default in [*shown, *((variable, default) for default, variable in limits)]:
        assert default == str(by_variable[variable]), variable


def test_every_field_of_the_tuning_and_every_scheduler_is_on_the_settings_page() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text()
    for name in Tuning.model_fields:
        assert f"`{name}`" in page, name
    for name in get_args(Scheduler):
        assert name in page, name


def test_every_manifest_field_is_on_its_page() -> None:
    page = (REPOSITORY / "docs/manifest.md").read_text()
    for name in Row.model_fields:
        assert f"`{name}`" in page, name


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_target_that_the_pages_name_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"):
        assert set(re.findall(r"`make ([a-z]+)`", page.read_text())) <= targets


def test_requirements_pin_everything() -> None:
    for name in ("requirements.txt", "requirements-hashed.txt", "requirements-airflow.txt", "requirements-dev.txt"):
        for line in (REPOSITORY / name).read_text().splitlines():
            pin = re.match(r"[a-z0-9._-]+==[^ ]+( ; .+?)?( \\)?$", line)
            assert pin or re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line) or line.startswith("#"), line
    pinned = (REPOSITORY / "requirements.txt").read_text()
    for pin in ("apache-airflow==3.3.2", "torch==2.13.0", "diffusers==0.42.1", "celery==5.6"):
        assert pin in pinned


def imports_of_tests(text: str) -> list[str]:
    """Imports of test modules in a Python file, also in the text of a program that it starts."""
    return re.findall(r"\b(?:from|import) (?:tests)?\.?[\w.]*(?:\.| import .*\b)test_\w+", text)


def test_no_test_imports_from_a_test() -> None:
    """What tests share is in `tests/support/`."""
    for line in (
        'program = "import sys; from tests.a.test_b import C"',
        "    import tests.test_b",
        "from tests.a import c, test_b",
        "from .test_b import C",
        "from . import test_b",
    ):
        assert imports_of_tests(line), line
    assert not imports_of_tests("from tests.support.waiting import wait_until")
    for path in (REPOSITORY / "tests").rglob("*.py"):
        if path != Path(__file__).resolve():
            assert imports_of_tests(path.read_text()) == [], path.relative_to(REPOSITORY)
