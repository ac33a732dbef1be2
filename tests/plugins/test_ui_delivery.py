"""A run's ZIP from its page: downloaded in Chromium, one at a time per user, whole or seen to break off."""

from __future__ import annotations

import hashlib
import io
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from inpaint_ops.errors import StorageUnavailableError
from inpaint_ops.records import Output
from inpaint_ops.report import results_jsonl
from inpaint_ops.storage import Storage
from inpaint_ops_airflow.ui import delivering
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, patient
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import put_finished_run
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["chromium", "served"]

RUN, ROWS, IMAGE_BYTES = "handed-on", 120, 2**20


@pytest.fixture(scope="module")
def handed_on(served: ServedPages) -> ServedPages:
    """A finished run of 120 images of 1 MiB each; line 120 was rejected."""
    workspace, layout = served.workspace, served.workspace.layout(RUN)
    _, records = put_finished_run(workspace, RUN, ROWS, rejected=1)
    found, random = [], np.random.default_rng(7)
    for record in records:
        if record.output is not None:
            body, image = random.bytes(IMAGE_BYTES), layout.image(record.id, ".png")
            workspace.storage.put(image, body)
            output = Output(
                uri=image.uri, sha256=hashlib.sha256(body).hexdigest(), bytes=len(body), width=1, height=1, format="png"
            )
            record = record.model_copy(update={"output": output})
        found.append(record)
    workspace.storage.put(layout.results, results_jsonl(found))
    return served


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were fetched from the store."""
    found: list[str] = []
    download = Storage.download

    def counted(self: Storage, where: Any, path: Path, **options: Any) -> Any:
        if "/images/" in str(where):
            found.append(str(where))
        return download(self, where, path, **options)

    monkeypatch.setattr(Storage, "download", counted)
    return found


def as_user(name: str, **headers: str) -> httpx.Client:
    return httpx.Client(cookies={"user": name, "role": "viewer"}, headers=headers, timeout=PATIENCE)


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    yield
    wait_until(lambda: not delivering._under_way)
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery"])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("view", ["light", "dark"])
def test_the_zip_is_downloaded_by_keyboard_and_its_digests_hold(
    chromium: Browser, handed_on: ServedPages, tmp_path: Path, view: str
) -> None:
    host = handed_on.url.partition("/airflow")[0]
    context = patient(chromium.new_context(accept_downloads=True, **VIEWS[view]))
    context.add_cookies(
        [{"name": "user", "value": "ann", "url": host}, {"name": "role", "value": "viewer", "url": host}]
    )
    watched = Watched(context, host)
    page = watched.page
    page.goto(f"{handed_on.url}/runs/{RUN}/")
    expect(page.locator(".thumb")).to_have_count(48)
    choice = page.locator("select[name=only]")
    choice.focus()
    page.keyboard.press("ArrowDown")
    expect(choice).to_have_value("accepted")
    page.keyboard.press("ArrowUp")
    expect(choice).to_have_value("done")
    page.keyboard.press("Tab")
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == f"{RUN}.zip"
    saved.value.save_as(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / RUN, check=True)
    assert len(list((tmp_path / RUN).glob("*.png"))) == ROWS - 1
    assert (tmp_path / RUN / "contact-sheet/0001.html").exists()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()
    assert not watched.complaints
    assert not watched.elsewhere


def test_all_of_it_is_there_in_few_pieces_of_memory(handed_on: ServedPages) -> None:
    with as_user("ann", **{"Accept-Encoding": "gzip"}) as client:
        reply = client.get(f"{handed_on.url}/runs/{RUN}/delivery.zip")
    assert reply.status_code == 200
    assert reply.headers["content-encoding"] == "identity", "it is not compressed once more"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.testzip() is None
        assert sum(name.endswith(".png") for name in archive.namelist()) == ROWS - 1


def test_who_leaves_ends_the_work(handed_on: ServedPages, read: list[str]) -> None:
    with as_user("ann") as client, client.stream("GET", f"{handed_on.url}/runs/{RUN}/delivery.zip") as reply:
        next(reply.iter_raw())
    wait_until(lambda: not delivering._under_way)
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery"])
    assert len(read) < ROWS / 2


def test_who_takes_nothing_loses_the_place(
    handed_on: ServedPages, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "PATIENCE_SECONDS", 0.2)
    with as_user("ann") as client, client.stream("GET", f"{handed_on.url}/runs/{RUN}/delivery.zip") as reply:
        wait_until(lambda: not delivering._under_way)
        assert len(read) < ROWS / 2
        with pytest.raises(httpx.RemoteProtocolError):
            reply.read()


def test_one_at_a_time_per_user_and_two_in_all(handed_on: ServedPages) -> None:
    url = f"{handed_on.url}/runs/{RUN}/delivery.zip"
    with as_user("ann") as ann, as_user("ben") as ben, as_user("eve") as eve, ann.stream("GET", url) as first:
        assert first.status_code == 200
        again = ann.get(url, headers={"Accept": "application/json"})
        assert (again.status_code, again.headers["retry-after"]) == (429, "30")
        assert again.json()["detail"].startswith(f"the ZIP of {RUN} is still being sent to you")
        with ben.stream("GET", url) as second:
            assert second.status_code == 200
            assert eve.get(url).status_code == 503
    wait_until(lambda: not delivering._under_way)
    with as_user("ann") as ann:
        assert ann.get(f"{url}?only=accepted").status_code == 200


def test_what_breaks_off_is_seen_to_break_off(handed_on: ServedPages, monkeypatch: pytest.MonkeyPatch) -> None:
    download = Storage.download

    def breaks(self: Storage, where: Any, path: Path, **options: Any) -> Any:
        if "row-00050" in str(where):
            raise StorageUnavailableError("the store did not answer")
        return download(self, where, path, **options)

    monkeypatch.setattr(Storage, "download", breaks)
    got = bytearray()
    url = f"{handed_on.url}/runs/{RUN}/delivery.zip"
    with as_user("ann") as client, client.stream("GET", url) as reply, pytest.raises(httpx.RemoteProtocolError):
        for piece in reply.iter_raw():
            got += piece
    assert len(got) > 10 * IMAGE_BYTES
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(got))


def test_what_cannot_be_delivered_is_said_before_a_byte_is_sent(handed_on: ServedPages) -> None:
    with as_user("ann", Accept="application/json") as client:
        assert client.get(f"{handed_on.url}/runs/nowhere/delivery.zip").status_code == 404
        assert client.get(f"{handed_on.url}/runs/{RUN}/delivery.zip?only=nothing").status_code == 422
        elsewhere = client.get(f"{handed_on.url}/runs/{RUN}/delivery.zip", headers={"Sec-Fetch-Site": "cross-site"})
        assert elsewhere.status_code == 403
