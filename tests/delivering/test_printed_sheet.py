"""The contact sheet as a PDF, as a browser prints it: text that can be searched, on white."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from inpaint_ops.config import Settings
from inpaint_ops.delivering import deliver
from inpaint_ops.layout import RunLayout
from inpaint_ops.locations import parse
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace
from tests.support.browser import CHROMIUM, chromium
from tests.support.delivered import RUN, put_run

__all__ = ["chromium"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

NAMES = {"row_1": "沙发-中文", "row_2": "καναπές", "row_3": "диван"}
"""The first stands in a font that not every machine has: it must stop nothing. What a font is there for is text."""


def printed(chromium: Browser, sheet: Path, *, colours: str = "light") -> bytes:
    page = chromium.new_page(color_scheme=colours)  # type: ignore[arg-type]
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(sheet.as_uri())
    found = page.pdf(prefer_css_page_size=True, print_background=True)
    page.close()
    assert not complaints
    return found


def letters(pdf: bytes) -> set[str]:
    """The characters that a reader of the PDF can search for and copy, by its maps from glyphs to Unicode."""
    found = set[str]()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            text = zlib.decompress(stream)
        except zlib.error:
            continue
        if b"begincmap" not in text:
            continue
        for part in re.findall(rb"beginbfchar(.*?)endbfchar", text, re.DOTALL):
            found.update(_text(one) for one in re.findall(rb"<[0-9A-F]+> <([0-9A-F]+)>", part))
        for part in re.findall(rb"beginbfrange(.*?)endbfrange", text, re.DOTALL):
            for first, last, to in re.findall(rb"<([0-9A-F]+)> <([0-9A-F]+)> <([0-9A-F]+)>", part):
                start = int(to, 16)
                found.update(chr(start + step) for step in range(int(last, 16) - int(first, 16) + 1))
    return set("".join(found))


def _text(digits: bytes) -> str:
    return bytes.fromhex(digits.decode()).decode("utf-16-be", errors="ignore")


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """The sheet of a run with ids in Chinese, Greek and Russian, and one of 120 letters."""
    workspace = Workspace.open(
        Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"), also_writable=[parse(str(tmp_path))]
    )
    layout: RunLayout = workspace.layout(RUN)

    def called(name: str):  # type: ignore[no-untyped-def]
        def change(record: Record) -> dict[str, object]:
            assert record.output is not None
            image = layout.image(name, ".png")
            workspace.storage.put(image, workspace.storage.get(record.output.uri))
            return {"id": name, "output": record.output.model_copy(update={"uri": image.uri})}

        return change

    put_run(workspace, **{row: called(name) for row, name in NAMES.items()}, row_5=called("x" * 120))
    made = deliver(workspace, RUN, parse(str(tmp_path / "out")))
    assert made.delivered == 7
    return tmp_path / "out/contact-sheet/0001.html"


def test_it_is_one_page_with_text_of_every_script(chromium: Browser, sheet: Path) -> None:
    pdf = printed(chromium, sheet)
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 1, "nine cards, two beside each other, fit a page"
    ((_, _, width, height),) = {
        tuple(round(float(one)) for one in box.split()) for box in re.findall(rb"/MediaBox \[([^\]]+)\]", pdf)
    }
    assert (width, height) == (595, 842), "A4"
    assert set(NAMES["row_2"] + NAMES["row_3"]) <= letters(pdf)
    assert pdf.count(b"/Subtype /Image") >= 3 * 7


def test_a_dark_browser_prints_on_white(chromium: Browser, sheet: Path) -> None:
    assert len(printed(chromium, sheet, colours="dark")) == pytest.approx(len(printed(chromium, sheet)), rel=0.02)
