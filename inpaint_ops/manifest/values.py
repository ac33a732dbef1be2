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

_TEXTS = frozenset({"image", "mask", "prompt", "negative_prompt", "prompt_2", "negative_prompt_2"})
_CHOICES = frozenset({"quality", "mask_channel", "blend", "match", "grain", "sharpen", "fill", "format"})
_INTEGERS = frozenset({"seed", "steps", "mask_threshold", "mask_dilate", "variants"})
_FLOATS = frozenset({"guidance_scale", "guidance_cutoff", "strength", "mask_blur"})
_FIELDS = _TEXTS | _CHOICES | _INTEGERS | _FLOATS | {"id", "extra", "crop", "mask_invert", "loras", "side_products"}
_YES, _NO = frozenset({"true", "yes", "on", "t", "y", "1"}), frozenset({"false", "no", "off", "f", "n", "0"})
_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE_ID = re.compile(r"(-?\d{1,40})\.0+", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,40},\d{1,40}", re.ASCII)
SPREADSHEET_ERRORS = frozenset(
    # Excel's in English, then as German, French, Spanish, Italian and Portuguese ones write them, then LibreOffice's
    "#N/A #REF! #VALUE! #NAME? #DIV/0! #NUM! #NULL! #SPILL! #CALC! #FIELD! #BLOCKED! #CONNECT! #UNKNOWN! #BUSY! "
    "#PYTHON! #EXTERNAL! #GETTING_DATA #NV #BEZUG! #WERT! #ZAHL! #VALEUR! #NOM? #NOMBRE! #NUL! #N/D #\u00a1REF! "
    "#\u00a1VALOR! #\u00bfNOMBRE? #\u00a1DIV/0! #\u00a1NUM! #RIF! #VALORE! #NOME? #VALOR! #N\u00daM! "
    "Err:502 Err:503 Err:504 Err:508 Err:509 Err:511 Err:519 Err:522 Err:523".split()
)
"""What a cell shows whose formula failed, and what an export keeps of it."""
UNKNOWN_ERROR = "#UNKNOWN!"
"""The one of them that stands for all others that a workbook may hold."""
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
    return {name: value for name, given in row.items() if (value := _value(name, given, load_json)) is not None}


def as_far_as_meant(row: dict[str, Any], load_json: Callable[[str], Any]) -> dict[str, Any]:
    """A row that is rejected, with the values that mean something by value and the others as they were written."""
    return {name: _meant(name, given, load_json) for name, given in row.items()}


def _meant(name: str, given: Any, load_json: Callable[[str], Any]) -> Any:
    try:
        value = _value(name, given, load_json) if name in _FIELDS else given
    except BadRowError:
        return given
    return given if value is None or isinstance(value, Decimal) else value  # JSON has no Decimal


def _value(name: str, given: Any, load_json: Callable[[str], Any]) -> Any:
    if given is None:
        return None
    if name in _FIELDS and isinstance(given, str) and given.strip() in SPREADSHEET_ERRORS:
        raise BadRowError(f"{given.strip()!r} is the error of a spreadsheet: correct the formula of this cell", name)
    if name in _TEXTS or name == "id":
        return as_text(given, is_id=name == "id")
    if name == "extra":
        return _extra(given, load_json)
    if isinstance(given, str):
        given = given.strip()
        if given == "" or given.lower() == "nan":
            return None
    elif isinstance(given, float | Decimal) and math.isnan(given):
        return None
    if name in _INTEGERS or name == "crop":
        return _integer(name, given)
    if name in _FLOATS:
        return _float(name, given)
    if name == "mask_invert":
        return _truth(given)
    if name in _CHOICES:
        return given
    return given


def as_text(given: Any, *, is_id: bool = False) -> Any:
    """A number as its digits (`7` of 7.0), None for NaN; what else there is as it is, but for an id of `7.0`."""
    if isinstance(given, float | Decimal):
        if math.isnan(given):
            return None
        return str(int(given)) if _is_whole(given) else str(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return _digits(given)
    if is_id and isinstance(given, str):
        whole = _WHOLE_ID.fullmatch(given.strip())
        return whole[1] if whole else given
    return given


def _digits(number: int) -> Any:
    return str(number) if number.bit_length() <= 4096 else number  # Python writes no longer ones


def _integer(name: str, given: Any) -> Any:
    if isinstance(given, str):
        if not _NUMBER.fullmatch(given):
            _refuse_decimal_comma(name, given)
            return given
        number = Decimal(given)
        return int(number) if _is_whole(number) else given
    if isinstance(given, float) and math.isfinite(given) and given.is_integer() and abs(given) > _EXACT:
        raise BadRowError(
            f"{given:.0f} is above 2^53 and kept as a float, which loses digits: keep the column as integers or text",
            name,
        )
    return int(given) if isinstance(given, float | Decimal) and _is_whole(given) else given


def _float(name: str, given: Any) -> Any:
    if isinstance(given, str):
        if not _NUMBER.fullmatch(given):
            _refuse_decimal_comma(name, given)
            return given
        return float(given)
    return float(given) if isinstance(given, Decimal) else given


def _refuse_decimal_comma(name: str, given: str) -> None:
    if _DECIMAL_COMMA.fullmatch(given):
        raise BadRowError(
            f"{shortened(given)!r} has a decimal comma: write {shortened(given.replace(',', '.'))!r}", name
        )


def _truth(given: Any) -> Any:
    if isinstance(given, str):
        text = given.lower().removesuffix(".0")
        return True if text in _YES else False if text in _NO else given
    if isinstance(given, int | float | Decimal) and given in (0, 1):
        return bool(given)
    return given


def _is_whole(number: float | Decimal) -> bool:
    if isinstance(number, float):
        return math.isfinite(number) and number.is_integer()
    return number.is_finite() and number.adjusted() < 40 and number == number.to_integral_value()


def _extra(given: Any, load_json: Callable[[str], Any]) -> Any:
    if isinstance(given, float | Decimal) and math.isnan(given):
        return None
    if not isinstance(given, str):
        return given
    if given.strip() == "" or given.strip().lower() == "nan":
        return None
    try:
        return load_json(given)
    except BadRowError as error:
        raise BadRowError(f"not a JSON object ({error})", "extra") from None
