"""What stores answer when they do not do what was asked: the store's own words, the cause where it is known, a cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from click.testing import CliRunner

from inpaint_ops.cli import main
from inpaint_ops.config import load_settings
from inpaint_ops.errors import (
    AccessDeniedError,
    CredentialsExpiredError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from tests.support.scripted_store import BUCKET, Reply, Request, ScriptedStore, refusal

WHERE = f"s3://{BUCKET}/a.png"
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = b"<!doctype html><html><br>Welcome to the console</html>"
CHECKSUM_CURE = "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
Call = Callable[[Storage], object]
CALLS: dict[str, Call] = {
    "get": lambda storage: storage.get(WHERE),
    "stat": lambda storage: storage.stat(WHERE),
    "put": lambda storage: storage.put(WHERE, b"x"),
    "list": lambda storage: list(storage.list(f"s3://{BUCKET}/")),
    "delete": lambda storage: storage.delete(WHERE),
}


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    with ScriptedStore() as running:
        yield running


@pytest.fixture
def environment(store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> ScriptedStore:
    for name, value in store.env.items():
        monkeypatch.setenv(name, value)
    return store


def refused(store: ScriptedStore, reply: Reply, call: str = "get") -> StorageError:
    store.script = lambda _: reply
    with pytest.raises(StorageError) as caught:
        CALLS[call](store.storage())
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value


class TestTheStoresOwnWords:
    @pytest.mark.parametrize("call", CALLS)
    def test_a_code_that_nobody_knows_is_shown_with_its_message(self, store: ScriptedStore, call: str) -> None:
        """By a HEAD too, whose reply has no body: it is asked again by a GET."""
        error = refused(store, refusal(400, "QuotaLunarPhase", "Not at a full &lt;moon&gt;, please."), call)
        assert "the store answered 400 QuotaLunarPhase (Not at a full <moon>, please.)" in str(error)
        assert type(error) is StorageError

    @pytest.mark.parametrize(
        "body",
        [
            b"<Error xmlns='http://s3.example/doc'><Code>Odd</Code><Message>strange &amp; new</Message></Error>",
            b"<a:Error xmlns:a='http://s3'><a:Code>Odd</a:Code><a:Message>strange &amp; new</a:Message></a:Error>",
            b"<ErrorResponse><Error><Code>Odd</Code><Message>strange &amp; new</Message></Error></ErrorResponse>",
            b'{"code": "Odd", "message": "strange & new"}',
        ],
    )
    def test_it_may_be_written_in_other_ways(self, store: ScriptedStore, body: bytes) -> None:
        assert "400 Odd (strange & new)" in str(refused(store, Reply(400, body)))

    def test_a_message_is_cut_and_its_secrets_are_left_out(self, store: ScriptedStore) -> None:
        words = "http://user:canary@host/ AKIAABCDEFGHIJKLMNOP X-Amz-Signature=canary&amp;x=1 " + "long " * 300
        text = str(refused(store, refusal(400, "Odd", words)))
        assert "canary" not in text and "AKIAABCDEFGHIJKLMNOP" not in text
        assert len(text) < 600

    def test_a_command_ends_with_2_and_one_line(self, environment: ScriptedStore) -> None:
        environment.script = lambda _: refusal(409, "BucketIsMoving", "Come back on Monday.")
        done = CliRunner().invoke(main, ["validate", f"s3://{BUCKET}/job.jsonl"])
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1 and "409 BucketIsMoving (Come back on Monday.)" in done.stderr

    @pytest.mark.parametrize(
        ("reply", "kind", "cure"),
        [
            (refusal(403, "InvalidObjectState", "archived"), StorageError, "restore it"),
            (refusal(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), AccessDeniedError, "kms:Decrypt"),
            (refusal(400, "KMS.DisabledException", "the key is disabled"), StorageError, "the key is disabled"),
            (refusal(405, "MethodNotAllowed"), StorageError, "cannot do what was asked"),
            (refusal(501, "NotImplemented", "no such header"), StorageError, "no such header"),
            (refusal(507, "XMinioStorageFull", "no space"), StorageUnavailableError, "no space"),
            (refusal(400, "ExpiredToken", "canary"), CredentialsExpiredError, "renew"),
        ],
        ids=lambda value: value.status if isinstance(value, Reply) else None,
    )
    def test_what_is_known_has_its_cure(
        self, store: ScriptedStore, reply: Reply, kind: type[StorageError], cure: str
    ) -> None:
        error = refused(store, reply)
        assert type(error) is kind and cure in str(error)
        assert "canary" not in str(error)


class TestNoS3:
    """The endpoint answers, and is something else."""

    @pytest.mark.parametrize("call", ["get", "put", "list", "delete"])
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
    def test_a_web_page_is_no_missing_object_and_no_missing_right(
        self, store: ScriptedStore, call: str, status: int
    ) -> None:
        error = refused(store, Reply(status, PAGE, HTML), call)
        assert f"{status} with a web page" in str(error) and "AWS_ENDPOINT_URL" in str(error)
        assert type(error) is StorageError

    @pytest.mark.parametrize("body", [b"404 page not found\n", b'{"message": "no Route matched"}', PAGE])
    def test_whatever_is_no_error_of_s3_is_quoted(self, store: ScriptedStore, body: bytes) -> None:
        error = refused(store, Reply(404, body))
        assert type(error) is StorageError and "not S3" in str(error)

    def test_a_404_without_a_body_is_no_object_for_a_read_and_no_bucket_for_a_write(self, store: ScriptedStore) -> None:
        assert "there is no object" in str(refused(store, Reply(404)))
        for call in ("put", "list"):
            error = refused(store, Reply(404), call)
            assert isinstance(error, ObjectNotFoundError) and "create the bucket" in str(error)

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
    def test_a_web_page_of_a_balancer_may_pass(self, store: ScriptedStore, status: int) -> None:
        assert isinstance(refused(store, Reply(status, PAGE, HTML)), StorageUnavailableError)

    @pytest.mark.parametrize("more", [{}, {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}])
    @pytest.mark.parametrize("call", ["get", "stat", "put", "list"])
    def test_a_server_that_has_a_page_for_every_path_has_no_objects(
        self, store: ScriptedStore, call: str, more: dict[str, str]
    ) -> None:
        assert "not S3's" in str(refused(store, Reply(200, PAGE, HTML | more), call))

    @pytest.mark.parametrize("call", ["get", "stat", "list"])
    def test_a_reply_with_a_time_that_is_none_is_no_crash(self, store: ScriptedStore, call: str) -> None:
        entry = b"<Contents><Key>a</Key><Size>1</Size><LastModified>noon</LastModified></Contents>"
        listing = b"<ListBucketResult><IsTruncated>false</IsTruncated>" + entry + b"</ListBucketResult>"
        reply = Reply(200, listing if call == "list" else b"x", {"Last-Modified": "noon", "ETag": '"1"'})
        assert "not S3's" in str(refused(store, reply, call))

    def test_a_write_without_an_etag_is_looked_at(self, store: ScriptedStore) -> None:
        store.etag = lambda _: ""
        assert store.storage().put(WHERE, b"pixels").size == 6
        store.script = lambda request: Reply() if request.method == "PUT" else None
        store.objects.clear()
        with pytest.raises(ObjectNotFoundError):
            store.storage().put(WHERE, b"pixels")


class TestElsewhere:
    @pytest.mark.parametrize("call", ["get", "stat", "put", "list"])
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_names_its_target_and_ends(self, store: ScriptedStore, status: int, call: str) -> None:
        """A proxy that sends everything from http to https; botocore would ask HeadBucket without end."""
        location = "https://user:canary@s3.example:9000/scripted/a.png?token=canary"
        error = refused(store, Reply(status, PAGE, {"Location": location, **HTML}), call)
        assert "redirects to https://s3.example:9000," in str(error) and "AWS_ENDPOINT_URL" in str(error)
        assert "canary" not in str(error)
        assert len(store.requests) < 10

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(301, b"", {"x-amz-bucket-region": "eu-west-1"}),
            Reply(400, b"", {"x-amz-bucket-region": "eu-west-1"}),
            refusal(400, "AuthorizationHeaderMalformed", "The region 'us-east-1' is wrong; expecting 'eu-west-1'"),
            Reply(400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
        ],
    )
    def test_another_region_is_named(self, store: ScriptedStore, reply: Reply) -> None:
        assert "set AWS_REGION=eu-west-1" in str(refused(store, reply))

    def test_the_setting_that_it_names_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        assert make_s3_client().meta.region_name == "eu-west-1"

    def test_a_bucket_elsewhere_is_named(self, store: ScriptedStore) -> None:
        body = b"<Error><Code>PermanentRedirect</Code><Endpoint>scripted.s3.example</Endpoint></Error>"
        assert "the bucket is at scripted.s3.example" in str(refused(store, Reply(301, body)))


class TestClock:
    @pytest.mark.parametrize(
        "reply",
        [
            refusal(403, "RequestTimeTooSkewed", "The difference is too large."),
            refusal(400, "RequestExpired"),
            refusal(403, "SignatureDoesNotMatch", "Signature expired: 2026 is now earlier than 2027"),
        ],
    )
    def test_a_refusal_for_the_time_says_so(self, store: ScriptedStore, reply: Reply) -> None:
        error = refused(store, reply)
        assert isinstance(error, StorageUnavailableError) and "clock is wrong" in str(error)

    @pytest.mark.parametrize(("hours", "direction"), [(3, "behind"), (-3, "ahead of")])
    def test_a_refusal_by_a_store_with_another_time_says_how_far(
        self, store: ScriptedStore, hours: int, direction: str
    ) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
        error = refused(store, refusal(403, "AccessDenied", "no", Date=date))
        assert f"minutes {direction} the store's" in str(error)
        assert "not be" not in str(refused(store, refusal(400, "Odd", "no", Date=date)))

    def test_a_store_with_the_same_time_is_not_blamed(self, store: ScriptedStore) -> None:
        assert "clock" not in str(refused(store, refusal(403, "AccessDenied")))


class TestChecksumHeaders:
    """Stores that do not know the headers which the SDK sends with every write since boto3 1.36."""

    REFUSALS = (
        refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match"),
        refusal(501, "NotImplemented", "Transferring payloads in multiple chunks using aws-chunked is not supported."),
        refusal(400, "InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value"),
        refusal(400, "XAmzContentSHA256Mismatch"),
        refusal(411, "MissingContentLength"),
        Reply(400),
        Reply(501),
    )

    @staticmethod
    def old(reply: Reply) -> Callable[[Request], Reply | None]:
        def script(request: Request) -> Reply | None:
            new = any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in request.headers)
            return reply if new and request.method == "PUT" else None

        return script

    @pytest.mark.parametrize("if_absent", [False, True])
    @pytest.mark.parametrize("reply", REFUSALS)
    def test_a_refused_write_names_the_setting(self, store: ScriptedStore, reply: Reply, if_absent: bool) -> None:
        store.script = self.old(reply)
        with pytest.raises(StorageError, match=CHECKSUM_CURE) as caught:
            store.storage().put(WHERE, b"x", if_absent=if_absent)
        assert caught.value.exit_code == 2

    def test_the_secret_is_not_blamed_once_it_was_right(self, store: ScriptedStore) -> None:
        store.script = self.old(self.REFUSALS[0])
        storage = store.storage()
        with pytest.raises(AccessDeniedError, match=f"secret key is wrong.*{CHECKSUM_CURE}"):
            storage.put(WHERE, b"x")
        list(storage.list(f"s3://{BUCKET}/"))
        with pytest.raises(AccessDeniedError, match="accepted the same key before") as caught:
            storage.put(WHERE, b"x")
        assert "is wrong" not in str(caught.value)

    def test_with_the_setting_writes_work_and_other_refusals_do_not_name_it(
        self, environment: ScriptedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        environment.script = self.old(self.REFUSALS[0])
        environment.storage().put(WHERE, b"x", if_absent=True)
        environment.script = lambda _: refusal(501, "NotImplemented")
        with pytest.raises(StorageError) as caught:
            environment.storage().put(WHERE, b"x")
        assert "CHECKSUM" not in str(caught.value)

    def test_a_read_does_not_name_it(self, store: ScriptedStore) -> None:
        for reply in self.REFUSALS:
            assert "CHECKSUM" not in str(refused(store, reply))

    def test_a_write_that_others_are_always_in_the_way_of_may_do_better_later(self, store: ScriptedStore) -> None:
        error = refused(store, refusal(409, "ConditionalRequestConflict"), "put")
        assert isinstance(error, StorageUnavailableError) and store.count("PUT") == 3

    @pytest.mark.parametrize("code", ["BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted"])
    def test_a_write_that_may_do_better_is_repeated(self, store: ScriptedStore, code: str) -> None:
        store.script = lambda request: refusal(400, code) if store.count("PUT") == 1 else None
        storage = store.storage()
        storage.put(WHERE, b"x")
        assert (store.count("PUT"), storage.repeated) == (2, 1)


class TestRequesterPays:
    @staticmethod
    def script(request: Request) -> Reply | None:
        return None if request.headers.get("x-amz-request-payer") == "requester" else refusal(403, "AccessDenied")

    @pytest.mark.parametrize("call", ["get", "stat", "list"])
    def test_without_the_setting_the_refusal_names_it(self, store: ScriptedStore, call: str) -> None:
        store.script = self.script
        with pytest.raises(AccessDeniedError, match="INPAINT_REQUESTER_PAYS=true"):
            CALLS[call](store.storage())

    @pytest.mark.parametrize("call", CALLS)
    def test_with_it_every_request_accepts_the_cost(
        self, environment: ScriptedStore, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        monkeypatch.setenv("INPAINT_REQUESTER_PAYS", "true")
        environment.script, environment.objects = self.script, {"a.png": b"pixels"}
        CALLS[call](Workspace.open(load_settings(), store=f"s3://{BUCKET}/").storage)

    def test_a_link_accepts_it_by_itself(self, store: ScriptedStore) -> None:
        """Whoever follows it sends no header."""
        storage = Storage(readable=[WHERE], s3_client=lambda: store.client(requester_pays=True))
        link = storage.presign(WHERE, timedelta(minutes=1))
        assert "x-amz-request-payer=requester" in link
        assert "SignedHeaders=host&" in link


class TestListings:
    def test_a_store_without_tokens_does_not_pass_for_one_with_a_short_listing(self, store: ScriptedStore) -> None:
        def script(request: Request) -> Reply | None:
            page = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
            return Reply(200, page) if not request.key else None

        store.script = script
        with pytest.raises(StorageError, match="no ListObjectsV2"):
            list(store.storage().list(f"s3://{BUCKET}/"))

    def test_a_store_that_gives_one_page_for_ever_is_left(self, store: ScriptedStore) -> None:
        page = (
            b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            b"</ListBucketResult>"
        )
        store.script = lambda _: Reply(200, page)
        with pytest.raises(StorageError, match="again and again"):
            list(store.storage().list(f"s3://{BUCKET}/"))

    def test_a_store_that_cannot_list_open_uploads_has_none(
        self, store: ScriptedStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.script = lambda _: refusal(501, "NotImplemented")
        assert list(store.storage().unfinished(f"s3://{BUCKET}/")) == []
        assert any("cannot list open uploads" in record.message for record in caplog.records)
