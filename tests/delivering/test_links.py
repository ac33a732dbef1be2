"""`deliver --link`: a gallery in the store that anybody can see who has its link, until that ends, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from playwright.sync_api import Browser

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.delivering import Linked, deliver_link, links, sheet_pages
from inpaint_ops.delivering.links import Links
from inpaint_ops.delivering.sheet import jumps
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location, parse
from inpaint_ops.records import now
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.browser import CHROMIUM, chromium
from tests.support.delivered import PAINTED, RUN, put_run
from tests.support.people import problems
from tests.support.scripted_store import BUCKET, ScriptedStore

__all__ = ["chromium"]


@pytest.fixture
def workspace(s3_prefix: Location, s3_client: object) -> Workspace:
    return opened(s3_prefix, s3_client)


def opened(store: Location, client: object, hours: float = 168) -> Workspace:
    return Workspace.open(Settings(link_hours=hours), store=store.uri, s3_client=lambda: client)


def fetched(link: str) -> bytes:
    with urllib.request.urlopen(link) as reply:
        return bytes(reply.read())


def end_of(link: str) -> datetime:
    until = parse_qs(urlsplit(link).query)
    signed = datetime.strptime(until["X-Amz-Date"][0] + "+0000", "%Y%m%dT%H%M%SZ%z")
    return signed + timedelta(seconds=int(until["X-Amz-Expires"][0]))


def links_of(page: bytes) -> list[str]:
    return [unescape(found) for found in re.findall(r'<a href="([^"]+)"', page.decode())]


def pages_from(link: str) -> Iterator[bytes]:
    """Every page that the links to the next page lead to, from the first."""
    while True:
        page = fetched(link)
        yield page
        following = re.search(r'<a href="([^"]+)">Next page', page.decode())
        if following is None:
            return
        link = unescape(following[1])


def test_a_link_shows_the_images_of_the_run_to_whoever_has_no_key(
    workspace: Workspace, object_store: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run(workspace)
    monkeypatch.setattr(sheet_pages, "PAGE_ROWS", 4)
    made = deliver_link(workspace, RUN, 24)
    assert (made.delivery.delivered, made.delivery.chosen) == (7, 9)
    assert timedelta(hours=23, minutes=50) < made.end - now() <= timedelta(hours=24)
    assert (made.shortened, made.may_end_earlier) == (False, False)
    pages = list(pages_from(made.link))
    assert len(pages) == 3
    ends = f"{made.end:%Y-%m-%d %H:%M}"
    images = set()
    for page in pages:
        assert object_store.secret_key.encode() not in page
        assert b"<script" not in page
        assert ends in page.decode()
        for link in links_of(page):
            split = urlsplit(link)
            assert end_of(link) <= made.end, "all end with the gallery"
            fetched(link)
            if "/images/" in split.path:
                images.add(split.path.rpartition("/")[2])
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    fetched(link.partition("?")[0])
    assert images == PAINTED
    contents = [json.loads(line) for line in workspace.storage.get(made.gallery.join("contents.jsonl")).splitlines()]
    assert len(contents) == 9
    written = [info.location.key for info in workspace.storage.list(workspace.places.linked)]
    assert all(key.startswith(made.gallery.key) for key in written)
    assert not [key for key in written if key.endswith(".png")], "no image is copied"


def test_a_link_that_is_signed_late_ends_with_the_others_too(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time counts from its signature, which a busy machine makes later than it has looked at the clock."""
    end, late = now() + timedelta(hours=1), iter([timedelta(seconds=4)])
    monkeypatch.setattr(links, "now", lambda: now() - next(late, timedelta()))
    link = Links(workspace.storage, workspace.store.join("linked/x/"), end).link("0001.html")
    assert timedelta(seconds=-60) < end_of(link) - end <= timedelta()


def test_two_galleries_of_one_run_share_no_page(workspace: Workspace) -> None:
    """Else the first link would lead to pages whose links end later than it does."""
    put_run(workspace)
    first, second = (deliver_link(workspace, RUN, hours, sheet="results") for hours in (1, 2))
    assert first.gallery != second.gallery
    assert fetched(first.link) != fetched(second.link)


def test_an_image_that_is_gone_is_left_out_and_told(workspace: Workspace) -> None:
    put_run(workspace)
    workspace.storage.delete(workspace.layout(RUN).images.join("row-00002.png"))
    made = deliver_link(workspace, RUN, 1)
    assert made.delivery.delivered == 6
    assert "row-00002" in made.delivery.left_out[0]
    assert not [link for link in links_of(fetched(made.link)) if "row-00002" in link]


@pytest.mark.parametrize(
    ("allowed", "hours", "message"),
    [(0, 1, "INPAINT_LINK_HOURS"), (24, 24.5, "at most 24 hours"), (24, 0, "more than 0"), (24, -1, "more than 0")],
)
def test_no_link_is_made_that_the_setting_does_not_allow(
    s3_prefix: Location, s3_client: object, allowed: float, hours: float, message: str
) -> None:
    workspace = opened(s3_prefix, s3_client, allowed)
    put_run(workspace)
    with pytest.raises(ConfigError, match=message):
        deliver_link(workspace, RUN, hours)
    assert not list(workspace.storage.list(workspace.places.linked))


def test_the_setting_allows_no_more_than_signatures_can() -> None:
    with pytest.raises(ValueError, match="168"):
        Settings(link_hours=169)


def test_a_folder_has_no_links(tmp_path: object) -> None:
    workspace = Workspace.open(Settings(link_hours=1), store=str(tmp_path))
    put_run(workspace)
    with pytest.raises(ConfigError, match="a folder has no links"):
        deliver_link(workspace, RUN, 1)


class TestTemporaryCredentials:
    @staticmethod
    def linked(workspace: Workspace, client: object, credentials: object) -> Linked:
        """A gallery made while the client's keys are these; what else it does goes by its own."""
        put_run(workspace)
        signer = client._request_signer  # type: ignore[attr-defined]
        own = signer._credentials
        signer._credentials = credentials
        try:
            return deliver_link(workspace, RUN, 24, sheet="results")
        finally:
            signer._credentials = own

    def keys(self, server: ObjectStoreServer) -> tuple[str, str]:
        return server.env["AWS_ACCESS_KEY_ID"], server.secret_key

    def test_the_link_ends_with_them(
        self, workspace: Workspace, s3_client: object, object_store: ObjectStoreServer
    ) -> None:
        access, secret = self.keys(object_store)
        end = now() + timedelta(hours=2)
        temporary = RefreshableCredentials(access, secret, None, end, dict, "test")
        made = self.linked(workspace, s3_client, temporary)
        assert (made.end, made.shortened) == (end, True)
        assert len(fetched(made.link)) > 1000

    def test_that_end_within_a_minute_none_is_made(
        self, workspace: Workspace, s3_client: object, object_store: ObjectStoreServer
    ) -> None:
        access, secret = self.keys(object_store)

        def refreshed() -> dict[str, str]:
            end = now() + timedelta(seconds=40)
            return {"access_key": access, "secret_key": secret, "token": "", "expiry_time": end.isoformat()}

        temporary = RefreshableCredentials.create_from_metadata(refreshed(), refreshed, "test")
        with pytest.raises(ConfigError, match="credentials end at"):
            self.linked(workspace, s3_client, temporary)

    def test_whose_end_nobody_knows_are_told(self) -> None:
        """The store of the tests refuses a token that it has not given."""
        session = boto3.session.Session("scripted", "scripted", "a-token", region_name="us-east-1")
        with ScriptedStore() as store:
            client = make_s3_client(session, endpoint_url=store.url)
            workspace = opened(parse(f"s3://{BUCKET}/store/"), client)
            put_run(workspace)
            made = deliver_link(workspace, RUN, 24, sheet="results")
        assert made.may_end_earlier
        assert "X-Amz-Security-Token=a-token" in made.link


def test_the_command_prints_the_link_once_and_logs_it_never(
    workspace: Workspace, object_store: ObjectStoreServer
) -> None:
    put_run(workspace)

    def command(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "inpaint_ops.cli", "-v", "deliver", RUN, "--out", workspace.store.uri, *more]
        return subprocess.run(
            words, env=os.environ | object_store.env | environment, capture_output=True, text=True, check=False
        )

    refused = command("--link", "24")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "INPAINT_LINK_HOURS" in refused.stderr
    done = command("--link", "24", INPAINT_LINK_HOURS="48")
    assert done.returncode == 3, "two rows have no image"
    (link,) = done.stdout.splitlines()
    assert len(fetched(link)) > 1000
    assert "7 of 9 rows are in the gallery" in done.stderr
    assert "the link ends on" in done.stderr
    assert "X-Amz-" not in done.stderr
    store = workspace.store.parent.join("/".join(["ü" * 50] * 7) + "/")
    copied = Workspace.open(Settings(), store=store.uri, s3_client=workspace.storage._make_client)
    put_run(copied)
    long = command("--link", "24", "--out", store.uri, INPAINT_LINK_HOURS="48").stdout.strip()
    assert len(long) > 2400, "longer than any message: as with a session token"
    assert len(fetched(long)) > 1000, "it is printed whole"
    found = json.loads(command("--link", "24", "--json", INPAINT_LINK_HOURS="48").stdout)
    assert len(fetched(found["link"])) > 1000
    for more in ([], ["--to", "x", "--link", "1"]):
        assert "one of the two" in command(*more).stderr
    assert "no --replace" in command("--link", "1", "--replace").stderr


@pytest.mark.parametrize(
    ("page", "pages", "found"),
    [(1, 1, []), (2, 3, []), (2, 4, [1, 3, 4]), (5, 167, [1, *range(17, 167, 17), 167]), (1, 10, [*range(2, 11)])],
)
def test_each_page_links_to_some_others_all_along(page: int, pages: int, found: list[int]) -> None:
    assert jumps(page, pages) == found


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_browser_without_scripts_turns_the_pages_and_shows_an_image(
    workspace: Workspace, chromium: Browser, monkeypatch: pytest.MonkeyPatch, colours: str
) -> None:
    put_run(workspace, row_2=lambda record: {"flags": ("<script>alert(1)</script>",)})
    monkeypatch.setattr(sheet_pages, "PAGE_ROWS", 4)
    made = deliver_link(workspace, RUN, 1)
    context = chromium.new_context(java_script_enabled=False, color_scheme=colours)  # type: ignore[arg-type]
    page = context.new_page()
    complaints: list[str] = []

    def listen(message: Any) -> None:
        # A browser asks the store for a picture of the site by itself, /favicon.ico, and gets 403.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    page.goto(made.link)
    assert "<script>alert(1)</script>" in page.inner_text("main")
    page.get_by_role("link", name="Next page").first.click()
    assert page.get_by_role("heading", level=1).inner_text() == RUN
    assert "page 2 of 3" in page.inner_text("header")
    reply = page.request.get(page.get_by_role("link", name="row-00005").get_attribute("href") or "")
    assert reply.status == 200
    referred: list[str | None] = []
    page.on("request", lambda request: referred.append(request.headers.get("referer")))
    page.get_by_role("link", name="row-00005").click()
    assert referred[0] is None, "the page's own link goes nowhere"
    assert not complaints
    context.close()
    with_scripts = chromium.new_page(color_scheme=colours)  # type: ignore[arg-type]
    with_scripts.goto(made.link)
    assert problems(with_scripts) == []
    with_scripts.close()
