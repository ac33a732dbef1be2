"""What the pages answer to who wants to deliver a run to a prefix: who may, where to, and how else it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from inpaint_ops.browse import RunViews
from inpaint_ops.config import Settings
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import make_plan, put_plan
from tests.support.waiting import PATIENCE

__all__ = ["served"]

PREFIXES = ("s3://client/from-us", "s3://shop/<b>/")


@contextmanager
def may_go_to(pages: ServedPages, *prefixes: str) -> Iterator[None]:
    """The pages as they are with these prefixes to deliver to."""
    before, workspace = pages.app.state.views, pages.workspace
    settings = workspace.settings.model_copy(update={"delivery_prefixes": prefixes})
    pages.app.state.views = RunViews(replace(workspace, settings=settings), keep=False)
    try:
        yield
    finally:
        pages.app.state.views = before


@pytest.fixture
def allowed(served: ServedPages) -> Iterator[ServedPages]:
    with may_go_to(served, *PREFIXES):
        yield served


def asked(pages: ServedPages, body: Any, *, role: str = "user", run: str = "night", **headers: str) -> httpx.Response:
    cookies = {"user": "ann", "role": role}
    url = f"{pages.url}/api/runs/{run}/deliveries"
    return httpx.post(url, json=body, cookies=cookies, headers=headers, timeout=PATIENCE)


def page(pages: ServedPages, role: str, run: str = "night") -> str:
    return httpx.get(f"{pages.url}/runs/{run}/", cookies={"user": "ann", "role": role}, timeout=PATIENCE).text


GOOD = {"to": "s3://client/from-us/night", "only": "accepted", "sheet": "none"}


def test_a_delivery_is_checked_and_what_the_dag_gets_is_answered(allowed: ServedPages) -> None:
    reply = asked(allowed, GOOD)
    assert reply.status_code == 200
    assert reply.json() == {"conf": {"run": "night", **GOOD, "to": "s3://client/from-us/night/"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": "s3://client/elsewhere/"}, "outside s3://client/from-us/"),
        ({"to": "s3://client/from-us/../x/"}, "'..'"),
        ({"to": "night/"}, "not a whole location"),
        ({"to": ""}, "to: "),
        ({"only": "all"}, "only: "),
        ({"sheet": "pdf"}, "sheet: "),
        ({"replace": True}, "replace: "),
    ],
)
def test_what_no_delivery_can_be_is_answered_in_words(allowed: ServedPages, change: dict[str, Any], words: str) -> None:
    reply = asked(allowed, GOOD | change)
    assert reply.status_code == 422
    assert words in reply.json()["detail"]


def test_a_place_of_the_store_and_an_unfinished_run_are_refused(allowed: ServedPages) -> None:
    put_plan(allowed.workspace, make_plan("going", 8, shard_rows=4))
    reply = asked(allowed, GOOD, run="going")
    assert (reply.status_code, "no report yet" in reply.json()["detail"]) == (422, True)
    assert asked(allowed, GOOD, run="nowhere").status_code == 404
    store = allowed.workspace.store.uri
    with may_go_to(allowed, store):
        reply = asked(allowed, GOOD | {"to": f"{store}inbox/x/"})
    assert (reply.status_code, "where the store keeps its runs" in reply.json()["detail"]) == (422, True)


def test_nothing_is_offered_or_taken_where_no_prefix_is_listed(served: ServedPages) -> None:
    assert served.workspace.settings.delivery_prefixes == Settings().delivery_prefixes == ()
    assert "deliver-form" not in page(served, "user")
    reply = asked(served, GOOD)
    assert reply.status_code == 422
    assert "deliveries are off: INPAINT_DELIVERY_PREFIXES" in reply.json()["detail"]


def test_the_form_is_there_for_who_may_trigger_the_dag_and_the_prefixes_are_text(allowed: ServedPages) -> None:
    assert "<option>s3://shop/&lt;b&gt;/</option>" in page(allowed, "user")
    assert "deliver-form" not in page(allowed, "viewer")
    assert asked(allowed, GOOD, role="viewer").status_code == 403


def test_a_wrong_setting_is_named_on_the_page(served: ServedPages) -> None:
    with may_go_to(served, "client/"):
        assert "INPAINT_DELIVERY_PREFIXES: &#39;client/&#39; is not a whole location" in page(served, "user")
        assert "INPAINT_DELIVERY_PREFIXES" not in page(served, "viewer")


def test_what_another_site_had_the_browser_send_is_refused(allowed: ServedPages) -> None:
    assert asked(allowed, GOOD, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    url = f"{allowed.url}/api/runs/night/deliveries"
    form = httpx.post(url, data=GOOD, cookies={"user": "ann", "role": "user"}, timeout=PATIENCE)
    assert form.status_code == 415
