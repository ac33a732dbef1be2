"""One table is the same rows whatever it is kept in, and what was changed on the way is said."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint_ops.config import load_settings
from inpaint_ops.errors import ManifestError, ObjectNotFoundError
from inpaint_ops.locations import parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, read_manifest
from inpaint_ops.runs import Workspace

GOOD = {"image": "a.png", "mask": "m.png", "prompt": "a wall"}
ROW = b"a.png,m.png,a wall\n"
CSV = b"image,mask,prompt\n" + ROW


def read(data: bytes, name: str, **limits: int) -> ParsedManifest:
    place = parse(f"s3://bucket/inbox/{name}")
    return read_manifest(data, location=place, is_allowed=lambda _: True, limits=ManifestLimits(**limits))


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(key for row in rows for key in row))
    sink = io.BytesIO()
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), sink)
    return sink.getvalue()


def workbook(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(key for row in rows for key in row))
    return sheet([names, *([row.get(name) for name in names] for row in rows)])


def sheet(rows: list[list[Any]], *, title: str = "rows", book: openpyxl.Workbook | None = None) -> bytes:
    book = book or openpyxl.Workbook()
    page = book.active
    page.title = title
    for cells in rows:
        page.append(cells)
    for cell in (cell for line in page.iter_rows() for cell in line):
        if isinstance(cell.value, str):
            cell.data_type = "s"  # text, whatever it looks like: openpyxl takes "=0" for a formula
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
_WRITTEN = st.fixed_dictionaries(
    {"image": _WORDS.map(lambda word: word.replace("\\", "").replace("/", "") + ".png"), "prompt": _WORDS},
    optional={
        "id": st.from_regex(r"[a-z][a-z0-9]{3,8}", fullmatch=True) | st.integers(0, 10**6).map(str),
        "negative_prompt": _WORDS,
        "seed": st.integers(0, 2**63 - 1),
        "steps": st.integers(1, 500),
        "guidance_cutoff": st.integers(1, 1000).map(lambda n: n / 1000),
        "strength": st.integers(1, 1000).map(lambda n: n / 1000),
        "guidance_scale": st.integers(0, 5000).map(lambda n: n / 100),
        "mask_threshold": st.integers(0, 255),
        "mask_invert": st.booleans(),
        "mask_dilate": st.integers(0, 512),
        "crop": st.sampled_from(["none", "auto", "regions", "tiles"]) | st.integers(0, 4096),
        "blend": st.sampled_from(["hard", "feather", "poisson", "auto"]),
        "match": st.sampled_from(["none", "mean", "histogram"]),
        "grain": st.sampled_from(["none", "match"]),
        "sharpen": st.sampled_from(["none", "match"]),
        "variants": st.integers(1, 16),
        "side_products": st.lists(st.sampled_from(["patch", "mask", "preview"]), min_size=1).map(",".join),
        "fill": st.sampled_from(["original", "noise", "mean", "telea", "lama"]),
        "format": st.sampled_from(["png", "webp", "tiff", "jpeg", "avif", "jxl", "source"]),
        "extra": st.dictionaries(_WORDS, st.integers(-9, 9) | _WORDS, min_size=1, max_size=3),
    },
)
_NUMBERS = ("steps", "mask_threshold", "mask_dilate")


@given(st.lists(_WRITTEN, min_size=1, max_size=6), st.sampled_from([",", ";", "\t"]))
@settings(max_examples=10, deadline=None)
def test_one_table_is_the_same_rows_in_every_format(rows: list[dict[str, Any]], delimiter: str) -> None:
    """What text cannot tell from a number, a table of mixed columns keeps as text; pandas makes floats of integers."""
    rows = [{**row, "mask": "m.png"} for row in rows]
    plain = read(jsonl(rows), "m.jsonl")
    texts = [{key: json.dumps(value) if key == "extra" else value for key, value in row.items()} for row in rows]
    mixed = [{key: str(value) if key == "crop" else value for key, value in row.items()} for row in texts]
    floats = [{key: float(value) if key in _NUMBERS else value for key, value in row.items()} for row in mixed]
    digits = [{key: str(value) if key == "seed" else value for key, value in row.items()} for row in mixed]
    lines = {row.row: row.row for row in plain.accepted}
    for name, data in {
        "floats.jsonl": jsonl(floats),
        "m.csv": as_csv(texts, delimiter),
        "floats.csv": as_csv(floats, delimiter),
        "m.csv.gz": gzip.compress(as_csv(texts)),
        "m.parquet": parquet(mixed),
        "floats.parquet": parquet(floats),
        "m.xlsx": workbook(digits),
    }.items():
        found = read(data, name)
        stated = [row.model_copy(update={"row": 1}) for row in found.accepted]
        assert stated == [row.model_copy(update={"row": 1}) for row in plain.accepted], name
        assert len(found.rejected) == len(plain.rejected), name
    assert lines


@pytest.mark.parametrize(
    ("field", "spellings", "value"),
    [
        ("steps", [20, 20.0, "20", "20.0", " 20 ", "2e1", Decimal("20.00")], 20),
        ("seed", [2**60 + 1, str(2**60 + 1), Decimal(2**60 + 1)], 2**60 + 1),
        ("strength", [0.5, "0.5", ".5", Decimal("0.50")], 0.5),
        ("guidance_scale", [7, 7.0, "7", Decimal(7)], 7.0),
        ("mask_invert", [True, 1, 1.0, "true", "TRUE", "1", "1.0", "yes"], True),
        ("mask_invert", [False, 0, 0.0, "false", "No"], False),
        ("id", [7, 7.0, "7", "7.0", Decimal("7.00")], "7"),
        ("crop", [32, 32.0, "32", "32.0"], 32),
        ("crop", ["auto", " auto "], "auto"),
        ("quality", ["best", "best "], "best"),
        ("quality", [float("nan"), "", "NaN", None], None),
        ("steps", [float("nan"), "", "nan", None], None),
        ("id", [None], None),
        ("extra", [{"a": 1}, '{"a": 1}'], {"a": 1}),
        ("prompt", [12, "12"], "12"),
    ],
)
def test_a_value_is_read_by_what_it_says_in_every_format(field: str, spellings: list[Any], value: Any) -> None:
    for stated in spellings:
        row = {**GOOD, field: stated}
        files = {"m.parquet": parquet([row]), "m.csv": as_csv([row])}
        if field == "extra":
            files["m.csv"] = as_csv([{**row, "extra": json.dumps({"a": 1})}])
        if not isinstance(stated, Decimal) and stated == stated:
            files["m.jsonl"] = jsonl([row])
        for name, data in files.items():
            parsed = read(data, name)
            assert not parsed.rejected, (stated, name, parsed.rejected[0].error.message)
            wanted = "a" if field == "id" and value is None else value
            assert getattr(parsed.accepted[0], field) == wanted, (stated, name)
            assert type(getattr(parsed.accepted[0], field)) is type(wanted), (stated, name)


def test_a_whole_id_with_decimals_is_said_to_be_read_as_its_digits() -> None:
    parsed = read(b"image,mask,prompt,id\na,m,p,1.0\na,m,p,2.0\na,m,p,3.5\n", "m.csv")
    assert [row.id for row in parsed.accepted] == ["1", "2", "3.5"]
    assert parsed.notes == ("2 rows: an id that is a whole number with decimals (7.0) is read as its digits (7)",)


@pytest.mark.parametrize(
    ("data", "name", "note"),
    [
        (b",image,mask,prompt\n0," + ROW, "m.csv", "the first column has no name and is left out: it is an index"),
        (b"Unnamed: 0,image,mask,prompt\n0," + ROW, "m.csv", "column 'Unnamed: 0' is left out: it is an index"),
        (b"Unnamed: 0.1,image,mask,prompt\n0," + ROW, "m.csv", "column 'Unnamed: 0.1' is left out"),
        (jsonl([{**GOOD, "__index_level_0__": 5}]), "m.jsonl", "column '__index_level_0__' is left out"),
        (parquet([{**GOOD, "__index_level_0__": 5}]), "m.parquet", "column '__index_level_0__' is left out"),
        (b"image,mask,prompt,,\r\na.png,m.png,a wall,,\r\n", "m.csv", "2 empty columns without a name are left out"),
        (b"image,mask,prompt\na.png,m.png,a wall,,\n", "m.csv", "empty cells behind the last column are left out"),
        (CSV.replace(b",", b";"), "m.csv", "read with a semicolon between the columns"),
        (b"\xef\xbb\xbf" + CSV.replace(b",", b";"), "m.csv", "read with a semicolon between the columns"),
        (CSV.replace(b",", b"\t"), "m.csv", "read with a tab between the columns"),
        (CSV.replace(b",", b"\t"), "m.tsv", "read with a tab between the columns"),
        (CSV.replace(b",", b"|"), "m.csv", "read with a bar between the columns"),
        (b"sep=;\r\n" + CSV.replace(b",", b";"), "m.csv", "read with a semicolon between the columns"),
        (b'"image";"mask";"prompt"\na.png;m.png;"a wall"\n', "m.csv", "read with a semicolon between the columns"),
        (CSV.decode().encode("utf-16"), "m.csv", "read as UTF-16-LE"),
        (CSV.decode().encode("utf-16-be"), "m.csv", "read as UTF-16-BE"),
        (CSV.decode().encode("utf-32"), "m.csv", "read as UTF-32-LE"),
        (jsonl([GOOD]).decode().encode("utf-16-le"), "m.jsonl", "read as UTF-16-LE"),
        (gzip.compress(CSV, mtime=0), "m.csv.gz", "unpacked with gzip"),
        (
            gzip.compress(jsonl([GOOD])[:9], mtime=0) + gzip.compress(jsonl([GOOD])[9:], mtime=0),
            "m.jsonl",
            "unpacked with gzip",
        ),
        (jsonl([{**GOOD, "image": ".\\a.png"}]), "m.jsonl", "1 row: a path with '\\' or './' is read as a plain key"),
        (jsonl([{**GOOD, "image": "./a.png"}]), "m.jsonl", "1 row: a path with '\\' or './' is read as a plain key"),
    ],
)
def test_what_is_read_in_another_way_or_left_out_is_said(data: bytes, name: str, note: str) -> None:
    parsed = read(data, name)
    assert not parsed.rejected
    assert [(row.image, row.mask, row.prompt) for row in parsed.accepted] == [
        ("s3://bucket/inbox/a.png", "s3://bucket/inbox/m.png", "a wall")
    ]
    assert len(parsed.notes) == 1 and parsed.notes[0].startswith(note)


def test_columns_that_pandas_calls_its_index_are_left_out_but_for_those_of_a_row() -> None:
    stated = {b"pandas": json.dumps({"index_columns": ["level", "id", {"kind": "range"}]}).encode()}
    table = pa.table({**{key: [value] for key, value in GOOD.items()}, "id": ["x"], "level": [3]})
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(stated), sink)
    parsed = read(sink.getvalue(), "m.parquet")
    assert [row.id for row in parsed.accepted] == ["x"]
    assert parsed.notes == ("column 'level' is left out: it is an index that pandas wrote (index=False omits it)",)


def test_a_space_after_the_comma_is_no_part_of_a_cell_and_quotes_after_it_quote() -> None:
    text = b'image, mask, prompt\na.png, m.png, "a wall, ""white""\nand dry"\nb.png , m.png ,  a floor\n'
    parsed = read(text, "m.csv")
    assert [(row.row, row.image, row.mask, row.prompt) for row in parsed.accepted] == [
        (2, "s3://bucket/inbox/a.png", "s3://bucket/inbox/m.png", 'a wall, "white"\nand dry'),
        (4, "s3://bucket/inbox/b.png", "s3://bucket/inbox/m.png", "a floor"),
    ]


def test_a_cell_under_no_name_rejects_its_row_and_the_line_numbers_are_those_of_the_file() -> None:
    parsed = read(b"sep=,\nimage,mask,prompt,\na,m,p,\na,m,p,lost\n", "m.csv")
    assert [row.row for row in parsed.accepted] == [3]
    assert parsed.rejected[0].error.message == (
        "row 4: a cell in column 4, which has no name, holds 'lost': name the column in the first line, or empty it"
    )


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (gzip.compress(CSV, mtime=0)[:-12], "m.csv", "a gzip file that is cut off"),
        (gzip.compress(CSV, mtime=0)[:20] + b"\xff" * 20, "m.csv", "a (damaged gzip file|gzip file that is cut)"),
        (gzip.compress(CSV, mtime=0) + b"more", "m.csv", "something else behind it"),
        (b"\xff\xfea", "m.csv", "not whole UTF-16-LE text"),
        (b"PK\x03\x04....", "m.csv", "a ZIP archive: unpack it first, or name it .xlsx"),
        (b"PAR1....PAR1", "m.jsonl", "a Parquet file: name it .parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "m.csv", "an Excel workbook of the old format"),
        (b"\x28\xb5\x2f\xfd....", "m.jsonl", "zstd"),
        (b"[]", "m.json", "one object per line"),
        (b"x", "m.xls", "save it as .xlsx"),
        (b"x", "m.xlsm", "save it as .xlsx"),
        (b"x", "m.jsonl.zst", "unpack it, or compress it with gzip"),
        (b"x", "m.xlsx", "not a readable Excel workbook"),
        (sheet([["picture", "mask"], ["a", "b"]]), "m.xlsx", "no sheet's first row names the columns"),
        (sheet([["image", "image"], ["a", "b"]]), "m.xlsx", "two columns have one name"),
    ],
)
def test_what_cannot_be_read_names_the_cure(data: bytes, name: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read(data, name)


def test_a_workbooks_rows_keep_the_numbers_of_its_sheet() -> None:
    book = openpyxl.Workbook()
    book.create_sheet("notes")
    data = sheet(
        [
            [],
            ["image", "mask", "prompt", "steps", None],
            ["a.png", "m.png", "a wall", 20],
            [],
            ["b.png", "m.png", "x", "y"],
        ],
        book=book,
    )
    parsed = read(data, "m.xlsx")
    assert [(row.row, row.prompt, row.steps) for row in parsed.accepted] == [(3, "a wall", 20)]
    assert [(row.row, row.error.field) for row in parsed.rejected] == [(5, "steps")]
    assert parsed.notes == ("only the sheet 'rows' is read, of 2 sheets",)


def test_a_folder_of_parquet_parts_is_one_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "job.parquet"
    folder.mkdir()
    for part in (1, 0):
        (folder / f"part-{part}.parquet").write_bytes(parquet([{**GOOD, "prompt": f"{part}-{at}"} for at in range(2)]))
    for name in ("_SUCCESS", "_metadata.parquet", ".part-0.parquet.crc", "notes.txt"):
        (folder / name).write_bytes(b"x")
    workspace = Workspace.open(load_settings(), store=str(tmp_path))
    parsed, digest = workspace.read_manifest(str(folder))
    assert [(row.row, row.prompt) for row in parsed.accepted] == [(1, "0-0"), (2, "0-1"), (3, "1-0"), (4, "1-1")]
    assert parsed.accepted[0].image == str(folder / "a.png")
    assert workspace.read_manifest(f"{folder}/")[1] == digest
    with pytest.raises(ObjectNotFoundError):
        workspace.read_manifest(str(tmp_path / "none.parquet"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"x")
    for written in ("photos", "photos/"):
        with pytest.raises(ObjectNotFoundError, match=f"{written}: it .*; `inpaint-ops manifest` writes a manifest"):
            workspace.read_manifest(f"{tmp_path}/{written}")
    (folder / "day=1").mkdir()
    (folder / "day=1" / "p.parquet").write_bytes(parquet([GOOD]))
    with pytest.raises(ManifestError, match="without partitions"):
        workspace.read_manifest(str(folder))
