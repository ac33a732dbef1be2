"""Small objects read without botocore's own reply: what comes is the same, and whatever is odd is left to `get`."""

from __future__ import annotations

import logging

import pytest

from inpaint_ops.errors import AccessDeniedError, ObjectNotFoundError, ObjectTooLargeError
from inpaint_ops.locations import Location
from inpaint_ops.storage import Storage
from tests.support.scripted_store import BUCKET, Reply, Request, ScriptedStore, refusal

KEY = f"s3://{BUCKET}/runs/a b/ä+%.webp"


def test_the_same_bytes_come_as_by_get(storage: Storage, prefix: Location) -> None:
    for name, body in (("a", b"12345"), ("empty", b""), ("deep/ä b+%?.webp", bytes(range(256)) * 40)):
        storage.put(prefix.join(name), body)
        assert storage.get_unchecked(prefix.join(name), max_bytes=len(body)) == body
        if body:
            with pytest.raises(ObjectTooLargeError):
                storage.get_unchecked(prefix.join(name), max_bytes=len(body) - 1)
    with pytest.raises(ObjectNotFoundError):
        storage.get_unchecked(prefix.join("nowhere"), max_bytes=10)


def signed(request: Request) -> bool:
    return "X-Amz-Signature" in request.query


def test_one_request_is_made_by_a_link_that_lives_a_minute_and_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedStore(objects={"runs/a b/ä+%.webp": b"small"}) as store, caplog.at_level(logging.INFO):
        storage = store.storage()
        for _ in range(3):
            assert storage.get_unchecked(KEY, max_bytes=5) == b"small"
        assert [(one.method, one.key, signed(one)) for one in store.requests] == 3 * [
            ("GET", "runs/a b/ä+%.webp", True)
        ]
        assert {one.query["X-Amz-Expires"][0] for one in store.requests} == {"60"}
        assert "X-Amz-" not in caplog.text


def answering(reply: Reply) -> ScriptedStore:
    """A store that answers links in this way, and all else as stores do."""
    objects = {"runs/a b/ä+%.webp": b"small"}
    return ScriptedStore(objects=objects, script=lambda request: reply if signed(request) else None)


@pytest.mark.parametrize(
    "reply",
    [
        refusal(403, "AccessDenied"),
        refusal(400, "InvalidRequest"),
        Reply(200, b"other", chunked=True),
        Reply(200, b"other", {"Content-Encoding": "gzip"}),
        Reply(200, b"more than five"),
        Reply(307, b"", {"Location": "http://127.0.0.1:1/"}),
        Reply(206, b"sma"),
    ],
)
def test_what_a_link_does_not_lead_to_is_got_and_no_link_is_tried_again(reply: Reply) -> None:
    with answering(reply) as store:
        storage = store.storage()
        for _ in range(3):
            assert storage.get_unchecked(KEY, max_bytes=5) == b"small"
        assert [signed(one) for one in store.requests] == [True, False, False, False]


def test_a_body_that_breaks_off_is_read_again() -> None:
    with answering(Reply(200, b"sma", {"Content-Length": "5"})) as store:
        assert store.storage().get_unchecked(KEY, max_bytes=5) == b"small"


def test_a_refusal_is_told_as_get_tells_it() -> None:
    with ScriptedStore(script=lambda _: refusal(403, "AccessDenied")) as store:
        storage = store.storage()
        for _ in range(2):
            with pytest.raises(AccessDeniedError, match="s3:GetObject"):
                storage.get_unchecked(KEY, max_bytes=5)
        assert sum(signed(one) for one in store.requests) == 2, "a link is tried again: nothing speaks against links"
