"""A table of prompts: each image has the one that its name or path asks for, and nobody else's."""

from __future__ import annotations

import gzip
import io
import re
from typing import Any

import openpyxl
import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest.notes import Notes
from inpaint_ops.manifest.pairing import Pairing, pair
from inpaint_ops.manifest.prompts_file import ImagePrompts, read_prompts

IMAGES = [parse(f"s3://b/i/{name}") for name in ("b.jpg", "a.png", "lonely.png", "notes.txt")]
MASKS = [parse(f"s3://b/m/{name}") for name in ("a_mask.png", "b.png", "orphan.png")]


def test_prompts_come_from_a_column_by_name_or_stem_and_a_missing_one_is_named() -> None:
    prompts = read_prompts(b"\xef\xbb\xbfsku,text\nphotos/b.jpg,a blue cup\n", key_column="sku", prompt_column="text")
    paired = pair(IMAGES, MASKS, prompt=None, prompts=prompts)
    assert [row["prompt"] for row in paired.rows] == ["a blue cup"]
    assert paired.without_prompt == ("s3://b/i/a.png",)
    assert pair(IMAGES, MASKS, prompt="else", prompts=prompts).without_prompt == ()


def test_an_image_with_two_prompts_is_an_error_that_names_it() -> None:
    table = b"key,text\nphotos/b.jpg,a blue cup\nother/b.jpg,"
    assert len(read_prompts(table + b"a blue cup\n", key_column="key", prompt_column="text")) == 2
    for again in (b"photos/b.jpg", b"Photos/B.JPG", b"/photos/b.jpg", b"photos\\\\b.jpg"):
        with pytest.raises(ManifestError, match=r"(?i)two prompts for 'photos/b\.jpg': keep one"):
            read_prompts(table + b"x\n" + again + b",a red cup\n", key_column="key", prompt_column="text")


def keys(prefix: str, *names: str) -> list[Location]:
    return [parse(f"s3://b/{prefix}/{name}") for name in names]


def paired_with(prompts: dict[str, str], *names: str) -> Pairing:
    """Images below `photos/` and a mask for each, with these prompts."""
    roots = (parse("s3://b/photos/"), parse("s3://b/masks/"))
    return pair(keys("photos", *names), keys("masks", *names), prompt=None, prompts=prompts, roots=roots)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("one/a.jpg", "two/a.jpg"), ("photos/one/a.jpg", "photos/two/a.jpg"), ("one/a", "two/a"),
        ("C:/catalogue/one/a.jpg", "C:/catalogue/two/a.jpg"), ("One/A.JPG", "b/photos/two/a"),
    ],
)  # fmt: skip
def test_images_of_one_name_in_two_folders_have_their_own_prompts(one: str, two: str) -> None:
    paired = paired_with({one: "a red cup", two: "a blue cup"}, "one/a.jpg", "two/a.jpg")
    assert [row["prompt"] for row in paired.rows] == ["a red cup", "a blue cup"]
    assert not paired.prompts_unused


def test_the_prompt_of_another_folder_is_not_taken() -> None:
    paired = paired_with({"two/a.jpg": "a blue cup"}, "one/a.jpg", "two/a.jpg")
    assert [(row["image"], row["prompt"]) for row in paired.rows] == [("s3://b/photos/two/a.jpg", "a blue cup")]
    assert paired.without_prompt == ("s3://b/photos/one/a.jpg",)


def test_a_name_alone_is_for_every_image_of_that_name_that_no_path_names() -> None:
    paired = paired_with({"a.jpg": "a cup", "two/a.jpg": "a blue cup"}, "one/a.jpg", "two/a.jpg", "three/a.jpg")
    assert [row["prompt"] for row in paired.rows] == ["a cup", "a cup", "a blue cup"]


def test_what_could_be_one_of_several_is_named_and_is_no_row() -> None:
    paired = paired_with({"x/a.jpg": "a red cup", "y/a.jpg": "a blue cup", "b": "b"}, "a.jpg", "b.jpg")
    assert [row["image"] for row in paired.rows] == ["s3://b/photos/b.jpg"]
    assert len(paired.clashes) == 1
    assert all(name in paired.clashes[0] for name in ("s3://b/photos/a.jpg", "'x/a.jpg'", "'y/a.jpg'"))


def test_a_file_whose_stem_has_dots_is_found_by_stem_and_by_name() -> None:
    assert paired_with({"cup.v2": "a cup"}, "cup.v2.jpg").rows[0]["prompt"] == "a cup"
    assert not paired_with({"cup": "a cup"}, "cup.v2.jpg").rows
    prompts = ImagePrompts({"cup.jpg": "a photo", "cup": "a cup"})
    assert [prompts.of(one, one.name) for one in keys("photos", "cup.jpg", "cup.png")] == ["a photo", "a cup"]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ManifestError, match="two columns 'text': rename one"):
        read_prompts(b"key,text,text\na,b,c\n", key_column="key", prompt_column="text")


def test_a_prompt_for_no_image_is_named() -> None:
    paired = pair(keys("i", "a.png"), keys("m", "a.png"), prompt=None, prompts={"A.png": "x", "z": "y"})
    assert ([row["prompt"] for row in paired.rows], paired.prompts_unused) == (["x"], ("z",))


def workbook(*sheets: list[list[Any]], merged: str = "") -> bytes:
    book = openpyxl.Workbook()
    for page, rows in zip([book.active, *(book.create_sheet() for _ in sheets[1:])], sheets, strict=True):
        for cells in rows:
            page.append(cells)
    if merged:
        book.worksheets[-1].merge_cells(merged)
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def test_a_workbook_may_hold_the_prompts() -> None:
    rows = [
        ["sku", "text", "sum"],
        ["one/b.jpg", "a cup", "=1+1"],
        ["c.jpg"],
        [7, "a lamp"],
        [None, "x"],
        ["#N/A", "y"],
    ]
    notes = Notes()
    data = gzip.compress(workbook([["a title"]], rows, merged="B2:B3"))
    prompts = read_prompts(data, key_column="sku", prompt_column="text", notes=notes)
    assert prompts == {"one/b.jpg": "a cup", "c.jpg": "a cup", "7": "a lamp", "#N/A": "y"}
    assert notes.lines() == (
        "the prompts file: only the sheet 'Sheet1' is read, of 2 sheets",
        "the prompts file: cells that are merged over several rows have their value in each of these rows",
        "the prompts file: 1 row has a prompt and no 'sku'",
    )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["image", "text"], ["a", "b"]], "no column 'prompt'; it has image, text"),
        ([["name", "prompt"], ["a", "b"]], "no sheet's first row has a column 'image'; 'Sheet' begins with"),
        ([["image", "prompt"], ["a", "x"], ["A", "y"]], "two prompts for 'A': keep one"),
        ([["image", "prompt"], ["a", "=1+1"]], "row 2 of the prompts file: prompt: the cell holds a formula without"),
    ],
)
def test_a_workbook_that_does_not_say_each_images_prompt_is_an_error(rows: list[list[Any]], says: str) -> None:
    key = "image" if "image" in rows[0] else "sku"
    says = says.replace("'image'", repr(key))
    with pytest.raises(ManifestError, match=re.escape(says)):
        read_prompts(workbook(rows), key_column=key, prompt_column="prompt")


def test_a_file_that_only_begins_as_a_workbook_is_an_error() -> None:
    with pytest.raises(ManifestError, match="the prompts file: not a readable Excel workbook"):
        read_prompts(b"PK\x03\x04 and else", key_column="image", prompt_column="prompt")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ManifestError, match="no column 'prompt'; it has image, text"):
        read_prompts(b"image,text\na,b\n", key_column="image", prompt_column="prompt")
