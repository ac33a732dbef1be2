"""What `inpaint-ops doctor` says of a store: it tries what it names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest

from demo.object_store import ObjectStoreServer
from inpaint_ops.cli.doctor import Check, diagnose
from inpaint_ops.config import load_settings
from inpaint_ops.locations import Location
from tests.support.scripted_store import BUCKET, Reply, Request, ScriptedStore, refusal

OUT = f"s3://{BUCKET}/store"
CURE = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedStore]:
    with ScriptedStore() as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


def store_check(uri: str = OUT) -> Check:
    (check,) = [check for check in diagnose(load_settings(), uri) if check.name == "store"]
    return check


def has_checksum_headers(request: Request) -> bool:
    return any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in request.headers)


def test_a_good_store_is_good_and_nothing_is_left_in_it(
    aws_environment: ObjectStoreServer, s3_prefix: Location
) -> None:
    check = store_check(s3_prefix.uri)
    if "racing" in check.detail:  # as in one race of some hundreds on SeaweedFS: docs/storage.md
        check = store_check(s3_prefix.uri)
    assert (check.state, check.detail) == (
        "ok", f"{s3_prefix}: writable, put-if-absent holds; its ETags are MD5s"
    )  # fmt: skip
    assert "Contents" not in aws_environment.client().list_objects_v2(
        Bucket=aws_environment.bucket, Prefix=s3_prefix.key
    )


def test_etags_that_are_no_md5s_are_named(store: ScriptedStore) -> None:
    store.etag = lambda data: f'"{hashlib.md5(b"salt" + data).hexdigest()}"'
    check = store_check()
    assert check.state == "ok" and "its ETags are not MD5s" in check.detail


@pytest.mark.parametrize(
    "reply",
    [
        refusal(403, "SignatureDoesNotMatch"),
        refusal(501, "NotImplemented", "aws-chunked is not supported"),
        refusal(400, "InvalidArgument", "x-amz-content-sha256"),
    ],
    ids=lambda reply: str(reply.status),
)
def test_a_store_that_takes_no_checksum_headers_is_tried_without(store: ScriptedStore, reply: Reply) -> None:
    store.script = lambda request: reply if request.method == "PUT" and has_checksum_headers(request) else None
    check = store_check()
    assert check.state == "missing"
    assert f"it accepts writes only without the SDK's checksum headers: {CURE}" in check.detail
    assert any(one.method == "PUT" and not has_checksum_headers(one) for one in store.requests)


def test_a_store_that_keeps_the_frames_of_what_was_sent_is_found(store: ScriptedStore) -> None:
    """As those do that take aws-chunked for a plain body."""

    def script(request: Request) -> Reply | None:
        if request.method != "PUT" or not has_checksum_headers(request) or request.key in store.objects:
            return None
        store.objects[request.key] = b"18;chunk\r\n" + request.body
        return Reply(headers={"ETag": '"1-1"'})

    store.script = script
    check = store_check()
    assert check.state == "missing" and CURE in check.detail and "keeps different bytes from those sent" in check.detail


@pytest.mark.parametrize(
    ("refuses", "reason"),
    [
        (lambda request: "if-none-match" in request.headers, "accepts a plain PUT but refuses a put-if-absent"),
        (lambda request: True, "the store refuses every put"),
    ],
)
def test_a_store_that_does_not_do_it_either_way_is_not_promised_a_cure(
    store: ScriptedStore, refuses: Callable[[Request], bool], reason: str
) -> None:
    reply = refusal(501, "NotImplemented", "A header implies functionality that is not implemented")
    store.script = lambda request: reply if request.method == "PUT" and refuses(request) else None
    check = store_check()
    assert check.state == "missing" and reason in check.detail
    assert "tried without the SDK's checksum headers too" in check.detail
    assert "only without" not in check.detail


def test_a_store_that_ignores_the_condition_is_named(store: ScriptedStore) -> None:
    def script(request: Request) -> Reply | None:
        if request.method == "PUT":
            store.objects[request.key] = request.body
            return Reply(headers={"ETag": '"1"'})
        return None

    store.script = script
    check = store_check()
    assert check.state == "missing" and "ignores If-None-Match and overwrites" in check.detail


def test_a_store_that_must_not_be_listed_is_named(store: ScriptedStore) -> None:
    store.script = lambda request: refusal(403, "AccessDenied") if not request.key else None
    check = store_check()
    assert check.state == "missing" and "s3:ListBucket" in check.detail


def test_the_requester_pays_where_the_setting_says_so(store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.script = lambda request: (
        None if request.headers.get("x-amz-request-payer") == "requester" else refusal(403, "AccessDenied")
    )
    assert store_check().state == "missing"
    monkeypatch.setenv("INPAINT_REQUESTER_PAYS", "true")
    assert store_check().state == "ok"
