"""What a row says, by value: one reading for all formats, whatever type a file kept a value in.

A CSV knows text alone, pandas makes floats of integers next to an empty cell, spreadsheets make floats of all numbers.
So `20`, `20.0` and `"20"` are the same number of steps, and an id of `7.0` is `7`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from inpaint_ops.manifest.problems import BadRowError, shortened

_TEXTS = frozenset({"image", "mask", "prompt", "negative_prompt"})
_CHOICES = frozenset({"quality", "mask_channel", "format"})
_INTEGERS = frozenset({"seed", "steps", "mask_threshold", "mask_dilate"})
_FLOATS = frozenset({"guidance_scale", "strength", "mask_blur"})
_FIELDS = _TEXTS | _CHOICES | _INTEGERS | _FLOATS | {"id", "extra", "crop", "mask_invert"}
_YES, _NO = frozenset({"true", "yes", "on", "t", "y", "1"}), frozenset({"false", "no", "off", "f", "n", "0"})
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE_ID = re.compile(r"(-?\d{1,40})\.0+", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,40},\d{1,40}", re.ASCII)
_EXACT = 2**53
"""Up to here a float holds every integer."""

_INDEX_COLUMN = re.compile(r"Unnamed: \d+(\.\d+)*|__index_level_\d+__", re.ASCII)


def is_index_column(name: str) -> bool:
    """Whether pandas gave this name to an index, or to a column that had none."""
    return _INDEX_COLUMN.fullmatch(name) is not None


def by_value(row: dict[str, Any], load_json: Callable[[str], Any]) -> dict[str, Any]:
    """The row with each value in its field's own type, where it means one; what is not given is left out.

    What means nothing is left as it is, for the field's own check to name. `load_json` reads an `extra` that is text.
    Raises BadRowError.
    """
    return {name: value for name, said in row.items() if (value := _value(name, said, load_json)) is not None}


def as_far_as_meant(row: dict[str, Any], load_json: Callable[[str], Any]) -> dict[str, Any]:
    """A row that is rejected, with the values that mean something by value and the others as they were written."""
    return {name: _meant(name, said, load_json) for name, said in row.items()}


def _meant(name: str, said: Any, load_json: Callable[[str], Any]) -> Any:
    try:
        value = _value(name, said, load_json) if name in _FIELDS else said
    except BadRowError:
        return said
    return said if value is None or isinstance(value, Decimal) else value  # JSON has no Decimal


def _value(name: str, said: Any, load_json: Callable[[str], Any]) -> Any:
    if said is None:
        return None
    if name in _TEXTS or name == "id":
        return _text(said, is_id=name == "id")
    if name == "extra":
        return _extra(said, load_json)
    if isinstance(said, str):
        said = said.strip()
        if said == "" or said.lower() == "nan":
            return None
    elif isinstance(said, float | Decimal) and math.isnan(said):
        return None
    if name in _INTEGERS or name == "crop":
        return _integer(name, said)
    if name in _FLOATS:
        return _float(name, said)
    if name == "mask_invert":
        return _truth(said)
    if name in _CHOICES:
        return said
    return said


def _text(said: Any, *, is_id: bool) -> Any:
    if isinstance(said, float | Decimal):
        if math.isnan(said):
            return None
        return str(int(said)) if _is_whole(said) else str(said)
    if isinstance(said, int) and not isinstance(said, bool):
        return _digits(said)
    if is_id and isinstance(said, str):
        whole = _WHOLE_ID.fullmatch(said.strip())
        return whole[1] if whole else said
    return said


def _digits(number: int) -> Any:
    return str(number) if number.bit_length() <= 4096 else number  # Python writes no longer ones


def _integer(name: str, said: Any) -> Any:
    if isinstance(said, str):
        if not _NUMBER.fullmatch(said):
            _refuse_decimal_comma(name, said)
            return said
        said = Decimal(said)
    if isinstance(said, float) and math.isfinite(said) and said.is_integer() and abs(said) > _EXACT:
        raise BadRowError(
            f"{said:.0f} is above 2^53 and kept as a float, which loses digits: keep the column as integers or text",
            name,
        )
    return int(said) if isinstance(said, float | Decimal) and _is_whole(said) else said


def _float(name: str, said: Any) -> Any:
    if isinstance(said, str):
        if not _NUMBER.fullmatch(said):
            _refuse_decimal_comma(name, said)
            return said
        return float(said)
    return float(said) if isinstance(said, Decimal) else said


def _refuse_decimal_comma(name: str, said: str) -> None:
    if _DECIMAL_COMMA.fullmatch(said):
        raise BadRowError(f"{shortened(said)!r} has a decimal comma: write {shortened(said.replace(',', '.'))!r}", name)


def _truth(said: Any) -> Any:
    if isinstance(said, str):
        word = said.lower().removesuffix(".0")
        return True if word in _YES else False if word in _NO else said
    if isinstance(said, int | float | Decimal) and said in (0, 1):
        return bool(said)
    return said


def _is_whole(number: float | Decimal) -> bool:
    if isinstance(number, float):
        return math.isfinite(number) and number.is_integer()
    return number.is_finite() and number.adjusted() < 40 and number == number.to_integral_value()


def _extra(said: Any, load_json: Callable[[str], Any]) -> Any:
    if isinstance(said, float | Decimal) and math.isnan(said):
        return None
    if not isinstance(said, str):
        return said
    if said.strip() == "" or said.strip().lower() == "nan":
        return None
    try:
        return load_json(said)
    except BadRowError as error:
        raise BadRowError(f"not a JSON object ({error})", "extra") from None
