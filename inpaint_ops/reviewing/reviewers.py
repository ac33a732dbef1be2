"""Reviewers' names as names of objects, and back. A name comes from outside: it is never a key as it stands."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

from inpaint_ops.errors import ConfigError

MAX_NAME = 100
"""Characters of a reviewer's name."""

_MAX_KEY = 200
"""Bytes of what it becomes: a file's name has 255 at most, with an ending and what lies beside it."""


def check_reviewer(name: str) -> str:
    """The name in NFC, without spaces around it. Raises ConfigError for one that cannot be a reviewer's."""
    found = unicodedata.normalize("NFC", name).strip()
    if not found or len(found) > MAX_NAME or not found.isprintable() or len(_quoted(found)) > _MAX_KEY:
        raise ConfigError(
            f"reviewer {name[:MAX_NAME]!r}: a reviewer's name has 1 to {MAX_NAME} characters, fewer where they are not "
            "of ASCII, and no line breaks or control characters"
        )
    return found


def key_of(name: str) -> str:
    """What the reviewer's object is called: letters, digits and `@+-_.~` as they are, the rest as `%` and hex digits.

    Raises ConfigError as `check_reviewer` does.
    """
    return _quoted(check_reviewer(name))


def _quoted(name: str) -> str:
    found = quote(name, safe="@+", errors="surrogatepass")
    return f"%2E{found[1:]}" if found.startswith(".") else found


def reviewer_of(key: str) -> str | None:
    """The reviewer whose object is called so; None for a name that `key_of` gives nobody."""
    try:
        name = unquote(key, errors="strict")
        return name if key_of(name) == key else None
    except (ConfigError, UnicodeDecodeError):
        return None
