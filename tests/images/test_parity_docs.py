"""docs/parity.md: what the page says of the two ways is what they do, on the ten photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs.parity import make as parity

pytestmark = pytest.mark.slow
FACTS = tuple(name for name in parity.COLUMNS if name != "seam contrast")


@pytest.fixture(scope="module")
def made() -> tuple[list[Any], dict[str, dict[str, bytes]]]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = parity.make()
    torch.set_num_threads(threads)
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_table_of_the_page_is_what_the_script_finds(made: tuple[list[Any], dict[str, dict[str, bytes]]]) -> None:
    """Seam contrasts depend on how a processor rounds, and are not compared; what IOPaint does is not tried here."""
    page = parity.PAGE.read_text().split("<!-- made by docs/parity/make.py -->\n")[1].split("<!-- until here -->")[0]
    shown = [line for line in page.splitlines() if f"| {parity.OTHERS} |" not in line]
    found = list(parity.table(*made))
    seam = cells(found[0]).index("seam contrast")
    assert len(shown) == len(found) == 2 + 2 * 10
    for one, other in zip(shown, found, strict=True):
        kept = [[cell for at, cell in enumerate(cells(line)) if at != seam] for line in (one, other)]
        assert kept[0] == kept[1]


def test_this_program_keeps_what_it_does_not_paint(made: tuple[list[Any], dict[str, dict[str, bytes]]]) -> None:
    given, files = made
    for case in given:
        row = parity.found(case, files[parity.OURS][case.name])
        assert (row["outside: pixels changed"], row["by at most"], row["size"]) == ("none", "0", "kept"), case.name
        assert row["upright"] in ("", "yes") and "lost" not in row.values(), case.name
        before, _, after = row["bits"].partition(" → ")
        assert before == after
    assert {row["alpha"] for row in (parity.found(case, files[parity.OURS][case.name]) for case in given)} >= {"kept"}


def test_the_page_has_its_picture() -> None:
    assert "parity/parity.jpg" in parity.PAGE.read_text()
    assert Path(parity.FOLDER / "parity.jpg").exists()
