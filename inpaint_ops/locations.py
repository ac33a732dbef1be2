"""Where things are: `s3://bucket/key` URIs and folder paths, joined and contained without touching storage."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote, urlsplit

from inpaint_ops.errors import ConfigError, ForbiddenLocationError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNUSUAL = re.compile(r"//|/\.{1,2}(/|$)")
"""What an absolute path holds that has another, plain form."""
_NO_PART = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)")
"""What a relative key holds beside names: an empty part, `.` or `..`."""
_USERINFO = re.compile(r"(?<=://)[^/@]*@")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_OWN_SCHEME = re.compile(r"(?i)\b(s3|file)$")


@dataclass(frozen=True, slots=True)
class Location:
    """One object or prefix: a bucket and a key on S3, or an absolute path (`bucket` is None) in a folder.

    A key never begins with `/` on S3, and is always absolute in a folder. A prefix ends with `/`.
    """

    bucket: str | None
    key: str

    @property
    def uri(self) -> str:
        """The text form, which `parse` reads back."""
        return self.key if self.bucket is None else f"s3://{self.bucket}/{self.key}"

    @property
    def full_uri(self) -> str:
        """The text form as a manifest may hold it anywhere: a local path without `file://` is no key of a manifest."""
        if self.bucket is not None:
            return self.uri
        return "file://" + quote_from_bytes(os.fsencode(self.key.rstrip("/") or "/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return posixpath.basename(self.key.rstrip("/"))

    @property
    def parent(self) -> Location:
        """The prefix that holds this object."""
        head = posixpath.dirname(self.key.rstrip("/"))
        return Location(self.bucket, head if head in ("", "/") else head + "/")

    def as_prefix(self) -> Location:
        """The same location with a closing slash (the root of a bucket stays empty)."""
        return self if not self.key or self.key.endswith("/") else Location(self.bucket, self.key + "/")

    def join(self, relative: str) -> Location:
        """A key below this prefix.

        Raises ForbiddenLocationError if `relative` is absolute, climbs (`..`), or holds control characters or
        backslashes, so that no manifest can name an object outside its prefix (CWE-22).
        """
        check_relative(relative)
        return Location(self.bucket, self.as_prefix().key + relative)

    def contains(self, other: Location) -> bool:
        """Whether `other` is this object, or lies below this prefix."""
        if self.bucket != other.bucket:
            return False
        return other.key == self.key or other.key.startswith(self.as_prefix().key)

    def __str__(self) -> str:
        return self.uri


def is_directory_bucket(bucket: str) -> bool:
    """Whether it is one of S3 Express One Zone: its ETags are no MD5s, and prefixes of listings end with a slash."""
    return bucket.endswith("--x-s3")


def check_relative(key: str) -> None:
    """Raise ForbiddenLocationError unless `key` is a plain key: no `..`, no leading slash, no control characters."""
    if not key:
        raise ForbiddenLocationError("the key is empty")
    if _CONTROL.search(key) or "\\" in key:
        raise ForbiddenLocationError(f"{key!r} holds a control character or a backslash: rename the object")
    if key.startswith("/"):
        raise ForbiddenLocationError(
            f"{key!r} is absolute: give a key relative to the manifest, or a full URI (s3://bucket{key}, file://{key})"
        )
    if _NO_PART.search(key.rstrip("/")):
        raise ForbiddenLocationError(
            f"{key!r} is not a plain key: keys hold no '..', '.' or empty parts: give the full URI without them"
        )


def has_scheme(text: str) -> bool:
    """Whether `text` is a URI rather than a key."""
    return "://" in text


def check_slashes(text: str) -> None:
    """Raise ConfigError for `s3:/bucket`: it would be a folder called `s3:`."""
    if ":/" in text and (one := _ONE_SLASH.match(text)):
        whole = f"file:///{one[2]}" if one[1].lower() == "file" else f"{one[1]}://{one[2]}"
        raise ConfigError(f"behind {one[1]}: there is one '/' where two belong: write {without_secrets(whole)!r}")


def is_on_a_drive(text: str) -> bool:
    r"""Whether it is a path as Windows writes them: `C:\photos`, `C:/photos`."""
    return bool(_DRIVE.match(text))


def check_whole(text: str) -> None:
    """Raise ConfigError unless `text` is a URI or an absolute path: what is relative means something else elsewhere."""
    if not has_scheme(text) and not text.startswith("/"):
        raise ConfigError(f"{text!r} is not a whole location: write its URI, for example s3://bucket/inbox/night.jsonl")


def without_secrets(text: str) -> str:
    """`text` less the userinfo of each URL in it, and up to the query of the first that is no `s3://` or `file://` URI.

    Either may be a password or a signature, and the text ends in records, reports or files of the run (CWE-532). Where
    a query ends cannot be told in text that was not taken apart, so nothing behind its beginning is kept.
    """
    scheme, *rest = _USERINFO.sub("", text).split("://")
    kept = scheme
    for part in rest:
        path, query, _ = ("", "", "") if _OWN_SCHEME.search(scheme[-5:]) else part.partition("?")
        if query:
            return f"{kept}://{path}"
        kept, scheme = f"{kept}://{part}", part
    return kept


def parse(text: str | os.PathLike[str]) -> Location:
    """Read an `s3://bucket/key` or `file:///path` URI, or a path (made absolute, `~` expanded).

    A closing slash is kept: it marks a prefix. Raises ConfigError for any other scheme or a missing bucket.
    """
    raw = os.fspath(text)
    if not raw or _CONTROL.search(raw):
        raise ConfigError(f"{raw!r} is not a location: give s3://bucket/prefix or a folder")
    if raw.startswith("/") and not _UNUSUAL.search(raw):
        return Location(None, raw)
    if not has_scheme(raw):
        check_slashes(raw)
        if is_on_a_drive(raw):
            raise ConfigError(f"{raw!r} is a path of a Windows drive: write a path of this machine, or a URI")
        try:
            path = os.path.abspath(Path(raw).expanduser())
        except RuntimeError:  # no such user
            raise ConfigError(f"{raw!r} names a user that does not exist: write the whole path") from None
        path = "/" + path.lstrip("/")  # POSIX keeps two slashes at the beginning, and everybody means one
        return Location(None, path + "/" if raw.endswith("/") and path != "/" else path)
    scheme, _, rest = raw.partition("://")
    if scheme == "file":
        try:
            split = urlsplit(raw)
        except ValueError as error:
            raise ConfigError(f"{raw!r} is no URI ({error}): write file:///path") from None
        if split.query or split.fragment:
            raise ConfigError(f"{raw!r}: write %3F for a '?' and %23 for a '#' in a file URI")
        if split.netloc not in ("", "localhost"):
            raise ConfigError(f"{raw!r}: a file URI names no host; write file:///path")
        return parse(unquote(split.path))
    if scheme != "s3":
        shown = without_secrets(raw)
        raise ConfigError(f"{shown!r}: {scheme}:// is not supported; use s3://bucket/key or a folder")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ConfigError(f"{raw!r} names no bucket: write s3://bucket/key")
    if "@" in bucket:
        raise ConfigError(
            f"s3://{bucket.rpartition('@')[2]}/{key}: a URI holds no credentials; leave out what is before '@'"
        )
    if key:
        try:
            check_relative(key)
        except ForbiddenLocationError as error:
            raise ForbiddenLocationError(f"{raw!r}: {error}") from None
    return Location(bucket, key)
