"""`inpaint-ops deliver`: a run's images under their names, with digests and a contact sheet, whatever is in the way."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import SIDE_PRODUCTS, Settings
from inpaint_ops.delivering import deliver
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location, parse
from inpaint_ops.records import Output, Record, SideProductFile, Thumbnail
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import ObjectInfo, Storage
from tests.support.delivered import FAILED, PAINTED, RUN, checked, photo, put_run
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture
def workspace(prefix: Location, tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    """One store in a folder, then one on S3; a folder `out` beside may be written, too."""
    return Workspace.open(
        Settings(scratch=tmp_path / "scratch"),
        store=prefix.uri,
        also_writable=[parse(str(tmp_path / "out")), beside(prefix)],
        s3_client=lambda: request.getfixturevalue("s3_client"),
    )


def beside(prefix: Location) -> Location:
    """A prefix of the same store that is none of its own."""
    return prefix.parent.join("delivered/")


def test_a_run_becomes_a_folder_that_sha256sum_agrees_with(workspace: Workspace, tmp_path: Path) -> None:
    records = put_run(workspace)
    made = deliver(workspace, RUN, parse(str(tmp_path / "out")))
    out = tmp_path / "out"
    assert (made.delivered, made.failed, made.rejected, made.rows, made.is_whole) == (7, 1, 1, 9, False)
    assert checked(out) == PAINTED | {"contact-sheet/0001.html", "contents.jsonl", "delivery.json"}
    lines = [json.loads(line) for line in (out / "contents.jsonl").read_text().splitlines()]
    assert [(line["row"], line["id"], line["status"]) for line in lines] == [(r.row, r.id, r.status) for r in records]
    assert {line["file"] for line in lines} == PAINTED | {None}
    assert lines[FAILED - 1]["error"] == "ImageError"
    for line, record in zip(lines, records, strict=True):
        assert record.source is not None
        assert line["source"] == f"{record.row}.png"
        assert workspace.store.uri not in json.dumps(line), "whoever gets the images is told no place of the store"
        if line["file"]:
            assert hashlib.sha256((out / line["file"]).read_bytes()).hexdigest() == line["sha256"]
    note = json.loads((out / "delivery.json").read_text())
    assert (note["state"], note["run"], note["delivered"], note["rows"]) == ("complete", RUN, 7, 9)
    sheet = (out / "contact-sheet/0001.html").read_text()
    assert sheet.count("data:image/jpeg") == 3 * 7
    assert 'href="../row-00001.png"' in sheet
    assert "line 9 · rejected" in sheet
    assert workspace.store.uri not in sheet


def test_a_contact_sheet_names_no_place_of_the_store_where_a_picture_cannot_be_had(
    workspace: Workspace, tmp_path: Path
) -> None:
    put_run(workspace)
    workspace.storage.delete(workspace.store.join("photos/2.png"))
    made = deliver(workspace, RUN, parse(str(tmp_path / "out")))
    assert made.delivered == 7
    (line,) = made.left_out
    assert line.startswith("contact sheet: row 2: source: there is no object ")
    sheet = (tmp_path / "out/contact-sheet/0001.html").read_text()
    assert "no pictures could be made" in sheet
    assert workspace.store.uri not in sheet


def test_a_sheet_of_results_has_the_thumbnails_that_painting_wrote(workspace: Workspace, tmp_path: Path) -> None:
    """Sources and masks are not asked for; a thumbnail that is missing, another, or elsewhere is not shown."""
    layout = workspace.layout(RUN)
    webp = b"RIFF\x04\x00\x00\x00WEBP"
    elsewhere = workspace.storage.put(workspace.store.join("secret.webp"), webp).location.uri

    def small(record: Record, body: bytes = webp, uri: str = "", stated: bytes | None = None) -> dict[str, Any]:
        place = layout.thumbnail(layout.image(record.id, ".png"), 256)
        workspace.storage.put(place, body)
        digest = hashlib.sha256(body if stated is None else stated).hexdigest()
        return {"thumbnails": (Thumbnail(size=256, uri=uri or place.uri, sha256=digest, bytes=len(body)),)}

    put_run(
        workspace, row_1=small, row_2=lambda record: small(record, stated=b"other"),
        row_3=lambda record: small(record, uri=elsewhere), row_5=lambda record: small(record, b"<svg/>"),
    )  # fmt: skip
    for info in list(workspace.storage.list(workspace.store.join("photos/").as_prefix())):
        workspace.storage.delete(info.location)
    made = deliver(workspace, RUN, parse(str(tmp_path / "out")), contact_sheet="results")
    assert (made.delivered, [line for line in made.left_out if "sheet" in line]) == (7, [])
    sheet = (tmp_path / "out/contact-sheet/0001.html").read_text()
    assert sheet.count("data:image/webp;base64,") == 1
    assert sheet.count("it has no thumbnail") == 6
    assert "svg" not in sheet


def with_files_beside(workspace: Workspace, *rows: int) -> list[Record]:
    """The run, where these rows have a mask and a preview beside their image, and row 1 another run's patch."""
    put, layout = workspace.storage.put, workspace.layout(RUN)

    def named(record: Record) -> dict[str, Any]:
        files: list[SideProductFile] = []
        for kind in SIDE_PRODUCTS[1:]:
            place, body = layout.side_product(layout.image(record.id, ".png"), kind), f"{kind} {record.row}".encode()
            put(place, body)
            digest = hashlib.sha256(body).hexdigest()
            files.append(
                {"kind": kind, "uri": place.uri, "sha256": digest, "bytes": len(body), "width": 6, "height": 4}
            )
        stolen = {**files[0], "kind": "patch", "uri": workspace.store.join("photos/1.png").uri}
        return {
            "side_products": tuple(SideProductFile(**one) for one in ([*files, stolen] if record.row == 1 else files))
        }

    return put_run(workspace, **{f"row_{row}": named for row in rows})


@pytest.mark.parametrize("to", ["out", "out.zip"])
def test_files_beside_images_are_delivered_when_asked(workspace: Workspace, tmp_path: Path, to: str) -> None:
    with_files_beside(workspace, 1, 2, 3)
    workspace.storage.put(
        workspace.layout(RUN).side_product(workspace.layout(RUN).image("row-00003", ".png"), "mask"), b"?"
    )
    made = deliver(workspace, RUN, parse(str(tmp_path / to)), also=("patch", "mask"), contact_sheet=None)
    out = tmp_path / "out"
    if to.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / to) as archive:
            archive.extractall(tmp_path / "unpacked")
        out = tmp_path / "unpacked" / RUN
    beside = {f"side_products/row-0000{row}.png.mask.png" for row in (1, 2)}
    assert checked(out) == PAINTED | beside | {"contents.jsonl", "delivery.json"}
    assert (made.delivered, made.beside, len(made.left_out)) == (7, 2, 2)
    assert "row-00001: row 1: its patch is not where the run's lie" in made.left_out[0]
    assert made.left_out[1].startswith("row-00003: row 3: ")
    lines = [json.loads(line) for line in (out / "contents.jsonl").read_text().splitlines()]
    assert [line.get("side_products") for line in lines] == [
        {"mask": "side_products/row-00001.png.mask.png"}, {"mask": "side_products/row-00002.png.mask.png"},
        *[None] * 7,
    ]  # fmt: skip
    assert (out / "side_products/row-00002.png.mask.png").read_bytes() == b"mask 2"


def test_files_that_are_compared_at_once_are_fetched_to_places_of_their_own(
    workspace: Workspace, prefix: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_files_beside(workspace, 1, 2, 3)
    to, fetched, download = beside(prefix), [], Storage.download

    def noted(storage: Storage, where: Any, path: Path, **limits: Any) -> ObjectInfo:
        fetched.append(path)
        return download(storage, where, path, **limits)

    first = deliver(workspace, RUN, to, also=("mask", "preview"))
    monkeypatch.setattr(Storage, "download", noted)
    again = deliver(workspace, RUN, to, also=("mask", "preview"))
    assert (again.there, again.beside) == (7, first.beside)
    compared = [path.name for path in fetched if path.name.startswith("there-")]
    assert len(compared) == len(set(compared)) == 7 + first.beside


def test_files_beside_images_stay_where_they_are_unless_asked_for(workspace: Workspace, tmp_path: Path) -> None:
    with_files_beside(workspace, 1)
    made = deliver(workspace, RUN, parse(str(tmp_path / "out")), contact_sheet=None)
    assert made.beside == 0 and checked(tmp_path / "out") == PAINTED | {"contents.jsonl", "delivery.json"}


@pytest.mark.parametrize("name", ["out.tar.gz", "out.RAR"])
def test_an_archive_of_another_kind_is_no_folder(workspace: Workspace, tmp_path: Path, name: str) -> None:
    put_run(workspace)
    with pytest.raises(ConfigError, match=r"no \.(gz|rar) is written: give a \.zip"):
        deliver(workspace, RUN, parse(str(tmp_path / name)))
    assert not (tmp_path / name).exists()
    deliver(workspace, RUN, parse(f"{tmp_path / 'out' / name}/"))
    assert (tmp_path / "out" / name / "SHA256SUMS").exists()


def test_a_zip_file_holds_the_same_in_one_folder(workspace: Workspace, tmp_path: Path) -> None:
    put_run(workspace)
    path = tmp_path / "out.zip"
    made = deliver(workspace, RUN, parse(str(path)))
    assert made.delivered == 7
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unpacked")
    assert checked(tmp_path / "unpacked" / RUN) >= PAINTED
    with pytest.raises(ConfigError, match="is there already: choose another name, or add --replace"):
        deliver(workspace, RUN, parse(str(path)))
    assert deliver(workspace, RUN, parse(str(path)), replace=True).delivered == 7
    assert {entry.name for entry in tmp_path.iterdir()} >= {"out.zip", "unpacked"}
    assert not list(tmp_path.glob(".inpaint-tmp-*"))


def test_a_second_delivery_finds_all_there_and_a_changed_image_is_never_replaced_unasked(
    workspace: Workspace, prefix: Location
) -> None:
    put_run(workspace)
    to = beside(prefix)
    assert deliver(workspace, RUN, to).there == 0
    again = deliver(workspace, RUN, to)
    assert (again.delivered, again.there) == (7, 7)
    body = bytearray(workspace.storage.get(to.join("row-00003.png")))
    body[-20] ^= 1
    workspace.storage.put(to.join("row-00003.png"), bytes(body))
    with pytest.raises(ConfigError, match=r"row 3: .*row-00003.png is there already, with other bytes: .*--replace"):
        deliver(workspace, RUN, to)
    assert workspace.storage.get(to.join("row-00003.png")) == bytes(body)
    assert deliver(workspace, RUN, to, replace=True).there == 0
    assert workspace.storage.get(to.join("row-00003.png")) == photo(103)


def test_the_image_of_a_retry_has_the_rows_plain_name(workspace: Workspace, tmp_path: Path) -> None:
    layout = workspace.layout(RUN)
    body = photo(777)

    def painted_again(record: Record) -> dict[str, Any]:
        image = layout.image(record.id, ".png", retry=2)
        workspace.storage.put(image, body)
        output = Output(
            uri=image.uri, sha256=hashlib.sha256(body).hexdigest(), bytes=len(body), width=60, height=40, format="png"
        )
        return {"output": output, "retry": 2}

    put_run(workspace, row_2=painted_again)
    deliver(workspace, RUN, parse(str(tmp_path / "out")), contact_sheet=None)
    assert (tmp_path / "out" / "row-00002.png").read_bytes() == body
    assert checked(tmp_path / "out") == PAINTED | {"contents.jsonl", "delivery.json"}


def test_what_is_no_image_of_the_run_or_another_one_is_left_out_and_said(workspace: Workspace, tmp_path: Path) -> None:
    secret = workspace.storage.put(workspace.store.join("secret.png"), photo(5)).location.uri
    layout = workspace.layout(RUN)

    def of_another_place(record: Record) -> dict[str, Any]:
        assert record.output is not None
        return {"output": record.output.model_copy(update={"uri": secret})}

    put_run(workspace, row_1=of_another_place)
    swapped = bytearray(photo(102))
    swapped[-20] ^= 1
    workspace.storage.put(layout.image("row-00002", ".png"), bytes(swapped))
    workspace.storage.put(layout.image("row-00003", ".png"), b"cut off")
    workspace.storage.delete(layout.image("row-00005", ".png"))
    made = deliver(workspace, RUN, parse(str(tmp_path / "out")))
    assert made.delivered == 3
    why = dict(line.split(": ", 1) for line in made.left_out)
    assert why.keys() == {"row-00001", "row-00002", "row-00003", "row-00005"}
    assert "not where the run's images lie" in why["row-00001"]
    assert "is not the image that its record names" in why["row-00002"]
    assert "has 7 bytes, and its record says" in why["row-00003"]
    assert "there is no object" in why["row-00005"]
    names = {"row-00006.png", "row-00007.png", "row-00008.png"}
    assert checked(tmp_path / "out") == names | {"contact-sheet/0001.html", "contents.jsonl", "delivery.json"}
    lines = [json.loads(line) for line in (tmp_path / "out/contents.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines if line["status"] == "done" and not line["file"]] == [
        "DamagedObjectError", "DamagedObjectError", "DamagedObjectError", "ObjectNotFoundError",
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["", "runs/", "runs/night/images/", "inbox/x/", "claims/", "jobs/", "standing/a/"])
def test_nothing_is_delivered_to_where_the_store_keeps_its_own(workspace: Workspace, place: str) -> None:
    put_run(workspace)
    to = workspace.store.join(place) if place else workspace.store
    with pytest.raises(ConfigError, match="where the store keeps its runs or what starts them"):
        deliver(workspace, RUN, to)


def test_a_place_that_holds_another_delivery_or_files_of_our_names_is_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    put_run(workspace)
    out = tmp_path / "out"
    out.mkdir()
    (out / "SHA256SUMS").write_text("mine")
    with pytest.raises(ConfigError, match="holds a SHA256SUMS of something else"):
        deliver(workspace, RUN, parse(str(out)))
    (out / "delivery.json").write_text('{"run": "other", "manifest_sha256": "1"}')
    with pytest.raises(ConfigError, match="holds another run's delivery"):
        deliver(workspace, RUN, parse(str(out)))
    assert {path.name for path in out.iterdir()} == {"SHA256SUMS", "delivery.json"}


def test_a_run_that_is_not_there_or_not_over_is_named(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run 'nope'"):
        deliver(workspace, "nope", parse(str(tmp_path / "out")))
    put_run(workspace)
    workspace.storage.delete(workspace.layout(RUN).summary)
    with pytest.raises(ConfigError, match="has no report yet: wait for its end, or: inpaint-ops report night"):
        deliver(workspace, RUN, parse(str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="a ZIP file is written on this machine"):
        deliver(workspace, RUN, parse("s3://elsewhere/night.zip"))


@pytest.fixture
def remote(
    s3_prefix: Location,
    tmp_path: Path,
    aws_environment: ObjectStoreServer,
    proxy: FaultProxy,
    request: pytest.FixtureRequest,
) -> Workspace:
    """A finished run on S3; the environment leads there by way of the proxy."""
    made = Workspace.open(
        Settings(scratch=tmp_path / "scratch"),
        store=s3_prefix.uri,
        s3_client=lambda: request.getfixturevalue("s3_client"),
    )
    put_run(made)
    return made


def command(proxy: FaultProxy, store: Location, to: str, *more: str) -> tuple[list[str], dict[str, str]]:
    words = [sys.executable, "-m", "inpaint_ops.cli", "deliver", RUN, "--out", store.uri, "--to", to, "--json", *more]
    return words, os.environ | {"AWS_ENDPOINT_URL": proxy.url}


@dataclass
class Killed:
    """A delivery that the store keeps waiting for the last image, so that it can be killed before that."""

    proxy: FaultProxy
    words: list[str]
    environment: dict[str, str]

    def when(self, condition: Callable[[], bool]) -> None:
        """Kill it once it waits and `condition` holds; then the store answers again."""
        gate = threading.Event()
        held = self.proxy.on(
            Fault.DELAY, path="images/row-00008.png", seconds=0, before=lambda: gate.wait(PATIENCE) and None
        )
        process = subprocess.Popen(self.words, env=self.environment, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: held.matched and condition())
        finally:
            process.kill()
            process.wait()
            gate.set()


def test_a_delivery_that_was_killed_goes_on_where_it_stopped(
    remote: Workspace, proxy: FaultProxy, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words, environment = command(proxy, remote.store, str(out))
    Killed(proxy, words, environment).when((out / "row-00007.png").exists)
    assert json.loads((out / "delivery.json").read_text())["state"] == "under way"
    assert not (out / "SHA256SUMS").exists()
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["delivered"], found["rows"]) == (7, 9)
    assert 1 <= found["there"] <= 6
    assert checked(out) >= PAINTED


def test_a_zip_file_that_was_killed_is_not_there(remote: Workspace, proxy: FaultProxy, tmp_path: Path) -> None:
    words, environment = command(proxy, remote.store, str(tmp_path / "out.zip"))
    Killed(proxy, words, environment).when(lambda: bool(list(tmp_path.glob(".inpaint-tmp-*"))))
    assert not (tmp_path / "out.zip").exists()
    assert subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 3
    assert zipfile.ZipFile(tmp_path / "out.zip").testzip() is None


@pytest.mark.parametrize("can_copy", [True, False])
def test_the_store_copies_by_itself_and_where_it_cannot_the_bytes_go_through_us(
    remote: Workspace, proxy: FaultProxy, can_copy: bool
) -> None:
    to = beside(remote.store)
    if not can_copy:
        for name in PAINTED:
            proxy.on(Fault.NOT_IMPLEMENTED, method="PUT", path=f"delivered/{name}")
    words, environment = command(proxy, remote.store, to.uri, "--no-contact-sheet")
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["delivered"], found["read"]) == (7, 0 if can_copy else 7)
    assert proxy.count("GET", "/runs/night/images/") == found["read"]
    there = Storage(readable=[to, remote.store], s3_client=remote.storage._make_client)
    for name in PAINTED:
        copied, image = there.stat(to.join(name)), remote.layout(RUN).images.join(name)
        assert there.get(copied.location) == there.get(image)
    assert there.exists(to.join("SHA256SUMS"))
