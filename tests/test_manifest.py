"""A bad row is rejected with its line, field and cure; the others go on."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, is_valid_id, read_manifest, to_jsonl

GOOD = {"image": "photos/a.png", "mask": "masks/a.png", "prompt": "a cup"}


def read(data: bytes | list[Any], name: str = "m.jsonl", **options: Any) -> ParsedManifest:
    if isinstance(data, list):
        data = "".join(json.dumps(row) + "\n" for row in data).encode()
    return read_manifest(
        data, location=parse(f"s3://bucket/inbox/{name}"), is_allowed=lambda place: place.bucket == "bucket", **options
    )


def only_rejection(parsed: ParsedManifest) -> str:
    assert len(parsed.accepted) == 1, "the good row goes on"
    assert len(parsed.rejected) == 1
    return parsed.rejected[0].error.message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "promt": "x"}, ["unknown field 'promt'", "did you mean 'prompt'"]),
        ({**GOOD, "zzz": 1}, ["unknown field 'zzz'", "known fields: image"]),
        ({"image": "a.png", "mask": "b.png"}, ["prompt", "missing"]),
        ({**GOOD, "steps": 0}, ["steps", "greater than or equal to 1"]),
        ({**GOOD, "steps": "20"}, ["steps", "integer"]),
        ({**GOOD, "seed": True}, ["seed", "integer"]),
        ({**GOOD, "seed": -1}, ["seed"]),
        ({**GOOD, "quality": "ultra"}, ["quality", "good"]),
        ({**GOOD, "quality": "best", "steps": 3}, ["quality or steps, not both"]),
        ({**GOOD, "strength": 0}, ["strength"]),
        ({**GOOD, "crop": -4}, ["crop", "0 to 4096"]),
        ({**GOOD, "format": "gif"}, ["format", "png"]),
        ({**GOOD, "prompt": "bell \a"}, ["prompt", "control characters"]),
        ({**GOOD, "prompt": "x" * 5000}, ["prompt", "4000 characters", "INPAINT_MAX_PROMPT_CHARS"]),
        ({**GOOD, "image": "../secret.png"}, ["image", "climbs"]),
        ({**GOOD, "image": "a/../../secret.png"}, ["image", "climbs"]),
        ({**GOOD, "image": "/etc/passwd"}, ["image", "absolute"]),
        ({**GOOD, "image": "s3://elsewhere/a.png"}, ["image", "INPAINT_ALLOWED_PREFIXES"]),
        ({**GOOD, "image": "s3://bucket/a/../b.png"}, ["image", "climbs"]),
        ({**GOOD, "mask": "http://169.254.169.254/latest"}, ["mask", "not supported"]),
        ({**GOOD, "mask": "masks/"}, ["mask", "folder"]),
        ({**GOOD, "image": "a\x00.png"}, ["image", "control character"]),
        ({**GOOD, "id": "../../x"}, ["id", "letters, digits"]),
        ({**GOOD, "id": "a/b"}, ["id"]),
        ({**GOOD, "id": "."}, ["id"]),
        ({**GOOD, "id": "<b>"}, ["id"]),
        ({**GOOD, "id": "CON"}, ["id", "reserved"]),
        ({**GOOD, "id": "é" * 120}, ["id"]),
        ("not an object", ["not a JSON object"]),
    ],
)
def test_a_bad_row_is_rejected_by_line_field_and_cure_and_the_rest_goes_on(row: Any, words: list[str]) -> None:
    message = only_rejection(read([GOOD, row]))
    assert message.startswith("row 2: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{broken", "not JSON"),
        (b'{"image": "a.png", "image": "b.png", "mask": "m.png", "prompt": "x"}', "image: the field is given twice"),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "strength": NaN}', "NaN"),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "guidance_scale": Infinity}', "Infinity"),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "guidance_scale": 1e999}', "guidance_scale"),
        (b'{"image": "a\xff.png", "mask": "m.png", "prompt": "x"}', "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_row_is_rejected_alone(line: bytes, words: str) -> None:
    assert words in only_rejection(read(json.dumps(GOOD).encode() + b"\n" + line + b"\n"))


def test_blank_lines_and_a_byte_order_mark_are_no_rows_and_lines_keep_their_numbers() -> None:
    parsed = read(b"\xef\xbb\xbf\n\n" + json.dumps(GOOD).encode() + b"\r\n\n")
    assert [row.row for row in parsed.accepted] == [3]
    assert parsed.rows == 1


@pytest.mark.parametrize("data", [b"", b"\n\n\n", b"\xef\xbb\xbf"])
def test_an_empty_manifest_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ManifestError, match="has no rows"):
        read(data)


def test_a_million_blank_lines_are_one_clear_error() -> None:
    with pytest.raises(ManifestError, match="has no rows"):
        read(b"\n" * 1_000_000)


def test_csv_with_a_byte_order_mark_carries_the_same_columns() -> None:
    text = (
        "\ufeffimage,mask,prompt,seed,mask_invert,crop,extra\r\n"
        'a.png,m.png,"a cup, blue",7,true,32,"{""sku"": 5}"\r\n'
        'b.png,m.png,"two\nlines",,,auto,\r\n'
        "c.png,m.png,x,many,,,\r\n"
        "d.png,m.png,x,1,,,,,\r\n"
        "e.png,m.png,x,1,,,not json\r\n"
    )
    parsed = read(text.encode(), "m.csv")
    first, second = parsed.accepted
    assert (first.prompt, first.seed, first.mask_invert, first.crop, first.extra) == (
        "a cup, blue",
        7,
        True,
        32,
        {"sku": 5},
    )
    assert (second.row, second.prompt, second.seed, second.crop) == (3, "two\nlines", None, "auto")
    assert [(row.row, row.error.field) for row in parsed.rejected] == [(5, "seed"), (6, None), (7, "extra")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"picture,mask\na,b\n", "must name the columns"),
        (b"image,mask,mask,prompt\na,b,c,d\n", "two columns have one name"),
        ("image,mask,prompt\nä,b,c\n".encode("latin-1"), "not UTF-8"),
        (b'image,mask,prompt\na,"b,c\n', "line 2"),
        (b"image,mask,prompt\n", "has no rows"),
    ],
)
def test_an_unreadable_csv_is_one_clear_error(data: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read(data, "m.csv")


def test_parquet_carries_the_same_columns_and_null_means_absent() -> None:
    buffer = io.BytesIO()
    rows = [{**GOOD, "seed": 3, "steps": None}, {**GOOD, "seed": None, "steps": 5}]
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    parsed = read(buffer.getvalue(), "m.parquet")
    assert [(row.row, row.id, row.seed, row.steps) for row in parsed.accepted] == [
        (1, "a", 3, None),
        (2, "a-2", None, 5),
    ]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_damaged_parquet_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ManifestError, match="not a readable Parquet file"):
        read(data, "m.parquet")


def test_another_ending_and_too_much_are_refused() -> None:
    with pytest.raises(ManifestError, match="not a manifest format"):
        read([GOOD], "m.xlsx")
    with pytest.raises(ManifestError, match="INPAINT_MAX_ROWS"):
        read([GOOD, GOOD, GOOD], limits=ManifestLimits(max_rows=2))
    with pytest.raises(ManifestError, match="INPAINT_MAX_MANIFEST_BYTES"):
        read([GOOD], limits=ManifestLimits(max_bytes=10))


def test_the_row_limit_keeps_the_first_rows() -> None:
    assert read([GOOD, GOOD, GOOD], row_limit=2).rows == 2


def test_a_duplicate_id_is_rejected_and_the_first_owner_keeps_it() -> None:
    parsed = read([{**GOOD, "id": "cup"}, {**GOOD, "id": "Cup"}, {**GOOD, "image": "cup.png"}])
    assert [(row.row, row.id) for row in parsed.accepted] == [(1, "cup"), (3, "cup-2")]
    assert parsed.rejected[0].error.message == "row 2: id: 'Cup' is already that of row 1: give each row its own"


def test_rows_resolve_to_full_uris_beside_their_manifest() -> None:
    row = read([GOOD]).accepted[0]
    assert (row.image, row.mask) == ("s3://bucket/inbox/photos/a.png", "s3://bucket/inbox/masks/a.png")


_TEXT = st.text(max_size=40)
_ROW = st.fixed_dictionaries(
    {"image": _TEXT, "mask": st.just("m.png"), "prompt": _TEXT},
    optional={"id": _TEXT, "seed": st.integers(-5, 2**70), "steps": st.integers(-1, 600), "strength": st.floats()},
)


@given(st.lists(_ROW, min_size=1, max_size=12))
def test_every_row_is_accepted_or_rejected_and_ids_are_unique_and_safe(rows: list[dict[str, Any]]) -> None:
    parsed = read(rows)
    assert sorted([row.row for row in parsed.accepted] + [row.row for row in parsed.rejected]) == list(
        range(1, len(rows) + 1)
    )
    ids = [row.id for row in parsed.accepted] + [row.id for row in parsed.rejected]
    assert len({name.casefold() for name in ids}) == len(ids)
    for row in parsed.accepted:
        assert is_valid_id(row.id)
        assert row.image.startswith("s3://bucket/inbox/")
        assert "/../" not in row.image


@given(st.lists(_ROW, min_size=1, max_size=6))
def test_accepted_rows_written_as_a_manifest_read_back_as_the_same_work(rows: list[dict[str, Any]]) -> None:
    parsed = read(rows)
    if not parsed.accepted:
        return
    again = read(to_jsonl([row.as_manifest_row() for row in parsed.accepted]), "elsewhere.jsonl")
    assert not again.rejected
    assert [row.model_copy(update={"row": 1}) for row in again.accepted] == [
        row.model_copy(update={"row": 1}) for row in parsed.accepted
    ]


@given(st.binary(max_size=300), st.sampled_from(["m.jsonl", "m.csv", "m.parquet"]))
def test_no_bytes_crash_a_reader(data: bytes, name: str) -> None:
    try:
        parsed = read(data, name)
    except ManifestError as error:
        assert "\n" not in str(error)
    else:
        assert parsed.rows > 0


@given(st.text(max_size=60))
def test_no_relative_key_leaves_its_prefix(key: str) -> None:
    prefix = Location("bucket", "inbox/")
    try:
        joined = prefix.join(key)
    except Exception as error:
        assert type(error).__name__ == "ForbiddenLocationError"
    else:
        assert prefix.contains(joined)
        assert ".." not in joined.key.split("/")
