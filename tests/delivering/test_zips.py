"""A run's ZIP, sent while it is made: the same as the file, whole or no archive, and small in memory."""

from __future__ import annotations

import io
import shutil
import subprocess
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.delivering import deliver, zip_stream, zips
from inpaint_ops.errors import ConfigError, StorageUnavailableError
from inpaint_ops.locations import Location, parse
from inpaint_ops.records import Record
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.delivered import PAINTED, RUN, checked, put_run
from tests.support.fault_proxy import Fault, FaultProxy


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(
        Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"), also_writable=[parse(str(tmp_path))]
    )


def test_it_holds_what_a_delivered_folder_holds(workspace: Workspace, tmp_path: Path) -> None:
    put_run(workspace)
    sent: list[bytes] = []
    made = zip_stream(workspace, RUN)(sent.append)
    assert (made.delivered, made.failed, made.rejected) == (7, 1, 1)
    assert max(map(len, sent)) <= 2**20
    with zipfile.ZipFile(io.BytesIO(b"".join(sent))) as archive:
        assert archive.testzip() is None
        assert not any(entry.flag_bits & 8 for entry in archive.infolist()), (
            "each entry states its size before its bytes"
        )
        archive.extractall(tmp_path / "unpacked")
    assert checked(tmp_path / "unpacked" / RUN) == PAINTED | {
        "contact-sheet/0001.html",
        "contents.jsonl",
        "delivery.json",
    }
    deliver(workspace, RUN, parse(str(tmp_path / "out")), contact_sheet="results")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name not in ("SHA256SUMS", "delivery.json"):
            there = tmp_path / "unpacked" / RUN / path.relative_to(tmp_path / "out")
            assert there.read_bytes() == path.read_bytes()


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip on this machine")
def test_other_programs_open_it(workspace: Workspace, tmp_path: Path) -> None:
    put_run(workspace)
    with (tmp_path / "a.zip").open("wb") as out:
        zip_stream(workspace, RUN)(lambda piece: out.write(piece) and None)
    subprocess.run(["unzip", "-t", str(tmp_path / "a.zip")], check=True, capture_output=True)


def test_beyond_four_gigabytes_its_places_have_64_bits(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if 5 GB had been sent already: the file has a hole there."""
    put_run(workspace)
    before = 5 * 2**30

    class Begun(zips._Window):
        def __init__(self) -> None:
            super().__init__()
            self._before = before

    monkeypatch.setattr(zips, "_Window", Begun)
    with (tmp_path / "a.zip").open("wb") as out:
        out.seek(before)
        zip_stream(workspace, RUN)(lambda piece: out.write(piece) and None)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.getinfo(f"{RUN}/row-00001.png").header_offset >= before
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-t", str(tmp_path / "a.zip")], check=True, capture_output=True)


def test_one_that_is_damaged_is_left_out_and_named_and_the_others_are_there(workspace: Workspace) -> None:
    records = put_run(workspace)
    (third,) = [record for record in records if record.row == 3]
    assert third.output is not None
    workspace.storage.put(third.output.uri, b"x" * third.output.bytes)
    workspace.storage.delete(workspace.layout(RUN).image("row-00002", ".png"))
    sent: list[bytes] = []
    made = zip_stream(workspace, RUN)(sent.append)
    assert made.delivered == 5
    assert [line.partition(":")[0] for line in made.left_out if line.startswith("row-")] == ["row-00002", "row-00003"]
    with zipfile.ZipFile(io.BytesIO(b"".join(sent))) as archive:
        assert archive.testzip() is None
        assert {f"{RUN}/row-0000{row}.png" for row in (2, 3)}.isdisjoint(archive.namelist())
        assert '"error": "DamagedObjectError"' in archive.read(f"{RUN}/contents.jsonl").decode()


class LeftError(Exception):
    """The client has gone."""


@pytest.mark.parametrize("after", [1, 4, 9])
def test_what_breaks_off_is_no_archive(workspace: Workspace, after: int) -> None:
    put_run(workspace)
    sent: list[bytes] = []

    def send(piece: bytes) -> None:
        if len(sent) == after:
            raise LeftError
        sent.append(piece)

    with pytest.raises(LeftError):
        zip_stream(workspace, RUN)(send)
    assert len(sent) == after
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(sent)))


@pytest.mark.parametrize(
    "name", ["../../out", "/etc/x", "a/../../b", "C:\\x", "..\\..\\x", "a\x00b", "nul", "a\u202eb", "./x", "a//b"]
)
def test_no_name_of_the_store_leads_out_of_the_folder(workspace: Workspace, name: str) -> None:
    """Whoever may write to the store writes the results that are read here."""
    evil = workspace.layout(RUN).images.join("x.png")

    def hostile(record: Record) -> dict[str, Any]:
        assert record.output is not None
        output = record.output.model_copy(update={"uri": f"{evil.uri.removesuffix('x.png')}{name}.png"})
        by_name = output.model_copy(update={"name": f"{name}.png"}) if record.row == 3 else output
        return {"id": name if record.row == 2 else record.id, "output": by_name}

    put_run(workspace, row_2=hostile, row_3=hostile)
    sent: list[bytes] = []
    made = zip_stream(workspace, RUN)(sent.append)
    assert made.delivered == 5
    why = "\n".join(made.left_out)
    assert "row 2: its id could not name a file everywhere" in why
    assert "row 3: its image is not where the run's images lie" in why
    names = zipfile.ZipFile(io.BytesIO(b"".join(sent))).namelist()
    assert {one.split("/")[0] for one in names} == {RUN}
    assert {one.partition("/")[2] for one in names} == (
        PAINTED - {"row-00002.png", "row-00003.png"}
        | {"contact-sheet/0001.html", "contents.jsonl", "delivery.json", "SHA256SUMS"}
    )


def test_a_store_that_does_not_answer_half_way_leaves_no_archive(
    object_store: ObjectStoreServer, s3_prefix: Location, proxy: FaultProxy
) -> None:
    def opened(endpoint: str) -> Workspace:
        client = make_s3_client(object_store.session(), endpoint_url=endpoint, attempts=1)
        return Workspace.open(Settings(storage_tries=1), store=s3_prefix.uri, s3_client=lambda: client)

    records = put_run(opened(object_store.endpoint))
    workspace = opened(proxy.url)
    proxy.on(Fault.UNAVAILABLE, method="GET", path=f"/images/{records[5].id}", times=1000)
    sent: list[bytes] = []
    with pytest.raises(StorageUnavailableError):
        zip_stream(workspace, RUN)(sent.append)
    assert sent
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(sent)))


def test_a_run_without_a_report_is_refused_before_a_byte_is_sent(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="there is no run 'nowhere'"):
        zip_stream(workspace, "nowhere")


def test_memory_holds_one_image_and_not_the_archive(workspace: Workspace) -> None:
    put_run(workspace)
    window = zips._Window()
    largest = 0
    tracemalloc.start()
    with window, zipfile.ZipFile(window, "w") as archive:
        for number in range(200):
            with archive.open(zipfile.ZipInfo(f"{number}.png"), "w") as out:
                out.write(bytes(2**20))
            for piece in window.taken():
                largest = max(largest, len(piece))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert largest <= 2**20
    assert peak < 40 * 2**20, "200 MiB went through"
