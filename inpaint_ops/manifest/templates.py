"""What a job gives to rows that do not say it: prompts, of words with the row's fields in braces, and the format."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inpaint_ops.config import RowFormat
from inpaint_ops.manifest.problems import BadRowError
from inpaint_ops.manifest.rows import TEXTS, Row


@dataclass(frozen=True, slots=True)
class RowDefaults:
    """What a job gives to rows that do not say it themselves: texts, and the format of their images.

    `{color}` stands for the row's field or column of that name, `{extra.style}` for what `extra` holds under it; `{{`
    and `}}` are braces.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    format: RowFormat | None = None

    def fill(self, values: dict[str, Any]) -> dict[str, Any]:
        """The row's values with what it does not say itself. Columns that a template names, and rows do not have, go to
        `extra`.

        Raises BadRowError for a value that is not there, or is no text and no number.
        """
        if self == _NO_DEFAULTS:
            return values
        templates = {name: text for name in TEXTS if (text := getattr(self, name)) is not None}
        if self.format is not None and values.get("format") is None:
            values = values | {"format": self.format}
        if not templates:
            return values
        named = {path[0] for text in templates.values() for path in fields_of(text)}
        own = {name: value for name, value in values.items() if name in named and name not in Row.model_fields}
        kept = {name: value for name, value in values.items() if name not in own}
        if own:
            extra = kept.get("extra")
            kept["extra"] = own | (extra if isinstance(extra, dict) else {})
        for name, text in templates.items():
            if kept.get(name) is None:
                kept[name] = _filled(text, name, values)
        return kept


_NO_DEFAULTS = RowDefaults()


def fields_of(template: str) -> list[tuple[str, ...]]:
    """The fields that `template` names, each as a path. Raises ValueError for what is no template."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}: write {{{{ and }}}} for braces") from None
    found = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        path = tuple(name.split("."))
        if not all(part.isidentifier() for part in path) or form or conversion:
            raise ValueError(f"{{{name}}} names no field: write {{color}} or {{extra.style}}, and {{{{ }}}} for braces")
        if path[0] in TEXTS:
            raise ValueError(f"{{{name}}}: a job's text is for rows that have none")
        if len(path) > 1 and path[0] != "extra":
            raise ValueError(f"{{{name}}}: only extra has parts: write {{{path[0]}}}")
        found.append(path)
    return found


def _filled(template: str, field: str, values: Mapping[str, Any]) -> str:
    pieces = []
    for words, name, _, _ in string.Formatter().parse(template):
        pieces.append(words)
        if name is not None:
            pieces.append(_value(name, field, values))
    return "".join(pieces)


def _value(name: str, field: str, values: Mapping[str, Any]) -> str:
    """What the row has under `name`, as text. A field that stands in `extra` is found without saying so."""
    extra = values.get("extra")
    found: Any = values if name in values or "." in name or not isinstance(extra, dict) else extra
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, str | int | float) or isinstance(found, bool):
        raise BadRowError(
            f"the job's text names {{{name}}}, which this row has not as a text or a number: "
            f"give the row that field, or a {field} of its own",
            field,
        )
    return str(found)
