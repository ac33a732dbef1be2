"""What a spreadsheet shows of a cell is what a row says, or why the row is rejected: nothing is read as empty."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import Any

import openpyxl
import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, read_manifest

HEADER = ["image", "mask", "prompt", "seed", "negative_prompt"]
Change = Callable[[Any], None]


def book(*rows: list[Any], change: Change = lambda page: None) -> bytes:
    made = openpyxl.Workbook()
    for cells in rows:
        made.active.append(cells)
    change(made.active)
    sink = io.BytesIO()
    made.save(sink)
    return sink.getvalue()


def read(data: bytes, name: str = "m.xlsx") -> ParsedManifest:
    place = parse(f"s3://bucket/inbox/{name}")
    return read_manifest(data, location=place, is_allowed=lambda _: True, limits=ManifestLimits())


def rewritten(
    data: bytes, change: Callable[[str, bytes], bytes | None], renamed: dict[str, str] | None = None
) -> bytes:
    """The workbook with its files changed; None leaves one out."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            body = change(name, old.read(name))
            if body is not None:
                new.writestr((renamed or {}).get(name, name), body)
    return sink.getvalue()


def said(parsed: ParsedManifest) -> list[tuple[int, str | None, str]]:
    return [(row.row, row.error.field, row.error.message) for row in parsed.rejected]


@pytest.mark.parametrize("column", range(5))
def test_an_error_in_a_cell_rejects_the_row_and_names_its_field(column: int) -> None:
    cells: list[Any] = ["a.png", "m.png", "a sofa", 7, "blurry"]
    cells[column] = "#N/A"  # openpyxl writes it as Excel does, as an error and not as text
    parsed = read(book(HEADER, ["b.png", "m.png", "a lamp", 8], cells, ["c.png", "m.png", "a cup"]))
    assert [row.row for row in parsed.accepted] == [2, 4]
    [(number, field, message)] = said(parsed)
    assert (number, field) == (3, HEADER[column])
    assert f"{HEADER[column]}: '#N/A' is the error of a spreadsheet: correct the formula" in message


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
@pytest.mark.parametrize("error", ["#N/A", "#REF!", " #VALUE! ", "#NV", "Err:502"])
def test_an_error_that_an_export_kept_as_text_rejects_the_row(name: str, error: str) -> None:
    row = f'{{"image": "a.png", "mask": "m.png", "prompt": "{error}"}}\n'
    data = row if name == "m.jsonl" else f"image,mask,prompt\na.png,m.png,{error}\n"
    [(_, field, message)] = said(read(data.encode(), name))
    assert field == "prompt" and f"{error.strip()!r} is the error of a spreadsheet" in message


def test_words_that_only_look_like_an_error_are_words() -> None:
    prompts = ["#1", "#sofa", "N/A", "#N/A on a wall", "#ref!"]
    data = "image,mask,prompt\n" + "".join(f"a.png,m.png,{prompt}\n" for prompt in prompts)
    assert [row.prompt for row in read(data.encode(), "m.csv").accepted] == prompts


def test_a_formula_that_was_never_calculated_is_not_an_empty_cell() -> None:
    parsed = read(
        book(HEADER, ["a.png", "m.png", '=A2&" sofa"'], ["a.png", "m.png", "a cup", "=1+1"], ["a.png", "m.png", "x"])
    )
    assert [row.row for row in parsed.accepted] == [4]
    found = said(parsed)
    assert [(number, field) for number, field, _ in found] == [(2, "prompt"), (3, "seed")]
    assert all("a formula without a result: open the workbook in a spreadsheet program" in text for *_, text in found)
    assert parsed.rejected[1].written["prompt"] == "a cup"


def test_a_formula_in_a_column_without_a_name_is_said_unless_pandas_numbers_its_rows_there() -> None:
    parsed = read(book([None, *HEADER[:3], None, "seed"], ["=1+1", "a.png", "m.png", "x", None, 7]))
    assert [row.seed for row in parsed.accepted] == [7]
    parsed = read(book([*HEADER[:3], None, "seed"], ["a.png", "m.png", "x", "=1+1", 7]))
    [(number, field, message)] = said(parsed)
    assert (number, field) == (2, None) and "column 4, which has no name: the cell holds a formula" in message


def test_formulas_that_were_filled_down_beyond_the_last_row_are_no_rows() -> None:
    beyond: list[list[Any]] = [[None, None, "#N/A", "=1+1"], [None, None, "#N/A"], [None, None, None, "=1+1"]]
    parsed = read(book(HEADER, ["a.png", "m.png", "a sofa"], *beyond))
    assert [row.row for row in parsed.accepted] == [2] and not parsed.rejected
    assert parsed.notes == ("3 rows hold nothing but formulas with an error or without a result, and no image",)
    parsed = read(book(HEADER, ["=A1", "=B1", "=C1"], ["#REF!"], [None, "m.png", "#N/A"]))
    assert [(number, field) for number, field, _ in said(parsed)] == [(2, "image"), (3, "image"), (4, "prompt")]
    assert not parsed.notes
    parsed = read(book(HEADER, ["=A1", "=B1", "=C1"], ["=A1", "=B1", "=C1"]))
    assert [(number, field) for number, field, _ in said(parsed)] == [(2, "image"), (3, "image")]


def test_a_formulas_result_is_the_cell_and_an_empty_text_is_one() -> None:
    def with_results(name: str, body: bytes) -> bytes:
        text = body.replace(b'<c r="C2"><f>B1</f><v></v>', b'<c r="C2" t="str"><f>B1</f><v>a cup</v>')
        return text.replace(b'<c r="E2"><f>B2</f><v></v>', b'<c r="E2" t="str"><f>B2</f><v></v>')

    data = rewritten(book(HEADER, ["a.png", "m.png", "=B1", 7, "=B2"]), with_results)
    [row] = read(data).accepted
    assert (row.prompt, row.negative_prompt) == ("a cup", None)


def merge(*ranges: str) -> Change:
    def change(page: Any) -> None:
        for one in ranges:
            page.merge_cells(one)

    return change


def test_cells_merged_over_rows_have_their_value_in_each() -> None:
    rows = [["a.png", "m.png", "a sofa", 7], ["b.png", "m.png"], [], ["c.png", "m.png", None, 8], ["d.png", "m.png"]]
    parsed = read(book(["image", "mask", "prompt", "seed"], *rows, change=merge("C2:C5", "D2:D3", "A9:B9")))
    assert [(row.row, row.prompt, row.seed) for row in parsed.accepted] == [
        (2, "a sofa", 7), (3, "a sofa", 7), (5, "a sofa", 8),
    ]  # fmt: skip
    assert [(number, field) for number, field, _ in said(parsed)] == [(6, "prompt")]
    assert parsed.notes == ("cells that are merged over several rows have their value in each of these rows",)


def test_positions_hold_in_a_sheet_that_begins_elsewhere() -> None:
    def moved(page: Any) -> None:
        page.move_range("A1:E4", rows=5, cols=3)
        page.merge_cells("F7:F8")
        page.row_dimensions[8].hidden = True
        page.row_dimensions[3].hidden = True  # of those above there is nothing to read

    rows = [["a.png", "m.png", "a sofa"], ["b.png", "m.png"], ["c.png", "m.png", "x", "#REF!"]]
    parsed = read(book(HEADER, *rows, change=moved))
    assert [(row.row, row.prompt) for row in parsed.accepted] == [(7, "a sofa"), (8, "a sofa")]
    assert [(number, field) for number, field, _ in said(parsed)] == [(9, "seed")]
    assert "1 row is hidden in the sheet, and read too" in parsed.notes


def test_an_error_or_a_missing_result_in_merged_cells_is_that_of_each_row() -> None:
    rows = [["a.png", "m.png", "#N/A", "=1+1"], ["b.png", "m.png"], ["c.png", "m.png", "x"]]
    for ranges, fields in ((["C2:C3"], ["seed", "prompt"]), (["D2:D3", "C2:C3"], ["seed", "seed"])):
        parsed = read(book(HEADER, *rows, change=merge(*ranges)))
        assert [row.row for row in parsed.accepted] == [4]
        assert [field for _, field, _ in said(parsed)] == fields


def test_elements_may_have_a_prefix_and_cells_no_reference() -> None:
    def prefixed(name: str, body: bytes) -> bytes:
        if not name.startswith("xl/worksheets/"):
            return body
        body = re.sub(rb"<(/?)(\w)", rb"<\1x:\2", body.replace(b"xmlns=", b"xmlns:x="))
        return re.sub(rb'<x:(c|row) r="\w+"', rb"<x:\1", body)

    rows = [["a.png", "m.png", "a sofa", "#DIV/0!"], ["b.png", "m.png", "a cup", 3]]
    parsed = read(rewritten(book(HEADER, *rows), prefixed))
    assert [row.row for row in parsed.accepted] == [3]
    assert [(number, field) for number, field, _ in said(parsed)] == [(2, "seed")]


def test_a_sheet_that_is_found_elsewhere_is_looked_at_too() -> None:
    def named(name: str, body: bytes) -> bytes:
        return body.replace(b"worksheets/sheet1.xml", b"data/one.xml")

    moved = {"xl/worksheets/sheet1.xml": "xl/data/one.xml"}
    parsed = read(rewritten(book(HEADER, ["a.png", "m.png", "#N/A"]), named, moved))
    assert [field for _, field, _ in said(parsed)] == ["prompt"]


def test_damaged_xml_is_one_error() -> None:
    def damaged(name: str, body: bytes) -> bytes:
        return body.replace(b"</sheetData>", b"</sheetDat>") if name.startswith("xl/worksheets/") else body

    with pytest.raises(ManifestError, match="not a readable Excel workbook"):
        read(rewritten(book(HEADER, ["a.png", "m.png", "#N/A"]), damaged))
