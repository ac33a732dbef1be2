"""JSON in another layout than one object per line is one error with its cure."""

from __future__ import annotations

import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, read_manifest


def read(data: bytes) -> ParsedManifest:
    place = parse("s3://bucket/inbox/m.jsonl")
    return read_manifest(data, location=place, is_allowed=lambda _: True, limits=ManifestLimits())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'[\n  {"image": "a.png", "mask": "m.png", "prompt": "x"}\n]\n', "a JSON array over several lines"),
        (b'[{"image": "a.png"},\n{"image": "b.png"}]\n', "a JSON array over several lines"),
        (b'[{\n"image": "a.png"}]', "a JSON array over several lines"),
        (b'\n{\n "image": "a.png"\n}\n', "JSON objects over several lines"),
    ],
)
def test_json_of_another_layout_is_one_error_and_not_one_per_line(data: bytes, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        read(data)


@pytest.mark.parametrize("first", [b"[", b"{", b'[{"image": "a.png"},'])
def test_one_bad_line_before_good_ones_is_a_row(first: bytes) -> None:
    good = b'{"image": "a.png", "mask": "m.png", "prompt": "x"}\n'
    parsed = read(first + b"\n" + good)
    assert [row.row for row in parsed.accepted] == [2] and [row.row for row in parsed.rejected] == [1]
