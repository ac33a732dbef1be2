"""What is wrong with a row's fields, in one line: each with the field, the value, and what to write instead."""

from __future__ import annotations

import difflib
from decimal import Decimal
from functools import cache
from typing import Any

import pydantic

from inpaint_ops.manifest.problems import NAME_SHOWN, shortened
from inpaint_ops.manifest.rows import Row

EXPLAINED = 3
"""Of the things that are wrong with a row; further ones are counted."""
_VALUE_SHOWN = 60
"""Characters of a value that an error shows."""


def explain(error: pydantic.ValidationError, *, more: int) -> tuple[str, str | None]:
    """One line for all that is wrong with a row, unknown fields first: a typo often explains a missing field.

    Beside it the first field at fault, where it is one field's. `more` further unknown fields are counted.
    """
    found: dict[tuple[str, str], Any] = {}  # a value that may be of two types has an error for each
    for item in error.errors(include_url=False, include_context=False):
        field = str(item["loc"][0]) if item["loc"] else ""
        found.setdefault((field, item["type"] if item["type"] == "extra_forbidden" else ""), item)
    items = sorted(found.values(), key=lambda item: item["type"] != "extra_forbidden")
    shown = [_explain_one(item) for item in items[:EXPLAINED]]
    more += max(0, len(items) - EXPLAINED)
    of_all = not items[0]["loc"]
    return "; ".join(shown) + (f"; and {more} more" if more else ""), None if of_all else str(items[0]["loc"][0])


_NEAR = 0.7
"""How alike a field must be to be suggested: `step` and `steps` are 0.9, `color` and `loras` 0.6."""


def _explain_one(item: Any) -> str:
    field, kind, message = str(item["loc"][0]) if item["loc"] else "", item["type"], item["msg"]
    if kind == "extra_forbidden":
        short = len(field) <= NAME_SHOWN  # what is compared is indexed by its letters first
        near = difflib.get_close_matches(field, list(Row.model_fields), n=1, cutoff=_NEAR) if short else []
        hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(Row.model_fields)}"
        return f"unknown field {shortened(field)!r}, {hint}"
    if kind == "missing":
        or_job = ", or give the job one" if field == "prompt" else ""
        return f"{field}: the field is missing: write it into the row{or_job}"
    if why := _why_not(field, kind, item["input"]):
        return f"{field}: {why}"
    return f"{field}: {message}".removeprefix(": ").replace("Value error, ", "")


def _why_not(field: str, kind: str, value: Any) -> str:
    """What pydantic finds wrong with a value, in the words of a manifest; empty for what is none of its own checks."""
    if kind == "string_too_short":
        return "is empty: write the key of an object"
    if kind == "string_too_long":
        return f"is {len(value):,} characters long: keys have at most {_schema(field)['maxLength']:,}"
    name = _as_written(value)
    if kind == "value_error":
        return ""
    if field == "crop":
        return f"{name} is none of {', '.join(_schema(field)['enum'])}, and no integer from 0 to 4096 (pixels)"
    match kind:
        case "literal_error":
            return f"{name} is none of {', '.join(_schema(field)['enum'])}{_meant(value, _schema(field)['enum'])}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{name} is out of range: write {_range(field)}"
        case "int_type" | "int_parsing" | "int_parsing_size" | "int_from_float":
            return f"{name} is not an integer: write {_range(field)}"
        case "float_type" | "float_parsing" | "finite_number":
            return f"{name} is not a number: write {_range(field)}"
        case "bool_type" | "bool_parsing":
            return f"{name} is neither true nor false: write one of them"
        case "string_type":
            return f"{name} is not text: write one text"
        case "dict_type":
            return f'{name} is not an object: write {{"name": value}}'
        case _:
            return ""


def _as_written(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    try:
        text = str(value) if isinstance(value, Decimal) else repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _VALUE_SHOWN else text[:_VALUE_SHOWN] + "…"


def _meant(value: Any, choices: list[str]) -> str:
    near = difflib.get_close_matches(value.lower(), choices, n=1) if isinstance(value, str) and len(value) < 40 else []
    return f": did you mean {near[0]!r}?" if near else ""


def _range(field: str) -> str:
    """`an integer from 0 to 255`, `a number above 0, up to 1`."""
    schema = _schema(field)
    kind = "an integer" if schema["type"] == "integer" else "a number"
    above, least, most = schema.get("exclusiveMinimum"), schema.get("minimum"), schema["maximum"]
    return f"{kind} above {above:g}, up to {most:g}" if least is None else f"{kind} from {least} to {most}"


@cache
def _schema(field: str) -> dict[str, Any]:
    """The JSON schema of a field's values, less what it may be besides (null; a number of pixels)."""
    schema: dict[str, Any] = Row.model_json_schema()["properties"][field]
    first = schema.get("anyOf", [schema])[0]
    return {**first, "enum": first.get("enum", [first["const"]] if "const" in first else [])}
