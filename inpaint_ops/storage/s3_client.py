"""Our S3 client: the AWS SDK's own settings, with timeouts, retries and a few mends of what botocore does."""

from __future__ import annotations

import html
import os
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.utils import parse_timestamp

from inpaint_ops.errors import AccessDeniedError, ConfigError
from inpaint_ops.storage.s3_listing import read_pages_faster

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

Checksums: TypeAlias = Literal["when_supported", "when_required"]
"""When writes carry the SDK's checksum headers, in botocore's words."""

FOREIGN = "Foreign"
"""The key in a ClientError's `Error` that describes a reply's body that is not an S3 error."""

_CODE = re.compile(r"<(?:\w+:)?Code>\s*([^<]{1,200}?)\s*</|\"code\"\s*:\s*\"([^\"]{1,200})\"", re.IGNORECASE)
_MESSAGE = re.compile(r"<(?:\w+:)?Message>\s*([^<]{1,1000}?)\s*</|\"message\"\s*:\s*\"([^\"]{1,1000})\"", re.IGNORECASE)
_ERROR_BYTES = 16 * 2**10


def make_s3_client(
    session: boto3.session.Session | None = None,
    *,
    endpoint_url: str | None = None,
    attempts: int = 5,
    connect_timeout: float = 5.0,
    read_timeout: float = 30.0,
    pool: int = 32,
    requester_pays: bool = False,
    checksums: Checksums | None = None,
) -> S3Client:
    """A client by the AWS SDK's own settings (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, …); threads may share it.

    With an endpoint of one's own, botocore addresses buckets by path unless told otherwise. Timeouts are in seconds, of
    one connect and one read; `attempts` counts the first. With `requester_pays`, requests say that whoever asks pays
    for them. `checksums` overrides `AWS_REQUEST_CHECKSUM_CALCULATION`. Making one takes some 0.2 s. Raises ConfigError
    or AccessDeniedError if the SDK's settings are unusable.
    """
    config = Config(
        signature_version="s3v4",  # without it, links to the default region are signed by a scheme that few stores take
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        max_pool_connections=pool,
        retries={"mode": "standard", "total_max_attempts": attempts},
        tcp_keepalive=True,
        request_checksum_calculation=checksums,
    )
    try:
        # A session of its own: boto3's default one is not safe to share between threads.
        session = session or boto3.session.Session(botocore_session=_botocore_session())
        # botocore reads AWS_DEFAULT_REGION alone; the other SDKs, and so users, know AWS_REGION.
        region = session.region_name or os.environ.get("AWS_REGION") or None
        client = session.client("s3", endpoint_url=endpoint_url, config=config, region_name=region)
    except ValueError:
        raise ConfigError("AWS_ENDPOINT_URL is not a URL: write http://host:port or https://host") from None
    except BotoCoreError as error:
        raise AccessDeniedError(f"the AWS settings are not usable: {error}") from error
    client.meta.events.register("before-call.s3.HeadBucket", _do_not_redirect)
    client.meta.events.register("after-call.s3", _read_error)
    read_pages_faster(client.meta.events, _read_moment)
    if requester_pays:
        client.meta.events.register("before-parameter-build.s3", _accept_cost)
        client.meta.events.register("before-sign.s3", _accept_cost_in_links)
    return client


def credentials_end(client: S3Client) -> datetime | None:
    """When the client's credentials end; None where they do not, or where nobody says when (AWS_SESSION_TOKEN).

    botocore has no public way to a client's credentials, nor to their end.
    """
    credentials = getattr(client, "_get_credentials", lambda: None)()
    end = getattr(credentials, "_expiry_time", None)
    return end if isinstance(end, datetime) else None


def _botocore_session() -> botocore.session.Session:
    """One that reads dates faster: botocore asks dateutil, which takes 36 of a listed object's 50 microseconds."""
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_read_moment)
    return session


def _read_moment(text: str) -> datetime:
    """A date of a reply: S3 writes ISO 8601 in bodies, and RFC 822 in headers, which botocore's own parser reads."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)
    return moment if moment.tzinfo is not None else parse_timestamp(text)


def sends_checksums(client: S3Client) -> bool:
    """Whether the client's writes carry the SDK's checksum headers, which older stores do not know."""
    config: Any = client.meta.config
    return bool(config.request_checksum_calculation != "when_required")


def _accept_cost(params: dict[str, Any], model: Any, **_: Any) -> None:
    if "RequestPayer" in model.input_shape.members:
        params.setdefault("RequestPayer", "requester")


def _accept_cost_in_links(request: Any, signature_version: str | None = None, **_: Any) -> None:
    """In a link it stands in the query: whoever follows it sends no header."""
    if "query" in str(signature_version) and (payer := request.headers.get("x-amz-request-payer")):
        del request.headers["x-amz-request-payer"]
        request.params["x-amz-request-payer"] = payer


def _do_not_redirect(params: dict[str, Any], **_: Any) -> None:
    """Where all requests are redirected, botocore asks HeadBucket for the region, and for each of those another one."""
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _read_error(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    """Add what botocore leaves out: a code and message in a namespace or in JSON; a body that is not an S3 error."""
    if http_response.status_code < 300:
        return
    error = parsed.setdefault("Error", {})
    code = str(error.get("Code", ""))
    if code and not code.isdecimal():
        return
    text = (http_response.content or b"")[:_ERROR_BYTES].decode(errors="replace")
    words = _MESSAGE.search(text)
    if found := _CODE.search(text):
        error["Code"] = html.unescape(found[1] or found[2])
        error["Message"] = html.unescape(words[1] or words[2]) if words else ""
    elif start := text.strip():  # a HEAD has no body, and its content type tells nothing
        page = "html" in http_response.headers.get("content-type", "") or start.lower().startswith(
            ("<!doctype", "<html")
        )
        # botocore takes a success that it cannot parse for an error 500.
        parsed["ResponseMetadata"]["HTTPStatusCode"] = getattr(http_response.raw, "status", http_response.status_code)
        error[FOREIGN] = "a web page" if page else f"{(words[2] if words else None) or start[:100]!r}"
