"""A manifest that unpacks to more than it is: what is unpacked is bounded, wherever it is packed."""

from __future__ import annotations

import gzip
import io
import re
import tracemalloc
import zipfile
from pathlib import Path

import openpyxl
import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest import ManifestLimits, read_manifest

MIB = 2**20


def read(data: bytes, name: str, max_bytes: int = MIB) -> None:
    limits = ManifestLimits(max_bytes=max_bytes, max_row_bytes=64 * 2**10)
    read_manifest(data, location=Location("b", f"inbox/{name}"), is_allowed=lambda _: True, limits=limits)


def workbook(prompt: str = "x") -> dict[str, bytes]:
    book = openpyxl.Workbook()
    book.active.append(["image", "mask", "prompt"])
    book.active.append(["a.png", "m.png", prompt])
    sink = io.BytesIO()
    book.save(sink)
    with zipfile.ZipFile(sink) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return sink.getvalue()


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv.gz", "m.parquet", "m.xlsx"])
def test_a_gzip_bomb_is_unpacked_up_to_the_limit(name: str) -> None:
    """A megabyte of gzip that is a gigabyte of zeros."""
    bomb = gzip.compress(b"\0" * (64 * MIB)) * 2
    tracemalloc.start()
    with pytest.raises(ManifestError, match=r"gzip that unpacks to more than 1048576 bytes \(INPAINT_MAX_MANIFEST"):
        read(bomb, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_a_workbook_that_unpacks_to_too_much_is_refused() -> None:
    """A sheet of kilobytes whose XML is 64 MiB of blanks."""
    members = workbook()
    members["xl/worksheets/sheet1.xml"] += b" " * (64 * MIB)
    data = zipped(members)
    assert len(data) < MIB
    with pytest.raises(ManifestError, match=r"unpacks to more than 1048576 bytes \(INPAINT_MAX_MANIFEST_BYTES\)"):
        read(data, "m.xlsx")


def test_a_workbook_whose_archive_lies_about_its_size_dies_alone() -> None:
    """The same, with a directory that says a hundred bytes: the reader's limit of memory holds."""
    members = workbook()
    sheet = members["xl/worksheets/sheet1.xml"]
    row = b'<row r="%d"><c r="A%d" t="inlineStr"><is><t>' + b"x" * 30_000 + b"</t></is></c></row>"
    many = b"".join(row.replace(b"%d", str(at).encode()) for at in range(3, 3000))
    members["xl/worksheets/sheet1.xml"] = sheet.replace(b"</sheetData>", many + b"</sheetData>")
    data = bytearray(zipped(members))
    size = len(members["xl/worksheets/sheet1.xml"])
    assert data.count(size.to_bytes(4, "little")) == 2
    data = bytearray(bytes(data).replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(ManifestError, match=r"^m\.xlsx: "):
        read(bytes(data), "m.xlsx")


def test_a_cell_far_away_makes_no_row_as_wide() -> None:
    """One cell in the last column and line of a sheet, between which a reader would allot every cell."""
    members = workbook()
    sheet = members["xl/worksheets/sheet1.xml"]
    far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    members["xl/worksheets/sheet1.xml"] = sheet.replace(b"</sheetData>", far)
    with pytest.raises(ManifestError, match=r"^m\.xlsx: "):
        read(zipped(members), "m.xlsx")


def test_an_external_entity_in_a_workbook_reads_no_file(tmp_path: Path) -> None:
    """A prompt that is `&secret;`, declared as a file of this machine."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    members = workbook("PLACE")
    for name, body in members.items():
        if b"PLACE" in body:
            head, _, rest = body.rpartition(b"?>")
            doctype = b'<!DOCTYPE s [<!ENTITY secret SYSTEM "file://%s">]>' % str(secret).encode()
            members[name] = (head + b"?>" if head else b"") + doctype + rest.replace(b"PLACE", b"&secret;")
    limits = ManifestLimits()
    try:
        parsed = read_manifest(
            zipped(members), location=Location("b", "m.xlsx"), is_allowed=lambda _: True, limits=limits
        )
    except ManifestError as error:
        assert "canary" not in str(error)
    else:
        assert all("canary" not in row.prompt for row in parsed.accepted)
        assert all("canary" not in row.error.message for row in parsed.rejected)


def test_entities_in_a_cell_with_an_error_are_not_followed_and_do_not_grow(tmp_path: Path) -> None:
    """Errors are read from the sheet's XML by a parser of Python's own."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    laughs = "".join(f'<!ENTITY a{at} "{f"&a{at - 1};" * 10}">' for at in range(1, 10))
    for doctype, value in (
        (f'<!DOCTYPE s [<!ENTITY secret SYSTEM "file://{secret}">]>', "&secret;"),
        (f'<!DOCTYPE s [<!ENTITY a0 "ha">{laughs}]>', "&a9;"),
    ):
        members = workbook()
        for name, body in members.items():
            if name.startswith("xl/worksheets/"):
                cell = re.search(rb'<c r="C2"[^>]*>.*?</c>', body, re.DOTALL)
                assert cell is not None
                body = body.replace(cell[0], f'<c r="C2" t="e"><v>{value}</v></c>'.encode())
                head, _, rest = body.rpartition(b"?>")
                members[name] = (head + b"?>" if head else b"") + doctype.encode() + rest
        data = zipped(members)
        try:
            parsed = read_manifest(data, location=Location("b", "m.xlsx"), is_allowed=lambda _: True)
        except ManifestError as error:
            assert "canary" not in str(error) and len(str(error)) < 1000
        else:
            [row] = parsed.rejected
            assert "'#UNKNOWN!' is the error of a spreadsheet" in row.error.message
