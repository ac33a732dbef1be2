"""The one place where what botocore raises becomes what we raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from inpaint_ops.errors import (
    AccessDeniedError,
    ConfigError,
    CredentialsExpiredError,
    InpaintOpsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from inpaint_ops.locations import Location

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
_RIGHTS = {
    # Amazon S3 User Guide, GetObject: without s3:ListBucket, it answers 403 for an object that is not there.
    "read": "s3:GetObject there (and s3:ListBucket on the bucket, or a missing object is refused too)",
    "write": "s3:PutObject there",
    "delete": "s3:DeleteObject there",
    "list": "s3:ListBucket on the bucket, with this prefix",
    UPLOADS: "s3:ListBucketMultipartUploads on the bucket",
    GIVE_UP: "s3:AbortMultipartUpload there",
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
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


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
    except (boto.ClientError, boto.BotoCoreError, ResponseParserError, HTTPError) as error:
        raise s3_error(error, where, action) from error


def s3_error(error: Exception, where: Location, action: str) -> InpaintOpsError:
    """Our error for botocore's."""
    if isinstance(error, boto.ClientError):
        return _of_reply(error, where, action)
    return _of_client(error, where, action)


def _of_reply(error: boto.ClientError, where: Location, action: str) -> InpaintOpsError:
    code, status = error_code(error), http_status(error)
    said = f"cannot {action} {where}: the store answered {status} {code}".rstrip()
    if code == "NoSuchBucket":
        return ObjectNotFoundError(f"there is no bucket {where.bucket!r} (for {where}): create it, or correct the URI")
    if code == "NoSuchKey" or status == 404:
        return ObjectNotFoundError(f"there is no object {where}")
    if code in _EXPIRED:
        return CredentialsExpiredError(f"{said}; the session token has expired: renew the credentials")
    if code == "RequestTimeTooSkewed":
        return StorageUnavailableError(f"{said}; this machine's clock is wrong: synchronise it")
    if code in _CURES or status in (401, 403):
        right = f"allow these credentials {_RIGHTS.get(action, action)}"
        return AccessDeniedError(f"{said}; {_CURES.get(code, right)}")
    if code in _ELSEWHERE or status in (301, 307):
        return StorageError(f"{said}; the bucket is in another region: set AWS_REGION")
    if status == 412:
        return StorageError(f"cannot {action} {where}: it has changed since it was last looked at")
    if status == 416:
        return StorageError(f"cannot {action} {where}: the range begins beyond its end")
    if status == 501:
        return StorageError(f"{said}; the store cannot do what was asked")
    if code in _BUSY or status == 429 or status >= 500:
        return StorageUnavailableError(f"{said}, on every try")
    return StorageError(said)


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
    if isinstance(error, (boto.ParamValidationError, boto.InvalidRegionError, boto.UnknownEndpointError)):
        return ConfigError(f"cannot {action} {where}: {' '.join(str(error).split())}")
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, HTTPError)):
        return StorageUnavailableError(f"cannot {action} {where}: the connection broke off on every try ({kind})")
    if isinstance(error, ResponseParserError):
        return StorageUnavailableError(f"cannot {action} {where}: the reply is not S3's; check AWS_ENDPOINT_URL")
    return StorageError(f"cannot {action} {where}: {kind}")
