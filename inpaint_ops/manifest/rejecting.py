"""Rejected rows as their author wrote them: what `rejected.jsonl` holds, to be corrected and run again.

A reader of manifests ignores two fields: `_error` says why the row was rejected, and `_text` is the text of a row that
could not be taken apart, or the beginning of one that is too large. What may be a secret in a URL is left out, and
`_error` says so.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from inpaint_ops.errors import one_line
from inpaint_ops.locations import without_secrets
from inpaint_ops.manifest.problems import shortened
from inpaint_ops.manifest.rows import ERROR_FIELD, TEXT_FIELD, TEXTS, RejectedRow, is_valid_id
from inpaint_ops.records import ErrorInfo

KEPT_BYTES = 64 * 2**10
"""Of a rejected row as it was written, at most."""

_KEPT_TO_THE_LETTER = frozenset({*TEXTS, "extra"})
_LEFT_OUT = "; the password or query of its URL is not kept"

_PROMPT_KEPT = 4000
"""Characters of a rejected row's prompt that its record shows."""


def reject(
    number: int, raw: Mapping[str, Any], message: str, field: str | None, whole: Callable[[str], str] = str
) -> RejectedRow:
    """The rejected row: its own id where that is a valid one (else none), its error, and itself as it was written.

    `whole` makes a relative key of an image or a mask a URI: `rejected.jsonl` lies elsewhere than the manifest.
    """
    shown = _without_secrets(raw)
    if any(shown[name] != raw[name] for name in shown if isinstance(raw[name], str)):
        message += _LEFT_OUT
    error = ErrorInfo(
        type="RowError",
        stage="validate",
        message=one_line(f"row {number}: {message}"),
        permanent=True,
        field=None if field is None else one_line(shortened(field)),
    )
    prompt = raw.get("prompt")
    return RejectedRow(
        row=number,
        id=_own_id(raw),
        error=error,
        prompt=prompt[:_PROMPT_KEPT] if isinstance(prompt, str) else "",
        written=as_written(shown, whole),
    )


def _without_secrets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it is kept. Prompts and `extra` stay to the letter, as in the record of an accepted row."""
    return {
        name: without_secrets(value) if isinstance(value, str) and name not in _KEPT_TO_THE_LETTER else value
        for name, value in raw.items()
        if name != ERROR_FIELD
    }


def _own_id(raw: Mapping[str, Any]) -> str:
    name = raw.get("id")
    if not isinstance(name, str) or len(name) > KEPT_BYTES:
        return ""
    name = unicodedata.normalize("NFC", name)
    return name if is_valid_id(name) else ""


def as_written(raw: Mapping[str, Any], whole: Callable[[str], str] = str) -> dict[str, Any]:
    """The row without an earlier error, as JSON can hold it, in at most about `KEPT_BYTES`."""
    row = {name: value for name, value in raw.items() if name != ERROR_FIELD}
    for name in ("image", "mask"):
        if isinstance(row.get(name), str):
            row[name] = whole(row[name])
    try:
        try:
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except ValueError:  # NaN or infinity
            row = json.loads(to_json(row, inf_nan_mode="strings"))
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        if len(text) <= KEPT_BYTES // 4 or len(text.encode()) <= KEPT_BYTES:
            return row
    except (ValueError, RecursionError):
        return {TEXT_FIELD: "(not kept: JSON cannot hold the row)"}
    return {TEXT_FIELD: cut(text)}


def cut(text: str, size: int | None = None) -> str:
    """The beginning of a text, with a note that it is one. `size` is in bytes: of the whole, where `text` is a part."""
    size = len(text.encode()) if size is None else size
    return f"{text[: KEPT_BYTES // 4]}… (cut: the row has {size:,} bytes)"
