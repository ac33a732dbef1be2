"""The one place where what botocore raises becomes what we raise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from inpaint_ops.errors import (
    AccessDeniedError,
    ConfigError,
    CredentialsExpiredError,
    InpaintOpsError,
    ObjectChangedError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location
from inpaint_ops.storage.s3_client import FOREIGN

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the Airflow connection"
_CURES = {
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the access key is unknown here: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "AccountProblem": "the account has a problem: ask its owner",
    "Unauthorized": _CREDENTIALS,
}
UPLOADS = "list open uploads below"
GIVE_UP = "give up an upload of"
COPY = "copy"
_RIGHTS = {
    # Amazon S3 User Guide, GetObject: without s3:ListBucket, it answers 403 for an object that is not there.
    "read": "s3:GetObject there (and s3:ListBucket on the bucket, or a missing object is refused too); "
    "if the bucket's requester pays, INPAINT_REQUESTER_PAYS=true is needed",
    "write": "s3:PutObject there",
    "delete": "s3:DeleteObject there",
    "list": "s3:ListBucket on the bucket, with this prefix; "
    "if its requester pays, INPAINT_REQUESTER_PAYS=true is needed",
    UPLOADS: "s3:ListBucketMultipartUploads on the bucket",
    GIVE_UP: "s3:AbortMultipartUpload there",
    COPY: "s3:GetObject there, and s3:PutObject where the copy goes",
}
"""What each action asks for, in the words of an IAM policy; `deploy/iam/` has a policy for each role."""

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.RefreshWithMFAUnsupportedError,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
    boto.SSOError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
)
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "RequestTimeout"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
_ELSEWHERE = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_EXPECTED_REGION = re.compile(r"expecting '([\w-]+)'")
_MAX_SKEW = 900.0
"""Seconds by which a request's time may differ from the store's; Amazon S3 refuses more."""

_NO_CHECKSUM_HEADERS = {
    "SignatureDoesNotMatch", "XAmzContentSHA256Mismatch", "InvalidArgument", "InvalidRequest", "InvalidDigest",
    "BadDigest", "BadRequest", "MalformedTrailerError", "InvalidChunkSizeError", "IncompleteBody",
    "MissingContentLength", "NotImplemented", "UnsupportedHeader", "400", "411", "501",
}  # fmt: skip
"""How stores that do not know the SDK's checksum headers (boto3 from 1.36 sends them) are known to refuse a write."""
_NO_CONDITION = {"NotImplemented", "InvalidArgument", "InvalidRequest", "UnsupportedHeader", "400", "501"}
CHECKSUM_CURE = "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
_SECRETS = (
    (re.compile(r"//[^/@\s]*@"), "//***@"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), "***"),
    (re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s]+", re.IGNORECASE), r"\1***"),
)
_MAX_MESSAGE = 400


def error_code(error: boto.ClientError) -> str:
    """The store's name for the error; the HTTP status, as text, where a reply has no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: boto.ClientError) -> int:
    """The HTTP status of the reply, or 0."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def s3_errors(where: Location, action: str) -> Iterator[None]:
    """Raise our error in place of botocore's; `action` is a verb for the message: read, write, list, delete."""
    try:
        yield
    except (boto.ClientError, boto.BotoCoreError, ResponseParserError, HTTPError, ValueError) as error:
        # ValueError: a time or a number in the reply cannot be parsed
        raise s3_error(error, where, action) from error


def s3_error(error: Exception, where: Location, action: str) -> InpaintOpsError:
    """Our error for botocore's."""
    if isinstance(error, boto.ClientError):
        return _of_reply(error, where, action)
    return _of_client(error, where, action)


def put_error(
    error: boto.ClientError, where: Location, *, conditional: bool, checksums: bool, signature_taken: bool
) -> InpaintOpsError:
    """Our error for a write that was refused; it names the SDK's checksum headers where they may be the cause.

    `conditional`: the write was a put-if-absent. `checksums`: it carried the headers. `signature_taken`: the store has
    accepted a request with the same key before, so the secret is right.
    """
    code = error_code(error)
    ours = _of_reply(error, where, "write")
    if not checksums or (code or str(http_status(error))) not in _NO_CHECKSUM_HEADERS:
        return ours
    because = f"a store that does not know the SDK's checksum headers answers so: {CHECKSUM_CURE}"
    if code == "SignatureDoesNotMatch" and signature_taken:
        return AccessDeniedError(f"{_answer(error, where, 'write')}; it accepted the same key before, and {because}")
    condition = ""
    if conditional and code in _NO_CONDITION:
        condition = ", or it cannot put if absent (If-None-Match): inpaint-ops doctor tries both"
    return type(ours)(f"{ours}; or {because}{condition}")


def _answer(error: boto.ClientError, where: Location, action: str) -> str:
    """What was asked, and what the store answered: the status, its own code, and its own words."""
    code, status = error_code(error), http_status(error)
    details: Mapping[str, Any] = error.response.get("Error", {})
    message = " ".join(str(details.get("Message") or "").split())
    text = f"cannot {action} {where}: the store answered {status}"
    text += f" {code}" if code and code != str(status) else ""
    if FOREIGN in details:
        return f"{text} with {details[FOREIGN]}"
    # Of wrong keys and tokens the words may repeat them.
    if message and not code.isdecimal() and code not in _CURES and code not in _EXPIRED:
        for secret, shown in _SECRETS:
            message = secret.sub(shown, message)
        text += f" ({message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + '…'})"
    return text


def _of_reply(error: boto.ClientError, where: Location, action: str) -> InpaintOpsError:
    code, status = error_code(error), http_status(error)
    answer = _answer(error, where, action)
    if code == "NoSuchBucket":
        return ObjectNotFoundError(f"there is no bucket {where.bucket!r} (for {where}): create it, or correct the URI")
    if elsewhere := _elsewhere(error):
        return StorageError(f"{answer}; {elsewhere}")
    if FOREIGN in error.response.get("Error", {}) and status < 500 and status != 429:
        return StorageError(
            f"{answer}, which is not S3's: check AWS_ENDPOINT_URL (is it a console, a proxy or a login page?)"
        )
    if code == "NoSuchKey" or (status == 404 and action == "read"):
        return ObjectNotFoundError(f"there is no object {where}")
    if status == 404:
        return ObjectNotFoundError(
            f"{answer}; create the bucket {where.bucket!r}, or check that AWS_ENDPOINT_URL is the store's S3 API"
        )
    if code in _EXPIRED:
        return CredentialsExpiredError(f"{answer}; the session token has expired: renew the credentials")
    if clock := _clock(error):
        return StorageUnavailableError(f"{answer}; {clock}")
    if code == "InvalidObjectState":
        return StorageError(
            f"{answer}; the object is archived: restore it, or copy it to a storage class that is online"
        )
    if code in _CURES or status in (401, 403):
        right = f"allow these credentials {_RIGHTS.get(action, action)}"
        return AccessDeniedError(f"{answer}; {_CURES.get(code, right)}")
    if status == 412:
        return ObjectChangedError(f"cannot {action} {where}: it has changed since it was last looked at")
    if status == 416:
        return StorageError(f"cannot {action} {where}: the range begins beyond its end")
    if status in (405, 501):
        return StorageError(
            f"{answer}; the store cannot do what was asked; check that AWS_ENDPOINT_URL is its S3 API, and no website"
        )
    if code in _BUSY or status == 429 or status >= 500:
        return StorageUnavailableError(f"{answer}, on every try")
    return StorageError(answer)


def _clock(error: boto.ClientError) -> str | None:
    """That this machine's clock is wrong, and by how much, if that is why the store refuses."""
    code, status = error_code(error), http_status(error)
    details = error.response.get("Error", {})
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    message = str(details.get("Message") or "").lower()
    try:
        skew = (datetime.now(UTC) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        skew = 0.0
    refused = code in _CLOCK or "signature expired" in message or "signature not yet current" in message
    if not refused and not (status in (401, 403) and abs(skew) > _MAX_SKEW):
        return None
    if abs(skew) <= _MAX_SKEW:
        return "this machine's clock is wrong: synchronise it"
    direction = "ahead of" if skew > 0 else "behind"
    return f"this machine's clock is {abs(skew) / 60:,.0f} minutes {direction} the store's: synchronise it"


def _elsewhere(error: boto.ClientError) -> str | None:
    """Where to ask instead, if the store says that it is not the place."""
    code, status = error_code(error), http_status(error)
    details = error.response.get("Error", {})
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    expected = _EXPECTED_REGION.search(str(details.get("Message") or ""))
    region = details.get("Region") or headers.get("x-amz-bucket-region") or (expected and expected[1])
    if code not in _ELSEWHERE and not 301 <= status <= 308:
        # A HEAD has no body that could name the code; `400` of one in the right region names no other.
        return f"the bucket is in the region {region}: set AWS_REGION={region}" if status == 400 and region else None
    if region:
        return f"the bucket is in the region {region}: set AWS_REGION={region}"
    target = urlsplit(str(headers.get("location") or ""))
    if target.hostname and code not in _ELSEWHERE:
        place = f"{target.scheme}://{target.hostname}" + (f":{target.port}" if target.port else "")
        return f"it redirects to {place}, which is not followed: set AWS_ENDPOINT_URL to the store itself"
    if endpoint := details.get("Endpoint"):
        return f"the bucket is at {endpoint}: set AWS_REGION, or AWS_ENDPOINT_URL, to that place"
    return "the bucket is in another region: set AWS_REGION, or AWS_ENDPOINT_URL"


def _of_client(error: Exception, where: Location, action: str) -> InpaintOpsError:
    kind = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDeniedError(f"cannot {action} {where}: no usable credentials ({kind}); {_CREDENTIALS}")
    if isinstance(error, boto.SSLError):
        return StorageUnavailableError(f"cannot {action} {where}: TLS failed; check AWS_ENDPOINT_URL and AWS_CA_BUNDLE")
    if isinstance(error, (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)):
        return StorageUnavailableError(
            f"cannot {action} {where}: no connection to the store ({kind}); is it up, and AWS_ENDPOINT_URL right?"
        )
    if isinstance(error, boto.EndpointProviderError):  # its own words repeat the URL, which may hold a password
        return ConfigError(f"cannot {action} {where}: AWS_ENDPOINT_URL is not usable: write http://host:port")
    if isinstance(error, boto.NoRegionError):
        return ConfigError(f"cannot {action} {where}: no region is set: set AWS_REGION")
    if isinstance(error, boto.PaginationError):
        return StorageError(f"cannot {action} {where}: the store gives the same page of a listing again and again")
    if isinstance(error, (boto.ParamValidationError, boto.InvalidRegionError, boto.UnknownEndpointError)):
        return ConfigError(f"cannot {action} {where}: {' '.join(str(error).split())}")
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, HTTPError)):
        return StorageUnavailableError(f"cannot {action} {where}: the connection broke off on every try ({kind})")
    if isinstance(error, ResponseParserError):
        return StorageUnavailableError(f"cannot {action} {where}: the reply is not S3's; check AWS_ENDPOINT_URL")
    if not isinstance(error, boto.BotoCoreError):
        return StorageError(f"cannot {action} {where}: the reply is not S3's ({kind}); check AWS_ENDPOINT_URL")
    words = " ".join(str(error).split())
    for secret, shown in _SECRETS:
        words = secret.sub(shown, words)
    return StorageError(f"cannot {action} {where}: {kind}: {words[:_MAX_MESSAGE]}")
