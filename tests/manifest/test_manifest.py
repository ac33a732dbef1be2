"""A bad row is rejected with its line, field and cure; the others go on."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inpaint_ops.errors import ConfigError, ForbiddenLocationError, ManifestError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import (
    ManifestLimits,
    Row,
    is_valid_id,
    to_jsonl,
)
from tests.support.manifests import GOOD, only_rejection, parquet, read


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "promt": "x"}, ["unknown field 'promt'", "did you mean 'prompt'"]),
        ({**GOOD, "zzz": 1}, ["unknown field 'zzz'", "known fields: image"]),
        ({**GOOD, "color": "red"}, ["unknown field 'color'", "known fields: image"]),
        ({"image": "a.png", "mask": "b.png"}, ["prompt", "missing"]),
        ({**GOOD, "steps": 0}, ["steps", "0 is out of range: write an integer from 1 to 500"]),
        ({**GOOD, "steps": "twenty"}, ["steps", "integer"]),
        ({**GOOD, "steps": 20.5}, ["steps", "integer"]),
        ({**GOOD, "strength": "0,8"}, ["strength", "'0,8' has a decimal comma: write '0.8'"]),
        ({**GOOD, "seed": 1e17}, ["seed", "above 2^53", "loses digits", "integers or text"]),
        ({**GOOD, "image": "C:\\photos\\a.png"}, ["image", "Windows drive", "relative to the manifest"]),
        ({**GOOD, "image": "s3:/bucket/a.png"}, ["image", "one '/' where two belong: write 's3://bucket/a.png'"]),
        ({**GOOD, "image": "..\\secret.png"}, ["image", "is not a plain key"]),
        ({**GOOD, "image": "photos\\..\\..\\secret.png"}, ["image", "is not a plain key"]),
        ({**GOOD, "image": "\\\\host\\share\\a.png"}, ["image", "absolute"]),
        ({**GOOD, "image": "./"}, ["image", "empty"]),
        ({**GOOD, "seed": True}, ["seed", "integer"]),
        ({**GOOD, "seed": -1}, ["seed: -1 is out of range: write an integer from 0 to 9223372036854775807"]),
        ({**GOOD, "mask_invert": "WAHR"}, ["mask_invert: 'WAHR' is neither true nor false: write one of them"]),
        ({**GOOD, "quality": "Bests"}, ["quality: 'Bests' is none of good, high, best: did you mean 'best'?"]),
        (
            {**GOOD, "crop": "atuo"},
            ["crop: 'atuo' is none of none, auto, regions, tiles, and no integer from 0 to 4096"],
        ),
        ({**GOOD, "guidance_scale": "much"}, ["guidance_scale: 'much' is not a number: write a number from 0"]),
        ({**GOOD, "mask": ["m.png"]}, ["mask: a list is not text: write one text"]),
        ({**GOOD, "image": "a" * 1025}, ["image: is 1,025 characters long: keys have at most 1,024"]),
        ({**GOOD, "image": "https://h/?" + "a" * 1025}, ["image: is 1,036 characters long: keys have at most 1,024"]),
        ({**GOOD, "extra": ["a"]}, ['extra: a list is not an object: write {"name": value}']),
        ({**GOOD, "steps": "x" * 500}, ["steps: 'xxx", "… is not an integer"]),
        ({**GOOD, "quality": "ultra"}, ["quality", "good"]),
        ({**GOOD, "quality": "best", "steps": 3}, ["quality or steps, not both"]),
        ({**GOOD, "guidance_cutoff": 1.5}, ["guidance_cutoff: 1.5 is out of range: write a number above 0, up to 1"]),
        ({**GOOD, "strength": 0}, ["strength: 0 is out of range: write a number above 0, up to 1"]),
        ({**GOOD, "blend": "poisson", "mask_blur": 2}, ["mask_blur", "blend poisson", "leave one of them out"]),
        ({**GOOD, "mask_blur": 0.5, "blend": "hard"}, ["mask_blur", "blend hard", "blend feather or auto"]),
        ({**GOOD, "blend": "soft"}, ["blend", "poisson"]),
        ({**GOOD, "match": True}, ["match", "histogram"]),
        ({**GOOD, "grain": "film"}, ["grain", "match"]),
        ({**GOOD, "sharpen": "more"}, ["sharpen", "match"]),
        ({**GOOD, "fill": "patch"}, ["fill", "telea"]),
        ({**GOOD, "variants": 17}, ["variants", "16"]),
        ({**GOOD, "variants": 0}, ["variants", "1"]),
        ({**GOOD, "variants": "many"}, ["variants"]),
        ({**GOOD, "crop": -4}, ["crop", "0 to 4096"]),
        ({**GOOD, "format": "gif"}, ["format", "png"]),
        ({**GOOD, "prompt": "bell \a"}, ["prompt", "control characters"]),
        ({**GOOD, "prompt": "x" * 5000}, ["prompt", "4000 characters", "INPAINT_MAX_PROMPT_CHARS"]),
        ({**GOOD, "image": "../secret.png"}, ["image", "is not a plain key"]),
        ({**GOOD, "image": "a/../../secret.png"}, ["image", "is not a plain key"]),
        ({**GOOD, "image": "/etc/passwd"}, ["image", "absolute"]),
        ({**GOOD, "image": "s3://elsewhere/a.png"}, ["image", "INPAINT_ALLOWED_PREFIXES"]),
        ({**GOOD, "image": "s3://bucket/a/../b.png"}, ["image", "is not a plain key"]),
        ({**GOOD, "mask": "http://169.254.169.254/latest"}, ["mask", "not supported"]),
        ({**GOOD, "mask": "masks/"}, ["mask", "folder"]),
        ({**GOOD, "image": "a\x00.png"}, ["image", "control character"]),
        ({**GOOD, "id": "../../x"}, ["id", "letters, digits"]),
        ({**GOOD, "id": "a/b"}, ["id"]),
        ({**GOOD, "id": "."}, ["id"]),
        ({**GOOD, "id": "<b>"}, ["id"]),
        ({**GOOD, "id": "CON"}, ["id", "reserved"]),
        ({**GOOD, "id": "é" * 120}, ["id"]),
        ({**GOOD, "id": "x" * 121}, ["id", "1 to 120"]),
        ({**GOOD, "id": ".."}, ["id"]),
        ({**GOOD, "id": "a..b"}, ["id"]),
        ({**GOOD, "id": "a."}, ["id"]),
        ({**GOOD, "id": "a "}, ["id"]),
        ({**GOOD, "id": ""}, ["id"]),
        ({**GOOD, "id": "nul.png"}, ["id", "reserved"]),
        ({**GOOD, "id": "com¹"}, ["id", "reserved"]),
        ({**GOOD, "id": "aux .txt"}, ["id", "reserved"]),
        ({**GOOD, "id": "a\nb"}, ["id"]),
        ({**GOOD, "id": "a\u202eb"}, ["id"]),
        ({**GOOD, "id": "a\u200bb"}, ["id"]),
        ({**GOOD, "id": "&lt;script&gt;"}, ["id"]),
        ({**GOOD, "prompt": "\x1b[2J"}, ["prompt", "control characters"]),
        ({**GOOD, "prompt": "c1 \x9b"}, ["prompt", "control characters"]),
        ({**GOOD, "prompt": "x" * 100_000}, ["prompt", "4000 characters"]),
        ({**GOOD, "negative_prompt": "x" * 100_000}, ["negative_prompt", "4000 characters"]),
        ({**GOOD, "prompt": "\ud800"}, ["half of a surrogate pair"]),
        ({**GOOD, "extra": {"a": ["\udfff"]}}, ["half of a surrogate pair"]),
        ({**GOOD, "\ud800": 1}, ["half of a surrogate pair"]),
        ({**GOOD, "extra": {"a": nested(32)}}, ["extra", "nested more than 32 deep"]),
        ({**GOOD, "extra": {"a": nested(400)}}, ["extra", "nested more than 32 deep"]),
        ({**GOOD, "\x1b[31m\u2028": 1}, ["unknown field '\\x1b[31m\\u2028'"]),
        ({**GOOD, "u" * 10_000: 1}, ["unknown field 'uuu", "known fields: image"]),
        ({**GOOD, "image": "file://[/a.png"}, ["image", "no URI", "file:///path"]),
        ({**GOOD, "image": "file:///a#1.png"}, ["image", "%23"]),
        ({**GOOD, "image": "s3://elsewhere/\u2028\u202e\x85.png"}, ["image", "INPAINT_ALLOWED_PREFIXES", "\\u202e"]),
        ("not an object", ["not a JSON object"]),
    ],
)
def test_a_bad_row_is_rejected_by_line_field_and_cure_and_the_rest_goes_on(row: Any, words: list[str]) -> None:
    message = only_rejection(read([GOOD, row]))
    assert message.startswith("row 2: ")
    assert message.isprintable() and len(message) <= 2000
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{broken", "not JSON"),
        (b"{", "on a line of its own (as jq -c . does)"),
        (b'[{"image": "a.png"}]', "one to a line (as jq -c '.[]' does)"),
        (b'{"image": "a.png", "image": "b.png", "mask": "m.png", "prompt": "x"}', "image: the field is given twice"),
        (
            b'{"image": "a.png", "mask": "m.png", "prompt": "x", "strength": NaN}',
            "strength: NaN is not a number that JSON knows: leave the field out",
        ),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "guidance_scale": Infinity}', "Infinity"),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "guidance_scale": 1e999}', "guidance_scale"),
        (b'{"image": "a\xff.png", "mask": "m.png", "prompt": "x"}', "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "extra": {"x": 1e999}}', "extra: holds NaN, infinity"),
        (
            b'{"image": "a.png", "mask": "m.png", "prompt": "x", "extra": {"x": {"y": -Infinity}}}',
            "extra: -Infinity is not",
        ),
        (
            b'{"image": "a.png", "mask": "m.png", "prompt": "x", "extra": {"x": {"y": 1, "y": 2}}}',
            "y: the field is given",
        ),
        (b'{"\\u001b[31m": 1, "\\u001b[31m": 2}', "\\x1b[31m: the field is given twice"),
        (b'{"image": "a.png", "mask": "m.png", "prompt": "x", "seed": 1' + b"0" * 5000 + b"}", "not JSON"),
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


@pytest.mark.parametrize(
    "stem", ["𠀀" * 50, "é" * 60, "ᄀ-€ᅡ", "CON", "con.a", "..", "€", "a" * 300, "<img src=x>", "e\u0301\u202e"]
)
def test_ids_made_from_any_stem_are_names_and_read_back(stem: str) -> None:
    parsed = read([{**GOOD, "image": f"{stem}.png"}] * 12)
    assert not parsed.rejected and all(is_valid_id(row.id) for row in parsed.accepted)
    again = read([row.as_manifest_row() for row in parsed.accepted])
    assert [row.id for row in again.accepted] == [row.id for row in parsed.accepted]


NUMERIC = [
    name
    for name, field in Row.model_fields.items()
    if {int, float} & set(get_args(field.annotation) or [field.annotation])
]


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("field", NUMERIC)
def test_no_number_is_nan_or_infinite(field: str, value: str, name: str) -> None:
    """NaN in a CSV is what pandas writes for what is not given."""
    if name == "m.jsonl":
        spelling = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(value, value)
        data = json.dumps(GOOD).encode()[:-1] + f', "{field}": {spelling}}}'.encode()
    else:
        data = f"image,mask,prompt,{field}\na.png,m.png,x,{value}\n".encode()
    parsed = read(data, name)
    if (name, value) == ("m.csv", "nan"):
        assert getattr(parsed.accepted[0], field) == Row.model_fields[field].default
        return
    assert not parsed.accepted
    assert parsed.rejected[0].error.field == field
    assert field in parsed.rejected[0].error.message


def test_no_number_in_parquet_is_infinite_and_nan_is_not_given() -> None:
    absent = read(parquet([GOOD | dict.fromkeys(NUMERIC, float("nan"))]), "m.parquet").accepted[0]
    assert absent == read([GOOD]).accepted[0]
    wrong = [(field, float(value)) for field in NUMERIC for value in ("inf", "-inf")]
    parsed = read(parquet([GOOD | dict.fromkeys(NUMERIC) | {field: value} for field, value in wrong]), "m.parquet")
    assert not parsed.accepted
    assert [row.error.field for row in parsed.rejected] == [field for field, _ in wrong]


def test_the_numeric_fields_are_known() -> None:
    assert {
        "seed", "steps", "guidance_scale", "guidance_cutoff", "strength", "mask_threshold", "mask_dilate", "mask_blur",
        "crop", "variants",
    } == {*NUMERIC} - {"mask_invert"}  # fmt: skip


@pytest.mark.parametrize(
    "prompt", ["<script>alert(1)</script>", "=1+1", "a\nb\tc", "\u2028\u202e", "${HOME} %s {0}", "🙂"]
)
def test_prompts_are_kept_letter_by_letter(prompt: str) -> None:
    parsed = read([{**GOOD, "prompt": prompt}])
    assert parsed.accepted[0].prompt == prompt
    again = read(to_jsonl([parsed.accepted[0].as_manifest_row()]))
    assert again.accepted[0].prompt == prompt


def test_a_rejected_row_keeps_no_more_of_its_prompt_than_its_record_shows() -> None:
    assert len(read([{**GOOD, "prompt": "x" * 100_000}]).rejected[0].prompt) == 4000


def test_csv_with_a_byte_order_mark_carries_the_same_columns() -> None:
    text = (
        "\ufeffimage,mask,prompt,seed,mask_invert,crop,extra\r\n"
        'a.png,m.png,"a cup, blue",7,true,32,"{""sku"": 5}"\r\n'
        'b.png,m.png,"two\nlines",,,auto,\r\n'
        "c.png,m.png,x,many,,,\r\n"
        "d.png,m.png,x,1,,,,,y\r\n"
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
        (b"Image,MASK\na,b\n", "names are lower case, write 'image' for 'Image'"),
        (b"", "must name the columns .* it is empty"),
        (b"image,mask,mask,prompt\na,b,c,d\n", "two columns have one name"),
        ("image,mask,prompt\nä,b,c\n".encode("latin-1"), "not UTF-8"),
        (b'image,mask,prompt\na,"b,c\n', "line 2"),
        (b"image,mask,prompt\n", "has no rows: write one row per image"),
        (b"x" * 1_000_000 + b"\n1\n", "must name the columns"),
        (b"image," + b"x" * 100_000 + b"," + b"x" * 100_000 + b"\n", "two columns have one name"),
    ],
)
def test_an_unreadable_csv_is_one_clear_error(data: bytes, words: str) -> None:
    with pytest.raises(ManifestError, match=words) as raised:
        read(data, "m.csv")
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("steps", "3.5", "steps: '3.5' is not an integer: write an integer from 1 to 500"),
        ("crop", "²", "crop"),
        ("crop", "9" * 5000, "crop"),
        ("extra", "[" * 100_000, "extra: not a JSON object (nested too deeply)"),
        ("extra", '"{""a"": ""\\ud800""}"', "extra: not a JSON object (holds half of a surrogate pair"),
        ("extra", '"{""a"": 1, ""a"": 2}"', "a: the field is given twice"),
        ("extra", "[]", "extra"),
        ("extra", "x" * 2**21, "longer than 1048576 bytes"),
    ],
)
def test_a_bad_cell_rejects_its_row_alone(column: str, cell: str, words: str) -> None:
    parsed = read(f"image,mask,prompt,{column}\na.png,m.png,x,\na.png,m.png,x,{cell}\n".encode(), "m.csv")
    assert words in only_rejection(parsed)


def test_another_ending_and_too_much_are_refused() -> None:
    with pytest.raises(ManifestError, match="not a manifest format"):
        read([GOOD], "m.json")
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
@example("//")
@example("//etc/passwd")
@example("file:////etc//passwd/")
@example("~nobody-has-this-name/a")
@example("file://[/a")
def test_a_location_is_what_its_uri_says_or_a_config_error(text: str) -> None:
    try:
        found = parse(text)
    except (ConfigError, ForbiddenLocationError) as error:
        assert str(error).isprintable()
    else:
        assert parse(found.uri) == found
        assert found.bucket is not None or (found.key.startswith("/") and "//" not in found.key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3:/bucket/prefix/", "write 's3://bucket/prefix/'"),
        ("file:/srv/photos", "write 'file:///srv/photos'"),
        ("s3:/key:secret@bucket/", "write 's3://bucket/'"),
        ("C:\\photos", "Windows drive"),
        ("D:/photos", "Windows drive"),
    ],
)
def test_what_only_looks_like_a_folder_of_this_machine_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert words in str(caught.value) and "secret" not in str(caught.value)
    assert parse("./a:/b").key.endswith("/a:/b"), "a folder may be called so"


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
